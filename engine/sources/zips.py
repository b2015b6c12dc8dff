"""Read zip archives a member at a time, in constant memory, trusting nothing that they say.

Python's zipfile holds the whole directory in memory, a kilobyte a member; here a member is
known by where its record lies in the directory. Format: PKWARE's APPNOTE.TXT 6.3.10, §4.3-4.5.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError
from stronglens.engine.sources.handles import OpenFile

END = struct.Struct("<4s4H2LH")  # of the archive: §4.3.16
END_64 = struct.Struct("<4sQ2H2L4Q")  # §4.3.14
LOCATOR_64 = struct.Struct("<4sLQL")  # §4.3.15
RECORD = struct.Struct("<4s6H3L5H2L")  # of the directory: §4.3.12
LOCAL = struct.Struct("<4s5H3L2H")  # before a member's bytes: §4.3.7

MAX_COMMENT = 1 << 16
BLOCK = 1 << 18
"""bytes that are decompressed at once"""
STORED, DEFLATED = 0, 8
ENCRYPTED, UTF_8 = 1 << 0, 1 << 11
IN_64 = 0xFFFFFFFF
"""stands for a number that the extra field holds, in 64 bits"""


@dataclass(frozen=True, slots=True)
class Member:
    """What an archive's directory says of a member."""

    name: str
    flags: int
    method: int
    crc: int
    packed: int
    """bytes in the archive"""
    size: int
    """bytes once unpacked"""
    local: int
    """where its local header lies"""
    after: int
    """where the next record of the directory begins"""


def directory(file: OpenFile) -> tuple[int, int]:
    """Return where an archive's directory begins and ends; raise CutoutError if there is none."""
    tail_start = max(0, file.size - END.size - MAX_COMMENT)
    tail = file.read(tail_start, file.size - tail_start)
    place = tail.rfind(b"PK\5\6")
    if place < 0 or len(tail) - place < END.size:
        raise CutoutError(Flag.MALFORMED, "no zip archive, or cut off: its directory is missing")
    *_, size, start, _ = END.unpack_from(tail, place)
    end = tail_start + place
    locator = end - LOCATOR_64.size
    if locator >= 0 and file.read(locator, 4) == b"PK\6\7":
        end = LOCATOR_64.unpack(file.read(locator, LOCATOR_64.size))[2]
        magic, *_, size, start = END_64.unpack(file.read(end, END_64.size))
        if magic != b"PK\6\6":
            raise CutoutError(Flag.MALFORMED, "its zip directory is not where it should be")
    if start + size != end:
        raise CutoutError(Flag.MALFORMED, "bytes missing or left over before its zip directory")
    return start, end


def members(file: OpenFile) -> Iterator[tuple[int, Member]]:
    """Yield where each record of the directory begins, and what it says."""
    at, end = directory(file)
    while at < end:
        found = member(file, at)
        yield at, found
        at = found.after


def member(file: OpenFile, at: int) -> Member:
    """Return what the record at a place of the directory says; raise CutoutError if none is."""
    fixed = RECORD.unpack(file.read(at, RECORD.size))
    magic, _, _, flags, method, _, _, crc, packed, size, n_name, n_extra, n_comment = fixed[:13]
    if magic != b"PK\1\2":
        raise CutoutError(Flag.MALFORMED, "its zip directory is damaged")
    text = file.read(at + RECORD.size, n_name + n_extra)
    size, packed, local = _in_64_bits(text[n_name:], [size, packed, fixed[16]])
    name = text[:n_name].decode("utf-8" if flags & UTF_8 else "cp437", "surrogateescape")
    after = at + RECORD.size + n_name + n_extra + n_comment
    return Member(name, flags, method, crc, packed, size, local, after)


def _in_64_bits(extra: bytes, numbers: list[int]) -> list[int]:
    """Return size, packed size and place: from the extra field where they do not fit in 32 bits."""
    place = 0
    while place + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, place)
        if kind == 1:
            field = extra[place + 4 : place + 4 + length]
            wide = struct.iter_unpack("<Q", field[: len(field) & ~7])
            return [next(wide, (n,))[0] if n == IN_64 else n for n in numbers]
        place += 4 + length
    return numbers


def begins(file: OpenFile, found: Member) -> int:
    """Return where a member's bytes begin.

    Raises:
        CutoutError: MALFORMED, or UNREADABLE where it is encrypted or compressed as numpy's
            archives are not.
    """
    if found.flags & ENCRYPTED or found.method not in (STORED, DEFLATED):
        raise CutoutError(Flag.UNREADABLE, f"encrypted, or zip method {found.method}")
    local = LOCAL.unpack(file.read(found.local, LOCAL.size))
    if local[0] != b"PK\3\4" or (found.method == STORED and found.packed != found.size):
        raise CutoutError(Flag.MALFORMED, "its zip header is damaged")
    return found.local + LOCAL.size + int(local[9]) + int(local[10])


def head(file: OpenFile, found: Member, count: int) -> bytes:
    """Return a member's first bytes, at most `count`; raise CutoutError as `begins`, MALFORMED."""
    data = file.read(begins(file, found), min(found.packed, count))
    if found.method == STORED:
        return data
    return _inflate(zlib.decompressobj(-zlib.MAX_WBITS), data, count)


def unpacked(file: OpenFile, found: Member) -> Iterator[bytes]:
    """Yield a member's bytes, a block at a time; never more than the directory says.

    Raises:
        CutoutError: as `begins`; MALFORMED where there are more or fewer bytes, or others.
    """
    left, crc = found.size, 0
    for block in _blocks(file, found, begins(file, found)):
        left -= len(block)
        crc = zlib.crc32(block, crc)
        if left < 0:
            break
        yield block
    if left or crc != found.crc:
        raise CutoutError(Flag.MALFORMED, "its zip member is not what the directory says")


def _blocks(file: OpenFile, found: Member, start: int) -> Iterator[bytes]:
    """Yield a member's bytes, and one block too many at most where it is longer than it says."""
    engine = zlib.decompressobj(-zlib.MAX_WBITS) if found.method == DEFLATED else None
    for place in range(0, found.packed, BLOCK):
        data = file.read(start + place, min(BLOCK, found.packed - place))
        if engine is None:
            yield data
            continue
        while data:
            yield _inflate(engine, data, BLOCK)
            data = engine.unconsumed_tail


def _inflate(engine: "zlib._Decompress", data: bytes, most: int) -> bytes:
    try:
        return engine.decompress(data, most)
    except zlib.error as err:
        raise CutoutError(Flag.MALFORMED, f"its zip member is damaged: {err}") from err
