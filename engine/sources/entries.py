"""One cutout of a listing, as text: what every format lists, and what `Names` keeps."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError, InputError

SEPARATOR = "\0|"
"""parts the fields of a packed entry; a NUL inside a field is followed by ESCAPE instead"""
ESCAPE = "\1"

COMPRESSED = frozenset({".gz", ".fz", ".bz2", ".xz", ".zst"})
"""endings that only follow another one"""

Many = Literal["never", "maybe", "always"]
"""Whether one file of a format can hold many cutouts"""


class Cutout(Protocol):
    """One cutout that can be read, as often as wanted and from any thread."""

    @property
    def id(self) -> str:
        """What its row is called; names that are not UTF-8 hold surrogate escapes."""

    def read(self) -> NDArray[Any]:
        """Return the array as stored; raise CutoutError where that cannot be done."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One cutout of a listing."""

    path: str
    """as the user gave it; surrogate escapes are allowed"""
    inside: str = ""
    """which cutout of the file, in the words of its format; "": the file is one cutout"""
    name: str = ""
    """its id, where that is neither `path` nor `path#inside`"""
    carried: str = ""
    """a JSON list of strings: the values of the catalogue's columns; "" where there is none"""

    @property
    def id(self) -> str:
        """What its row is called."""
        return self.name or (f"{self.path}#{self.inside}" if self.inside else self.path)


@dataclass(frozen=True, slots=True)
class Listed:
    """A cutout that its entry tells all about; nothing is opened before it is read."""

    entry: Entry
    band: str
    """which band to take, "" where it has none"""
    reader: Callable[[Entry, str], NDArray[Any]]
    """what its format reads an entry with, or one band of it"""

    @property
    def id(self) -> str:
        """What its row is called."""
        return self.entry.id

    def read(self) -> NDArray[Any]:
        """Return the array as stored.

        Raises:
            CutoutError: as the reader of its format says, and SHAPE where a listing would have
                asked the user what is meant.
        """
        try:
            return self.reader(self.entry, self.band)
        except InputError as err:
            raise CutoutError(Flag.SHAPE, str(err)) from err


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user says about files that hold more than one image."""

    band: str = ""
    """which band to take: every 3-D array or file of several extensions is then ONE cutout"""
    stacked: bool = False
    """every plane (first axis) and every image extension is a cutout of its own"""


class Format(Protocol):
    """What the module of a format offers; it imports nothing heavy before it is used."""

    ENDINGS: tuple[str, ...]
    """how the names of its files end, lower case"""
    MANY: Many
    """whether a file can hold many cutouts; never: `entries` is not called"""

    def entries(self, path: str, inside: str, choice: Choice) -> Iterator[Entry] | None:
        """List a file in constant memory.

        Args:
            path: the file.
            inside: what the user wrote behind "#" to name a part of it, "" mostly.
            choice: what the user says about files that hold more than one image.

        Returns:
            None where the file is one cutout. A generator may return how many things in the
            file it passed over.

        Raises:
            InputError: a library is missing, or the user has to say what is meant.
            CutoutError: the file cannot be listed; it becomes one rejected row. Also while it
                is iterated.
        """

    def cutout(self, entry: Entry, band: str) -> Cutout:
        """Return a cutout that `entries` listed, or a whole file; nothing is opened yet."""


def pack(entry: Entry) -> str:
    """Return an entry as a string that `Names` can keep; one with a path only is its path."""
    fields = [entry.path, entry.inside, entry.name, entry.carried]
    while not fields[-1] and len(fields) > 1:
        fields.pop()
    return SEPARATOR.join(field.replace("\0", "\0" + ESCAPE) for field in fields)


def unpack(text: str) -> Entry:
    """Return the entry that was packed."""
    if "\0" not in text:
        return Entry(text)
    return Entry(*(field.replace("\0" + ESCAPE, "\0") for field in text.split(SEPARATOR)))


def no_cutout(listing: Iterator[Entry]) -> CutoutError:
    """Return why a whole archive, listed, is no cutout; raise what its listing raises."""
    try:
        count = sum(1 for _ in listing)
    except InputError as err:
        return CutoutError(Flag.SHAPE, str(err))
    return CutoutError(Flag.SHAPE, f"{count} cutouts in it, and none of them is named")


def ending(path: str) -> str:
    """Return the ending of a path that decides its format, lower case, with the dot.

    That of a compressed file is double: .fits.gz.
    """
    stem, _, last = path.rpartition(".")
    if not stem or stem[-1] == "/" or "/" in last:  # none, a hidden name, or that of a folder
        return ""
    found = f".{last.lower()}"
    return ending(stem) + found if found in COMPRESSED else found


def pick_band(raw: NDArray[Any], band: str) -> NDArray[Any]:
    """Return one band of an array with three axes: the first or the last, the shorter, has bands.

    Raises:
        CutoutError: SHAPE, where there is no such band.
    """
    if raw.ndim != 3:
        raise CutoutError(Flag.SHAPE, f"band {band} of shape {raw.shape}, which has no bands")
    axis = 0 if raw.shape[0] <= raw.shape[2] else 2
    count = raw.shape[axis]
    if band not in map(str, range(count)):
        raise CutoutError(Flag.SHAPE, f"no band {band}: there are 0 to {count - 1}")
    return raw[int(band)] if axis == 0 else raw[..., int(band)]


@dataclass(frozen=True, slots=True)
class Banded:
    """One band of a cutout that has several."""

    cutout: Cutout
    band: str

    @property
    def id(self) -> str:
        """That of the cutout."""
        return self.cutout.id

    def read(self) -> NDArray[Any]:
        """Return H×W; raise CutoutError as the cutout does, and SHAPE for want of the band."""
        return pick_band(self.cutout.read(), self.band)
