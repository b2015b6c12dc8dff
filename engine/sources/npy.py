"""Read one cutout from a .npy file (NEP 1), trusting nothing that its header says.

The header is compared with the size of the file before any memory is taken for pixels, and
nothing in the file is ever run or unpickled.
"""

import ast
import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError
from stronglens.engine.sources.files import HEAD_BYTES, MAX_BYTES, read_file

MAGIC = b"\x93NUMPY"
MAX_HEADER = 10_000
"""bytes; numpy's own limit"""
REAL_DTYPE = re.compile(r"[<>=|]?[biuf][0-9]{1,2}")
QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
NOISY = re.compile(r"\\|[0-9]['A-Za-z_]|[A-Za-z_]'")
"""what Python's parser would warn of on stderr (1if, '\\d', f'…'), and no header has"""
HEADER_KEYS = {"descr", "fortran_order", "shape"}


@dataclass(frozen=True, slots=True)
class NpyCutout:
    """A cutout in a .npy file of its own."""

    path: str
    name: str = ""
    """its id, where that is not its path"""

    @property
    def id(self) -> str:
        """What its row is called."""
        return self.name or self.path

    def read(self) -> NDArray[Any]:
        """Return the array as stored, read-only.

        Raises:
            CutoutError: MISSING, UNREADABLE, MALFORMED, DTYPE or SHAPE.
        """
        return parse(*read_file(self.path))


@dataclass(frozen=True, slots=True)
class Header:
    """What a .npy header says; `offset` is where the pixels start, in bytes."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: str
    offset: int


def parse(data: bytes, size: int) -> NDArray[Any]:
    """Return the array in `data`, a view of it; `size` is that of the whole file in bytes.

    Raises:
        CutoutError: MALFORMED, DTYPE, or SHAPE (not 2 or 3 axes, an empty axis, too large).
    """
    header = parse_header(header_bytes(data))
    expected = header.offset + math.prod(header.shape) * header.dtype.itemsize
    if size != expected:
        raise CutoutError(Flag.MALFORMED, f"{size} bytes where its header says {expected}")
    if len(header.shape) not in (2, 3) or 0 in header.shape or size > MAX_BYTES:
        raise CutoutError(Flag.SHAPE, f"shape {header.shape}, expected H×W or 1×H×W")
    flat = np.frombuffer(data, header.dtype, offset=header.offset)
    return flat.reshape(header.shape, order="F" if header.order == "F" else "C")


def read_header(path: str) -> tuple[bytes, Header]:
    """Return a file's header, from the magic to the last byte before the pixels, and its meaning.

    Raises:
        CutoutError: as `NpyCutout.read`.
    """
    text = header_bytes(read_file(path, most=HEAD_BYTES)[0])
    return text, parse_header(text)


def header_bytes(data: bytes) -> bytes:
    """Return the header at the start of `data`; raise CutoutError, MALFORMED, if there is none."""
    if len(data) < 10 or not data.startswith(MAGIC):
        raise CutoutError(Flag.MALFORMED, "not a .npy file" if data else "empty file")
    if data[6] not in (1, 2, 3) or data[7] != 0:
        raise CutoutError(Flag.MALFORMED, f".npy version {data[6]}.{data[7]}")
    start = 10 if data[6] == 1 else 12
    length = int.from_bytes(data[8:start], "little")
    if length > MAX_HEADER or start + length > len(data):
        raise CutoutError(Flag.MALFORMED, f"a header of {length} bytes")
    return data[: start + length]


@lru_cache(maxsize=1024)  # the files of a catalogue share a handful of headers
def parse_header(header: bytes) -> Header:
    """Parse a header, from the magic to the last byte before the pixels.

    Raises:
        CutoutError: MALFORMED, or DTYPE where the elements are not real numbers.
    """
    fields = _fields(header)
    order = "F" if fields["fortran_order"] else "C"
    return Header(_dtype(fields["descr"]), _shape(fields["shape"]), order, len(header))


@lru_cache(maxsize=1024)
def count_axes(header: bytes) -> int:
    """Return how many axes an array has, whatever its elements are.

    Raises:
        CutoutError: MALFORMED.
    """
    return len(_shape(_fields(header)["shape"]))


def _fields(header: bytes) -> dict[str, Any]:
    start = 10 if header[6] == 1 else 12
    try:
        text = header[start:].decode("utf-8").strip()
        if "\\" in text or NOISY.search(QUOTED.sub("'", text)):
            raise ValueError("no header has this")
        fields = ast.literal_eval(text)
        well_formed = isinstance(fields, dict) and fields.keys() == HEADER_KEYS
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as err:
        raise CutoutError(Flag.MALFORMED, "its header is not a Python literal") from err
    if not well_formed or not isinstance(fields["fortran_order"], bool):
        raise CutoutError(Flag.MALFORMED, "its header lacks a field or has one too many")
    return cast(dict[str, Any], fields)


def _dtype(descr: object) -> np.dtype[Any]:
    if not isinstance(descr, str) or not REAL_DTYPE.fullmatch(descr):
        raise CutoutError(Flag.DTYPE, f"dtype {descr!r}, expected integers or floats")
    try:
        return np.dtype(descr)
    except TypeError as err:
        raise CutoutError(Flag.DTYPE, f"no such dtype: {descr!r}") from err


def _shape(shape: object) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise CutoutError(Flag.MALFORMED, f"shape {shape!r}")
    return shape
