"""What the stores of named arrays, HDF5 and zarr, have in common: which array holds the cutouts.

The part of a name behind "#" is `12` (a cutout of the one array that can hold them), `/name`
(an array) or `/name#12`.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError, InputError
from stronglens.engine.sources.entries import Choice, Entry, pick_band
from stronglens.engine.sources.files import MAX_BYTES
from stronglens.engine.sources.kept import LARGEST_BLOCK
from stronglens.engine.sources.stacks import is_number

ID_NAMES = ("id", "ids", "name", "object_id", "objid", "source_id")
"""what an array or column of ids is called, in any case; the first of these counts"""
MAX_ARRAYS = 10_000
"""of one store that are looked at to find the cutouts"""
MAX_CUTOUTS = 1 << 30
"""that one file may say it holds: a list of more would fill a disk, and a header says it freely"""
TOGETHER = 1 << 20
"""bytes of cutouts that are read at once, if a chunk has fewer: each call of a library is slow"""
ID_BYTES = 1 << 16
"""the longest id of fixed length"""


@dataclass(frozen=True, slots=True)
class Stored:
    """An array of a store, known by its header."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def part(inside: str) -> tuple[str, int | None]:
    """Return the array's name, "" for the one that can be it, and the cutout's number."""
    name, _, last = inside.rpartition("#")
    return (name, int(last)) if is_number(last) else (inside, None)


def the_images(arrays: Mapping[str, Stored], where: str) -> str:
    """Return the name of the one array that can hold cutouts.

    It has three axes, or four (with bands); where there is none such, two.

    Raises:
        InputError: there is no such array, or more than one.
    """
    numeric = {name: each for name, each in arrays.items() if each.dtype.kind in "biuf"}
    for axes in ((3, 4), (2,)):
        fit = [name for name, each in numeric.items() if len(each.shape) in axes]
        if len(fit) == 1:
            return fit[0]
        if fit:
            raise InputError(
                f"{where}: {len(fit)} arrays may hold cutouts: {_listed(arrays, fit)}; "
                f"name one, as in {where}#/{fit[0].lstrip('/')}"
            )
    found = _listed(arrays, list(arrays)) or "it is empty"
    raise InputError(f"{where}: no array N×H×W of numbers in it: {found}")


def the_ids(arrays: Mapping[str, Stored], images: str) -> str:
    """Return the name of the array with the ids of the cutouts in `images`; "" where none is.

    It has one axis, as long, holds strings or integers, and lies beside the images or at the top.
    """
    count = arrays[images].shape[0]
    fitting = {
        name: each
        for name, each in arrays.items()
        if each.shape == (count,) and each.dtype.kind in "iuSUOT" and each.dtype.itemsize < ID_BYTES
    }
    for group in (images.rpartition("/")[0], ""):
        beside = {
            name.rpartition("/")[2].lower(): name
            for name in fitting
            if name.rpartition("/")[0] == group
        }
        for wanted in ID_NAMES:
            if wanted in beside:
                return beside[wanted]
    return ""


def count_of(stored: Stored, choice: Choice, where: str) -> int | None:
    """Return how many cutouts an array holds along its first axis; None: it is one cutout.

    Raises:
        InputError: the cutouts have bands, and none is named.
        CutoutError: DTYPE or SHAPE: it holds no cutouts.
    """
    shape, axes = stored.shape, len(stored.shape)
    if stored.dtype.kind not in "biuf":
        raise CutoutError(Flag.DTYPE, f"{where}: {stored.dtype}, expected integers or floats")
    if axes not in (2, 3, 4):
        raise CutoutError(Flag.SHAPE, f"{where}: shape {shape}, expected N×H×W")
    if axes == 2 or (axes == 3 and choice.band and not choice.stacked):
        return None
    if axes == 4 and not choice.band and 1 not in (shape[1], shape[3]):
        raise InputError(f"{where}: {shape}, cutouts with bands: name one with --band K")
    if shape[0] > MAX_CUTOUTS:
        raise CutoutError(Flag.SHAPE, f"{where}: {shape[0]} cutouts")
    return shape[0]


def listed(path: str, inside: str, count: int | None, ids: Iterator[str] | None) -> Iterator[Entry]:
    """Yield the entries of an array: `count` of them, or one that is all of it.

    Args:
        path: the store.
        inside: the array's name as the user wrote it, "" for the one that can be it.
        count: see `count_of`.
        ids: what they are called; None: by their numbers.
    """
    if count is None:
        yield Entry(path, inside)
        return
    prefix = f"{inside}#" if inside else ""
    for k in range(count):
        yield Entry(path, f"{prefix}{k}", next(ids, "") if ids else "")


def id_texts(values: NDArray[Any]) -> list[str]:
    """Return ids, strings or integers, as text; bytes that are no UTF-8 as surrogate escapes."""
    return [
        each.decode("utf-8", "surrogateescape") if isinstance(each, bytes) else str(each)
        for each in values.tolist()
    ]


def block_rows(stored: Stored, chunk: tuple[int, ...] | None) -> int:
    """Return how many cutouts are read and kept together: those that share chunks.

    Raises:
        CutoutError: SHAPE, where a cutout or a chunk is too large.
    """
    row = math.prod(stored.shape[1:]) * stored.dtype.itemsize
    if row > MAX_BYTES:
        raise CutoutError(Flag.SHAPE, f"{row} bytes a cutout")
    if chunk is None:
        return 1
    if (size := math.prod(chunk) * stored.dtype.itemsize) > LARGEST_BLOCK:
        raise CutoutError(Flag.SHAPE, f"chunks of {size} bytes: store it with smaller ones")
    return chunk[0] if chunk[0] * row <= LARGEST_BLOCK else 1


def row_of(
    stored: Stored, rows: int, row: int, block: Callable[[int, int], NDArray[Any]]
) -> NDArray[Any]:
    """Return a cutout from a block of its neighbours, or from its own chunk where that fails.

    So a damaged or absent chunk costs only the cutouts that it holds.

    Args:
        stored: the array.
        rows: how many cutouts share a chunk, see `block_rows`.
        row: which cutout.
        block: returns so many cutouts from the one on that it is given, or what there are.
    """
    size = rows * max(1, math.prod(stored.shape[1:]) * stored.dtype.itemsize)
    many = rows * max(1, TOGETHER // size)
    for length in (many, rows):
        first = row - row % length
        try:
            return block(first, length)[row - first]  # type: ignore[no-any-return]
        except CutoutError:
            if length == rows:
                raise
    raise AssertionError("the last length is that of a chunk")


def chunks_of(stored: Stored, chunk: tuple[int, ...], row: int) -> Iterator[tuple[int, ...]]:
    """Yield where the chunks begin that hold a cutout, in elements.

    Raises:
        CutoutError: SHAPE, where there are too many.
    """
    starts = [range(0, n, c) for n, c in zip(stored.shape[1:], chunk[1:], strict=True)]
    if math.prod(map(len, starts)) > 1 << 14:
        raise CutoutError(Flag.SHAPE, f"more chunks in a cutout than are looked up: {chunk}")
    first = row - row % chunk[0]
    places = np.ndindex(*map(len, starts))
    return ((first, *(r[i] for r, i in zip(starts, place, strict=True))) for place in places)


def one_band(raw: NDArray[Any], band: str) -> NDArray[Any]:
    """Return the band asked for; without one, H×W of H×W×1, and all else as it is."""
    if band:
        return pick_band(raw, band)
    return raw[..., 0] if raw.ndim == 3 and raw.shape[2] == 1 else raw


def _listed(arrays: Mapping[str, Stored], names: list[str]) -> str:
    words = [
        f"{name} ({'×'.join(map(str, arrays[name].shape))} {arrays[name].dtype})"
        for name in names[:20]
    ]
    return ", ".join(words) + (", …" if len(names) > 20 else "")
