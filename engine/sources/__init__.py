"""What there is to classify: files, folders and patterns become cutouts in a fixed order."""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from stronglens.engine.errors import InputError
from stronglens.engine.sources.images import ImageCutout
from stronglens.engine.sources.names import Names, in_order, natural
from stronglens.engine.sources.npy import NpyCutout
from stronglens.engine.sources.walk import Walk

__all__ = ["READERS", "Cutout", "Source", "ending", "natural", "open_source"]


class Cutout(Protocol):
    """One cutout that can be read, as often as wanted and from any thread."""

    @property
    def id(self) -> str:
        """Its path as the user gave it; names that are not UTF-8 hold surrogate escapes."""

    def read(self) -> NDArray[Any]:
        """Return the array as stored; raise CutoutError where that cannot be done."""


READERS: dict[str, Callable[[str], Cutout]] = {
    ".npy": NpyCutout,
    ".png": ImageCutout,
    ".jpg": ImageCutout,
    ".jpeg": ImageCutout,
}
"""The formats, by the ending of a file's name, lower case"""


@dataclass(slots=True)
class Source:
    """The cutouts of a run: their number and order are known before any is read.

    It can be iterated as often as wanted, and keeps no names in memory but those of a short list.
    """

    names: Names
    """the paths, as the user gave them, in order"""
    skipped: int = 0
    """hidden entries of folders, and files of folders and patterns that are no cutouts"""
    duplicates: int = 0
    """paths named more than once; each is kept once, where it came first"""

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Cutout]:
        return (READERS[ending(path)](path) for path in self.names)


def open_source(inputs: Sequence[str | Path]) -> Source:
    """List the cutouts that `inputs` name, without opening any.

    Files come in the order given, those of a folder (searched with all its folders) or a
    pattern in natural order (2 before 10). In folders and patterns, other files and hidden
    ones are skipped. A file named outright need not exist: its row will say so.

    Raises:
        InputError: nothing found, a file of a format that is not read, a folder that cannot be
            listed, or no room for the list.
    """
    walk = Walk(wanted=lambda name: ending(name) in READERS)
    given = [os.fspath(each) for each in inputs]
    names = Names(path for each in given for path in _expand(each, walk))
    if not names:
        raise InputError(f"nothing to read in {', '.join(given)}: {_formats()}")
    once = _once(names) if len(given) > 1 else names  # one input names no path twice
    return Source(once, skipped=walk.skipped, duplicates=len(names) - len(once))


def ending(path: str) -> str:
    """Return the ending of a path that decides its format, lower case, with the dot."""
    stem, dot, last = path.rpartition("/")[2].rpartition(".")
    return f"{dot}{last}".lower() if stem else ""


def _expand(given: str, walk: Walk) -> Iterator[str]:
    """Yield the paths that one input stands for."""
    if "\0" in given:
        raise InputError(f"{given!r}: no file has a NUL in its name")
    if glob.has_magic(given) and not os.path.lexists(given):
        yield from walk.matching(given)
    elif ending(given) in READERS:
        yield given
    elif given and Path(given).is_dir():
        yield from walk.below(given)
    elif given and Path(given).exists():
        raise InputError(f"{given}: no format for the ending {ending(given)!r}: {_formats()}")
    else:
        raise InputError(f"{given}: no such file or folder")


def _once(names: Names) -> Names:
    """Return the names without repetitions; each stays where it came first."""
    keep = bytearray(b"\1") * len(names)
    last = None
    for numbered in in_order(f"{name}\0{i:015d}" for i, name in enumerate(names)):
        name, _, i = numbered.rpartition("\0")
        if name == last:
            keep[int(i)] = 0
        last = name
    return names if all(keep) else Names(compress(names, keep))


def _formats() -> str:
    return f"a cutout's name ends in {', '.join(READERS)}"
