"""What there is to classify: files, folders and patterns become cutouts in a fixed order."""

import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from stronglens.engine.errors import InputError
from stronglens.engine.sources.images import ImageCutout
from stronglens.engine.sources.npy import NpyCutout


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

DIGITS = re.compile("([0-9]+)")


@dataclass(slots=True)
class Source:
    """The cutouts of a run: their number and order are known before any is read."""

    ids: list[str] = field(default_factory=list)
    skipped: int = 0
    """files of folders and patterns that are no cutouts"""
    duplicates: int = 0
    """paths named more than once; each is kept once, where it came first"""

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Cutout]:
        return (READERS[ending(path)](path) for path in self.ids)


def open_source(inputs: Sequence[str | Path]) -> Source:
    """List the cutouts that `inputs` name, without opening any.

    Files come in the order given, those of a folder (searched with all its folders) or a
    pattern in natural order (2 before 10). In folders and patterns, other files and hidden
    ones are skipped and counted. A file named outright need not exist: its row will say so.

    Raises:
        InputError: nothing found, a file of a format that is not read, or a folder that
            cannot be listed.
    """
    source = Source()
    for each in (os.fspath(each) for each in inputs):
        source.ids.extend(_expand(each, source))
    named = len(source.ids)
    source.ids = list(dict.fromkeys(source.ids))
    source.duplicates = named - len(source.ids)
    if not source.ids:
        raise InputError(f"nothing to read in {', '.join(map(str, inputs))}: {_formats()}")
    return source


def ending(path: str) -> str:
    """Return the ending of a path that decides its format, lower case, with the dot."""
    stem, dot, last = path.rpartition("/")[2].rpartition(".")
    return f"{dot}{last}".lower() if stem else ""


def natural(name: str) -> tuple[list[str | int], str]:
    """Return a key that sorts names as people number them: 2 before 10, 02 beside 2."""
    parts: list[str | int] = list(DIGITS.split(name))
    parts[1::2] = map(int, parts[1::2])
    return parts, name


def _expand(given: str, source: Source) -> Iterator[str]:
    """Yield the paths that one input stands for."""
    if glob.has_magic(given) and not os.path.lexists(given):
        yield from _matches(given, source)
    elif ending(given) in READERS:
        yield given
    elif given and Path(given).is_dir():
        yield from _walk(given, source, above=())
    elif given and Path(given).exists():
        raise InputError(f"{given}: no format for the ending {ending(given)!r}: {_formats()}")
    else:
        raise InputError(f"{given}: no such file or folder")


def _matches(pattern: str, source: Source) -> Iterator[str]:
    found = glob.glob(pattern, recursive=True)  # noqa: PTH207 - it keeps the path as given
    if not found:
        raise InputError(f"{pattern}: nothing matches this pattern")
    for path in sorted(found, key=lambda path: [natural(part) for part in path.split("/")]):
        if ending(path) in READERS:
            yield path
        elif not Path(path).is_dir():
            source.skipped += 1
        elif "**" not in pattern:  # ** has matched the files of folders already
            yield from _walk(path, source, above=())


def _walk(folder: str, source: Source, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Yield a folder's cutouts; `above` are the folders around it, so that no link makes a loop."""
    try:
        status = Path(folder).stat()
        key = (status.st_dev, status.st_ino)
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: natural(entry.name))
    except OSError as err:
        raise InputError(f"{folder}: {err.strerror}") from err
    for entry in entries if key not in above else ():
        if entry.name.startswith("."):
            source.skipped += 1
        elif ending(entry.name) in READERS:
            yield entry.path
        elif entry.is_dir():
            yield from _walk(entry.path, source, (*above, key))
        else:
            source.skipped += 1


def _formats() -> str:
    return f"a cutout's name ends in {', '.join(READERS)}"
