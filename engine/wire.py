"""See whether an ONNX graph is whole, before a library reads it that would open other files.

A tensor of a graph may lie in another file, which the graph names: any file that the user may
read, if nobody looks. Graphs in a bundle hold all their tensors themselves.

An ONNX file is a protocol buffer: fields one after another, each a key (its number, and how its
value is stored) and a value. Only the keys on the way to a tensor are read; weights are not.
"""

import os
from typing import BinaryIO

from stronglens.engine.errors import BundleError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_FIELDS = 1_000_000
"""A graph has some dozens for each of its nodes; a file made of keys alone would take hours"""

EXTERNAL_DATA, DATA_LOCATION = 13, 14
"""of a tensor: where else it lies, and (not 0) that it does"""

PATHS: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {},
}
"""message: the numbers of its fields that hold, or lead to, tensors, and what those are"""


def check_whole(file: BinaryIO) -> None:
    """Check that the ONNX graph in `file`, open at any place, keeps no tensor elsewhere.

    Raises:
        BundleError: it does, or the file is not a protocol buffer, or has too many fields.
    """
    budget = MAX_FIELDS
    waiting = [("ModelProto", 0, file.seek(0, os.SEEK_END))]
    while waiting:  # a list, as messages may be nested deeper than Python's calls
        message, place, end = waiting.pop()
        while place < end:
            if (budget := budget - 1) < 0:
                raise BundleError(f"the graph has more than {MAX_FIELDS:,} fields: not one of ours")
            number, kind, place, value = _field(file, place, end)
            if message == "TensorProto" and (
                number == EXTERNAL_DATA or (number == DATA_LOCATION and value != 0)
            ):
                raise BundleError(
                    "the graph keeps weights in another file, which a bundle may not: "
                    "export the model again"
                )
            after = place + (value if kind == BYTES else 0)
            if inner := PATHS[message].get(number):
                if kind != BYTES:
                    raise _malformed(place)
                waiting.append((inner, place, after))
            place = after


def _field(file: BinaryIO, place: int, end: int) -> tuple[int, int, int, int]:
    """Return number, kind, and where the field's value ends, or its bytes begin; and their count.

    Of a varint the value is its number.
    """
    file.seek(place)
    head = file.read(min(20, end - place))  # a key and a varint have at most 10 bytes each
    key, used = _varint(head, 0, place)
    kind = key & 7
    if kind in (VARINT, BYTES):
        value, used = _varint(head, used, place)
        if kind == BYTES and value > end - place - used:
            raise _malformed(place)
    elif kind in (FIXED64, FIXED32):
        value, used = 0, used + (8 if kind == FIXED64 else 4)
    else:
        raise _malformed(place)
    if used > end - place or not 0 < key >> 3 < 1 << 29:  # some readers drop the bits beyond
        raise _malformed(place)
    return key >> 3, kind, place + used, value


def _varint(data: bytes, start: int, place: int) -> tuple[int, int]:
    """Return the number at `start`, 7 bits a byte, the lowest first, and where it ends."""
    value = 0
    for i, byte in enumerate(data[start : start + 10]):
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, start + i + 1
    raise _malformed(place)


def _malformed(place: int) -> BundleError:
    return BundleError(f"the graph is not one: its protocol buffer breaks off at byte {place}")
