"""The format .npz: named arrays in a zip archive, each a cutout (2-D) or a stack of them.

An entry's `inside` is "@" and where the array's record lies in the archive's directory, with "#"
and the number of the plane; its id says `file.npz#name` or `file.npz#name#12`.
"""

import math
import os
import re
import shutil
import tempfile
from collections.abc import Generator, Iterator
from typing import Any

from numpy.typing import NDArray

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError
from stronglens.engine.sources import zips
from stronglens.engine.sources.entries import (
    Choice,
    Cutout,
    Entry,
    Listed,
    Many,
    no_cutout,
    pick_band,
)
from stronglens.engine.sources.files import HEAD_BYTES, MAX_BYTES, reasons
from stronglens.engine.sources.handles import OpenFile, opened
from stronglens.engine.sources.index import INDICES, Index
from stronglens.engine.sources.kept import Identity, Kept
from stronglens.engine.sources.npy import Header, count_axes, header_bytes, parse, parse_header
from stronglens.engine.sources.stacks import StoredArray, is_number, planes, whole_file

ENDINGS: tuple[str, ...] = (".npz",)
MANY: Many = "always"

ARRAYS_AT_ONCE = 4
"""stacks that are kept at hand; compressed ones lie unpacked in a temporary file"""
Asked = tuple[int, zips.Member, str]
"""a record of the directory, what it says, and the number of the plane that is meant or "" """
ADDRESS = re.compile("@([0-9]{1,18})(?:#([0-9]{1,18}))?")


def read(entry: Entry, band: str) -> NDArray[Any]:
    """Return the array as stored, read-only.

    Raises:
        CutoutError: MISSING, UNREADABLE, MALFORMED, DTYPE or SHAPE.
    """
    address = ADDRESS.fullmatch(entry.inside)
    if address is None:
        raise _unnamed(entry)
    file, key = opened(entry.path)
    at, number = int(address[1]), address[2]
    if number is None:
        raw = _whole(file, zips.member(file, at))
    else:
        raw = _STACKS.get((key, at), lambda: _stack(file, at)).plane(number)
    return pick_band(raw, band) if band else raw


def _unnamed(entry: Entry) -> CutoutError:
    """Return why there is no cutout where none was listed."""
    path, inside = entry.path, entry.inside
    if inside:
        opened(path)
        return CutoutError(Flag.MISSING, f"no array {inside} in it")
    return no_cutout(entries(path, "", Choice(stacked=True)))


def entries(path: str, inside: str, choice: Choice) -> Generator[Entry, None, int]:
    """List an archive; see `Format.entries`. `inside`: an array's name, or its name#number.

    Arrays of less than two axes and other files in the archive are passed over.
    """
    file, key = opened(path)
    skipped = 0
    for at, member, number in _named(file, key, inside) if inside else _all(file):
        if member.name.endswith(".npy") and _has_axes(file, member):
            name = f"{path}#{member.name.removesuffix('.npy')}"
            yield from _of_array(file, member, Entry(path, f"@{at}", name), number, choice)
        else:
            skipped += 1
    return skipped


def cutout(entry: Entry, band: str) -> Cutout:
    """Return a cutout of an archive."""
    return Listed(entry, band, read)


def _all(file: OpenFile) -> Iterator[Asked]:
    return ((at, member, "") for at, member in zips.members(file))


def _named(file: OpenFile, key: Identity, inside: str) -> Iterator[Asked]:
    """Yield what is meant by an array's name, or by one with the number of a plane.

    Raises:
        CutoutError: MISSING where there is no such array, MALFORMED.
    """
    index = _INDICES.get(key, lambda: Index((each.name, at) for at, each in zips.members(file)))
    array, _, plane = inside.rpartition("#")
    asked = [(f"{inside}.npy", ""), (f"{array}.npy", plane)]
    found = [
        (at, member, number)
        for name, number in (asked if is_number(plane) else asked[:1])
        for at in index.places(name)
        if (member := zips.member(file, at)).name == name
    ]
    if not found:
        raise index.error(inside)
    yield from found


_INDICES: Kept[Index] = Kept(INDICES)


def _of_array(
    file: OpenFile, member: zips.Member, whole: Entry, number: str, choice: Choice
) -> Generator[Entry, None, None]:
    """List one array: `whole`, or its planes, or the one with a number."""
    try:
        count = None if number else planes(_header(file, member), choice, whole.id)
    except CutoutError:  # reading it will say so
        count = None
    if count is None and not number:
        yield whole
    for k in [number] if number else range(count or 0):
        yield Entry(whole.path, f"{whole.inside}#{k}", f"{whole.name}#{k}")


def _has_axes(file: OpenFile, member: zips.Member) -> bool:
    """Return whether an array can be a cutout or several; what cannot be told is one, malformed."""
    try:
        return count_axes(_header_bytes(file, member)) > 1
    except CutoutError:
        return True


def _header(file: OpenFile, member: zips.Member) -> Header:
    header = parse_header(_header_bytes(file, member))
    expected = header.offset + math.prod(header.shape) * header.dtype.itemsize
    if member.size != expected:
        raise CutoutError(Flag.MALFORMED, f"{member.size} bytes where its header says {expected}")
    return header


def _header_bytes(file: OpenFile, member: zips.Member) -> bytes:
    return header_bytes(zips.head(file, member, HEAD_BYTES))


def _whole(file: OpenFile, member: zips.Member) -> NDArray[Any]:
    header = _header(file, member)
    if member.size > MAX_BYTES:
        raise CutoutError(Flag.SHAPE, f"shape {header.shape}: {member.size} bytes")
    return parse(b"".join(zips.unpacked(file, member)), member.size)


_STACKS: Kept[StoredArray] = Kept(ARRAYS_AT_ONCE)


def _stack(file: OpenFile, at: int) -> StoredArray:
    """Return an array whose planes can be read each by itself."""
    member = zips.member(file, at)
    header = _header(file, member)
    if member.method == zips.STORED:
        return StoredArray(file, header, zips.begins(file, member) + header.offset)
    return whole_file(_unpack(file, member))


def _unpack(file: OpenFile, member: zips.Member) -> OpenFile:
    """Return a member, unpacked into a file that has no name and vanishes when it is closed."""
    with reasons(), tempfile.TemporaryFile() as room:
        if member.size > shutil.disk_usage(tempfile.gettempdir()).free // 2:
            raise CutoutError(
                Flag.UNREADABLE,
                f"no room to unpack {member.size} bytes; name a folder that has some with TMPDIR",
            )
        for block in zips.unpacked(file, member):
            room.write(block)
        room.flush()
        return OpenFile(os.dup(room.fileno()))
