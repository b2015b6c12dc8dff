"""The format .npy: one cutout, or a stack of them along the first axis, each read by itself."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError, InputError
from stronglens.engine.sources.entries import Banded, Choice, Cutout, Entry, Listed, Many, pick_band
from stronglens.engine.sources.files import HEAD_BYTES, MAX_BYTES
from stronglens.engine.sources.handles import OpenFile, opened
from stronglens.engine.sources.kept import OPEN_FILES, Kept
from stronglens.engine.sources.npy import Header, NpyCutout, header_bytes, parse_header

ENDINGS: tuple[str, ...] = (".npy",)
MANY: Many = "maybe"

MOST_BANDS = 9
"""an axis this short may be that of the bands, and the user has to say so"""


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array that lies in a file as .npy lays it out, its pixels from `start` on."""

    file: OpenFile
    header: Header
    start: int

    def plane(self, number: str) -> NDArray[Any]:
        """Return one step along the first axis; of N×H×W×1, H×W.

        Raises:
            CutoutError: MISSING where there is no such number, SHAPE, MALFORMED, UNREADABLE.
        """
        count, *shape = self.header.shape
        if not is_number(number) or int(number) >= count or len(shape) < 2:
            raise CutoutError(Flag.MISSING, f"no cutout {number} in shape {self.header.shape}")
        size = math.prod(shape) * self.header.dtype.itemsize
        if size > MAX_BYTES or self.header.order == "F":
            raise CutoutError(Flag.SHAPE, f"a plane of {size} bytes, order {self.header.order}")
        data = self.file.read(self.start + int(number) * size, size)
        plane = np.frombuffer(data, self.header.dtype).reshape(shape)
        return plane[..., 0] if plane.ndim == 3 and shape[2] == 1 else plane


def read(entry: Entry, band: str) -> NDArray[Any]:
    """Return the array as stored, read-only; raise CutoutError as `StoredArray.plane`."""
    raw = _stored(entry.path).plane(entry.inside)
    return pick_band(raw, band) if band else raw


def entries(path: str, inside: str, choice: Choice) -> Iterator[Entry] | None:
    """List a stack; see `Format.entries`. A number behind the "#" is looked up when it is read."""
    if inside:
        return iter([Entry(path, inside)])
    count = planes(_stored(path).header, choice, path)
    return None if count is None else (Entry(path, str(k)) for k in range(count))


def cutout(entry: Entry, band: str) -> Cutout:
    """Return a cutout of a stack, or the only one of a file."""
    if entry.inside:
        return Listed(entry, band, read)
    whole = NpyCutout(entry.path, entry.name)
    return Banded(whole, band) if band else whole


def planes(header: Header, choice: Choice, where: str) -> int | None:
    """Return how many cutouts an array holds, one a step along its first axis; None: it is one.

    Raises:
        InputError: its first axis may count cutouts or bands, or the cutouts have bands and
            none is named, or lie scattered.
        CutoutError: SHAPE, where it has no cutout.
    """
    shape, axes = header.shape, len(header.shape)
    if axes not in (2, 3, 4) or 0 in shape:
        raise CutoutError(Flag.SHAPE, f"shape {shape}, expected H×W, N×H×W or N×H×W×C")
    if axes == 2 or (axes == 3 and (choice.band or shape[0] == 1)):
        return None
    if axes == 4 and not choice.band and 1 not in (shape[1], shape[3]):
        raise InputError(f"{where}: {_times(shape)}, cutouts with bands: name one with --band K")
    if axes == 3 and not choice.stacked and _may_have_bands(shape):
        raise InputError(
            f"{where}: {_times(shape)} may be {shape[0]} cutouts or one with bands: give --stack, "
            f"or name the band with --band K (from 0)"
        )
    if header.order == "F":
        raise InputError(
            f"{where}: {_times(shape)} in Fortran order, where each cutout is strewn over the "
            "file: save it again with np.save(name, np.ascontiguousarray(array))"
        )
    return shape[0]


def is_number(text: str) -> bool:
    """Return whether a text is a row number as we write them."""
    return text.isascii() and text.isdecimal() and len(text) < 19


def _may_have_bands(shape: tuple[int, ...]) -> bool:
    """Return whether the first axis, or a last one that is no image's width, may be bands."""
    return shape[0] <= MOST_BANDS or shape[2] <= MOST_BANDS < shape[1]


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


_ARRAYS: Kept[StoredArray] = Kept(OPEN_FILES)


def _stored(path: str) -> StoredArray:
    """Return the array in a .npy file; raise CutoutError if it is not there as its header says."""
    file, key = opened(path)
    return _ARRAYS.get(key, lambda: whole_file(file))


def whole_file(file: OpenFile) -> StoredArray:
    """Return the array that fills a file; raise CutoutError as `npy.parse`, but for its shape."""
    header = parse_header(header_bytes(file.read(0, min(file.size, HEAD_BYTES))))
    expected = header.offset + math.prod(header.shape) * header.dtype.itemsize
    if file.size != expected:
        raise CutoutError(Flag.MALFORMED, f"{file.size} bytes where its header says {expected}")
    return StoredArray(file, header, header.offset)
