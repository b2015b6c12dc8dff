"""Walk through tar archives by their headers, in constant memory, trusting nothing they say.

Python's tarfile keeps every member in memory, and ends in silence where an archive is damaged.
Format: POSIX.1-2017, pax (ustar headers, extended by pax ones), with GNU tar's long names.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError
from stronglens.engine.sources.handles import OpenFile

BLOCK = 512
MAX_EXTENDED = 1 << 16
"""bytes of a long name or of a pax header"""

REGULAR = (b"0", b"\0", b"7")
SPARSE = b"S"
WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")
"""links, devices, folders and pipes, whatever size they say"""
LONG_NAME, LONG_LINK = b"L", b"K"
PAX = (b"x", b"X")
PAX_FOR_ALL = b"g"
OCTAL = re.compile(b"[0-7]+")
PAX_RECORD = re.compile(rb"([0-9]{1,8}) ([^=]+)=")


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an archive."""

    name: str
    place: int
    """where the first of its headers begins"""
    start: int
    """where its bytes begin"""
    size: int
    regular: bool
    """whether it is a file"""
    sparse: bool
    """whether its bytes lack the holes of the file"""


def members(file: OpenFile, place: int = 0) -> Iterator[Member]:
    """Yield the members of an archive, up to the block of zeros that ends it.

    Args:
        place: where a member begins; those before it are left out.

    Raises:
        CutoutError: MALFORMED, after the members before the damage; the last of them may say
            that it has more bytes than there are.
    """
    first, said = place, dict[str, str]()
    while place + BLOCK <= file.size:
        block = file.read(place, BLOCK)
        if not block.strip(b"\0"):
            return
        kind, size = _checked(block)
        start = place + BLOCK
        if kind in (LONG_NAME, LONG_LINK, PAX_FOR_ALL, *PAX):
            said |= _extended(kind, file, start, size)
        else:
            start += _sparse_map(file, start, block) if kind == SPARSE else 0
            size = 0 if kind in WITHOUT_DATA else _number(said.get("size", str(size)).encode(), 10)
            name = said.get("path", _name(block))
            sparse = kind == SPARSE or any(key.startswith("GNU.sparse") for key in said)
            name = said.get("GNU.sparse.name", name)
            yield Member(name, first, start, size, kind in REGULAR or sparse, sparse)
            first, said = start + size + -size % BLOCK, {}
        place = start + size + -size % BLOCK
    raise CutoutError(Flag.MALFORMED, "cut off: the end of the archive is missing")


def _checked(block: bytes) -> tuple[bytes, int]:
    """Return a member's kind and size; raise CutoutError, MALFORMED, if this is no header."""
    total = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if _number(block[148:156], 8) != total:
        raise CutoutError(Flag.MALFORMED, "no tar archive, or damaged: a header is wrong")
    return block[156:157], _number(block[124:136], 8)


def _number(field: bytes, base: int) -> int:
    """Return a number as headers write it: digits, or in binary where the first bit is set."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b"\0 ") or b"0"
    if len(digits) > 20 or not digits.isdigit() or (base == 8 and not OCTAL.fullmatch(digits)):
        raise CutoutError(Flag.MALFORMED, "damaged: a number in a header is none")
    return int(digits, base)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _name(block: bytes) -> str:
    name, prefix = _text(block[:100]), _text(block[345:500])
    return f"{prefix}/{name}" if prefix and block[257:263] == b"ustar\0" else name


def _sparse_map(file: OpenFile, start: int, block: bytes) -> int:
    """Return the bytes of the map of holes that lies between a header and its data."""
    more, count = block[482], 0
    while more:
        more = file.read(start + count, BLOCK)[504]
        count += BLOCK
    return count


def _extended(kind: bytes, file: OpenFile, start: int, size: int) -> dict[str, str]:
    """Return what an extended header says of the next member."""
    if size > MAX_EXTENDED:
        raise CutoutError(Flag.MALFORMED, f"damaged: a name of {size} bytes")
    data = file.read(start, size)
    if kind in PAX:
        return dict(_pax(data))
    return {"path": _text(data)} if kind == LONG_NAME else {}


def _pax(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield the keys and values of a pax header, whose records lead with their length."""
    place = 0
    while place < len(data) and data[place]:
        found = PAX_RECORD.match(data, place)
        end = place + int(found[1]) if found else 0
        if not found or not found.end() <= end - 1 < len(data) or data[end - 1 : end] != b"\n":
            raise CutoutError(Flag.MALFORMED, "damaged: a pax header")
        value = data[found.end() : end - 1]
        yield _text(found[2]), value.decode("utf-8", "surrogateescape")
        place = end
