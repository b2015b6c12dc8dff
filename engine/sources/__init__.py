"""What there is to classify: all that the inputs name becomes cutouts, in a fixed order."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import compress, count
from pathlib import Path
from typing import BinaryIO

from stronglens.engine.batches import Column
from stronglens.engine.errors import InputError
from stronglens.engine.sources.entries import SEPARATOR, Choice, Cutout, Entry, ending, unpack
from stronglens.engine.sources.formats import QUICKLY, SINGLE_ENDINGS, cutout_of
from stronglens.engine.sources.inputs import Inputs, formats
from stronglens.engine.sources.names import Names, in_order, natural

__all__ = [
    "SINGLE_ENDINGS",
    "Choice",
    "Cutout",
    "Entry",
    "Source",
    "carried_of",
    "ending",
    "natural",
    "open_files",
    "open_source",
]


@dataclass
class Source:
    """The cutouts of a run: their number and order are known before any is read.

    It can be iterated as often as wanted, and keeps no names in memory but those of a short list.
    """

    names: Names
    """the packed entries, in order"""
    columns: list[Column] = field(default_factory=list)
    """of the catalogue, which are carried through to the output"""
    skipped: int = 0
    """hidden entries of folders, and what is no cutout in folders, patterns and archives"""
    duplicates: int = 0
    """cutouts named again: each is kept once, where it came first, but as rows of a catalogue"""
    choice: Choice = field(default_factory=Choice)
    """what the user says about files with more than one image"""

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Cutout]:
        return self.cutouts()

    @property
    def digest(self) -> str:
        """The sha256 of the packed entries: which cutouts there are, and in which order."""
        return self.names.digest

    @cached_property
    def longest(self) -> dict[str, int]:
        """The longest id, as "id", and value of each carried column: bytes in UTF-8."""
        found = dict.fromkeys(["id", *(column.name for column in self.columns)], 0)
        for entry in self.entries():
            found["id"] = max(found["id"], _bytes(entry.id))
            for column, value in zip(self.columns, carried_of(entry), strict=False):
                found[column.name] = max(found[column.name], _bytes(value))
        return found

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[Entry]:
        """Yield the entries from number `start` on, and before `stop`."""
        return map(unpack, self.names.between(start, stop))

    def cutouts(self, start: int = 0, stop: int | None = None) -> Iterator[Cutout]:
        """Yield the cutouts from number `start` on, and before `stop`; none is opened."""
        quick = {} if self.choice.band else QUICKLY
        for packed in self.names.between(start, stop):
            quickly = quick.get(ending(packed))
            if quickly and "\0" not in packed:
                yield quickly(packed)
            else:
                yield cutout_of(unpack(packed), self.choice)


def open_source(
    inputs: Sequence[str | Path],
    *,
    band: str = "",
    stacked: bool = False,
    null_separated: bool = False,
    stdin: BinaryIO | None = None,
) -> Source:
    """List the cutouts that `inputs` name; only files that hold several are opened.

    An input is a file, a folder (searched with all its folders), a pattern, a part of a file
    (`stack.npy#12`), a list of names (`@list.txt`, or `-` for standard input), or a catalogue
    with a column of paths. They come in the order given, files of a folder or a pattern in
    natural order (2 before 10). In folders and patterns, other files and hidden ones are
    skipped. A file named outright, in a list or by a catalogue need not exist: its row will
    say so.

    Args:
        inputs: at least one.
        band: which band to take of cutouts that have several; see `Choice`.
        stacked: whether every plane and image of a file is a cutout of its own.
        null_separated: whether names in lists are parted by NULs, not newlines.
        stdin: where `-` reads; None: the process's own.

    Raises:
        InputError: nothing found, a file of a format that is not read, a folder or a list that
            cannot be read, files of which the user has to say what they hold, a library that
            is missing, or no room for the list.
    """
    given = [os.fspath(each) for each in inputs]
    work = Inputs(Choice(band, stacked), null_separated=null_separated, stdin=stdin)
    names = Names(work.expand(given))
    if not names:
        raise InputError(f"nothing to read in {', '.join(given[:3])}: {formats()}")
    names, repeats = _once(names) if work.may_repeat else (names, 0)
    return Source(names, work.columns or [], work.walk.skipped, repeats, work.choice)


def open_files(paths: Sequence[str | Path]) -> Source:
    """Take each path for one cutout, in the order given; none is opened, and none left out."""
    return Source(Names(os.fspath(path) for path in paths))


def carried_of(entry: Entry) -> list[str]:
    """Return the values of the catalogue's columns that an entry carries."""
    return list(json.loads(entry.carried)) if entry.carried else []


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _once(names: Names) -> tuple[Names, int]:
    """Return the names without repetitions, and how often an id came again.

    Each stays where it came first; the rows of a catalogue all stay, and so do cutouts that
    differ but for their id.
    """
    keep, repeats = bytearray(b"\1") * len(names), 0
    last_id = last = None
    for key in in_order(map(_key, names, count())):
        cutout, _, number = key.rpartition(SEPARATOR)
        name = cutout.partition(SEPARATOR)[0]
        if name == last_id:
            repeats += 1
            if cutout == last and not number.endswith(ROW):
                keep[int(number)] = 0
        last_id, last = name, cutout
    return (names if all(keep) else Names(compress(names, keep))), repeats


ROW = "+"
"""marks a row of a catalogue"""


def _key(packed: str, number: int) -> str:
    """Return a string that sorts by id, then by the cutout that is meant, then by number."""
    if "\0" not in packed:
        return f"{packed}\0|\0|{number:015d}"
    entry = unpack(packed)
    what = "" if entry.id == entry.path else f"{entry.path}#{entry.inside}"
    name, what = (text.replace("\0", "\0\1") for text in (entry.id, what))
    return f"{name}{SEPARATOR}{what}{SEPARATOR}{number:015d}{ROW if entry.carried else ''}"
