"""The format .tar: members named .npy, .png, .fits … each a cutout, as in a webdataset's shard.

An entry's `inside` says where the member's bytes begin and how many they are; its id says
`file.tar#member`. To list them, only headers are read.
"""

import re
from collections.abc import Callable, Generator, Iterator
from typing import Any

from numpy.typing import NDArray

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError, InputError
from stronglens.engine.sources import fits, images, npy
from stronglens.engine.sources.entries import (
    Choice,
    Cutout,
    Entry,
    Listed,
    Many,
    ending,
    no_cutout,
    pick_band,
)
from stronglens.engine.sources.files import MAX_BYTES
from stronglens.engine.sources.handles import OpenFile, opened
from stronglens.engine.sources.index import INDICES, Index
from stronglens.engine.sources.kept import Identity, Kept
from stronglens.engine.sources.tars import Member, members

PACKED: tuple[str, ...] = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
ENDINGS: tuple[str, ...] = (".tar", *PACKED)
MANY: Many = "always"

MAGICS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
"""what compressed files begin with"""
ADDRESS = re.compile(r"([0-9]{1,18})([+~])([0-9]{1,18})(\.[a-z.]+)")
"""where a member begins, its size, and its ending; ~ where it is sparse"""


def _decode_npy(data: bytes, band: str) -> NDArray[Any]:
    raw = npy.parse(data, len(data))
    return pick_band(raw, band) if band else raw


DECODERS: dict[str, Callable[[bytes, str], NDArray[Any]]] = {
    ".npy": _decode_npy,
    **dict.fromkeys(images.ENDINGS, images.decode),
    **dict.fromkeys(fits.ENDINGS, fits.decode),
}
"""what reads a member, by the ending of its name"""


def read(entry: Entry, band: str) -> NDArray[Any]:
    """Return the array as stored.

    Raises:
        CutoutError: MISSING, UNREADABLE, MALFORMED, DTYPE or SHAPE.
    """
    address = ADDRESS.fullmatch(entry.inside)
    decode = DECODERS.get(address[4]) if address else None
    if address is None or decode is None:
        raise _unnamed(entry)
    file, _ = opened(entry.path)
    start, size = int(address[1]), int(address[3])
    if address[2] == "~":
        raise CutoutError(Flag.UNREADABLE, "a sparse member: pack it without --sparse")
    if size > MAX_BYTES:
        raise CutoutError(Flag.SHAPE, f"{size} bytes")
    return decode(file.read(start, size), band)


def _unnamed(entry: Entry) -> CutoutError:
    """Return why there is no cutout where none was listed."""
    path, inside = entry.path, entry.inside
    if inside:
        opened(path)
        return CutoutError(Flag.MISSING, f"no member {inside} in it")
    return no_cutout(entries(path, "", Choice(stacked=True)))


def entries(path: str, inside: str, choice: Choice) -> Generator[Entry, None, int]:
    """List an archive; see `Format.entries`. `inside`: a member's name.

    Links, folders, devices, hidden members and those of other endings are passed over.

    Raises:
        InputError: the archive is compressed.
        CutoutError: MISSING, UNREADABLE or MALFORMED.
    """
    file, key = opened(path)
    if ending(path) in PACKED or file.read(0, min(6, file.size)).startswith(MAGICS):
        raise InputError(
            f"{path}: a compressed archive would be unpacked from its beginning for each cutout: "
            "decompress it first, with gunzip or what belongs to its ending"
        )
    skipped = 0
    for member in _named(file, key, inside) if inside else members(file):
        if _is_cutout(member):
            yield Entry(path, _address(member), f"{path}#{member.name}")
        else:
            skipped += 1
    return skipped


def _named(file: OpenFile, key: Identity, name: str) -> Iterator[Member]:
    """Yield the members of a name; raise CutoutError, MISSING or as `members`, if there is none."""
    index = _INDICES.get(key, lambda: Index((each.name, each.place) for each in members(file)))
    firsts = (next(members(file, place), None) for place in index.places(name))
    found = [member for member in firsts if member and member.name == name]
    if not found:
        raise index.error(name)
    yield from found


_INDICES: Kept[Index] = Kept(INDICES)


def cutout(entry: Entry, band: str) -> Cutout:
    """Return a cutout of an archive."""
    return Listed(entry, band, read)


def _address(member: Member) -> str:
    return f"{member.start}{'~' if member.sparse else '+'}{member.size}{ending(member.name)}"


def _is_cutout(member: Member) -> bool:
    base = member.name.rpartition("/")[2]
    return member.regular and not base.startswith(".") and ending(base) in DECODERS
