"""The formats that are read, by the ending of a file's name; and which part of a file is meant."""

import os
from collections.abc import Callable
from typing import NoReturn

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError
from stronglens.engine.sources import fits, hdf5, images, npz, parquet, stacks, tar, zarrs
from stronglens.engine.sources.entries import Choice, Cutout, Entry, Format, Listed, ending
from stronglens.engine.sources.images import ImageCutout
from stronglens.engine.sources.npy import NpyCutout

_ALL: tuple[Format, ...] = (stacks, images, fits, npz, hdf5, zarrs, parquet, tar)

FORMATS: dict[str, Format] = {each: form for form in _ALL for each in form.ENDINGS}
"""by ending, lower case"""

SINGLE_ENDINGS: tuple[str, ...] = tuple(
    each for each, form in FORMATS.items() if form.MANY != "always"
)
"""of files that can be one cutout each"""

QUICKLY: dict[str, Callable[[str], Cutout]] = {
    **dict.fromkeys(stacks.ENDINGS, NpyCutout),
    **dict.fromkeys(images.ENDINGS, ImageCutout),
}
"""what makes a cutout of a path alone"""


def address(given: str) -> tuple[str, str]:
    """Return the file that an input means, and what stands behind its "#"; "" where nothing does.

    A file of that very name is meant before a part of another; so is the longest file's name,
    where several would do.
    """
    if "#" not in given or os.path.lexists(given):
        return given, ""
    places = [i for i, letter in enumerate(given) if letter == "#"]
    cuts = [(given[:i], given[i + 1 :]) for i in places if ending(given[:i]) in FORMATS]
    there = [cut for cut in cuts if os.path.lexists(cut[0])]
    return there[-1] if there else cuts[0] if cuts else (given, "")


def cutout_of(entry: Entry, choice: Choice) -> Cutout:
    """Return the cutout that an entry means; nothing is opened."""
    form = FORMATS.get(ending(entry.path))
    if form is None or (form.MANY == "never" and entry.inside):
        return Listed(entry, "", _unread)
    return form.cutout(entry, choice.band)


def _unread(entry: Entry, band: str) -> NoReturn:
    """Raise CutoutError, MISSING or UNREADABLE."""
    if not os.path.lexists(entry.path):
        raise CutoutError(Flag.MISSING, "no such file")
    raise CutoutError(Flag.UNREADABLE, "no format that is read, or no part of a file")
