"""Read cutouts from an array N×H×W in a zarr store on disk (a folder), with zarr-python."""

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError, InputError
from stronglens.engine.sources.arrays import (
    Stored,
    block_rows,
    chunks_of,
    count_of,
    id_texts,
    listed,
    one_band,
    part,
    row_of,
    the_ids,
    the_images,
)
from stronglens.engine.sources.entries import Choice, Cutout, Entry, Listed, Many
from stronglens.engine.sources.files import reasons
from stronglens.engine.sources.kept import BLOCK_BYTES, Kept, identity
from stronglens.engine.sources.zarr_meta import Meta, arrays_in, key_file, meta_of

ENDINGS: tuple[str, ...] = (".zarr",)
MANY: Many = "always"
ID_ROWS = 1 << 12

_ARRAYS: Kept["_Open"] = Kept(1 << 6)
_BLOCKS: Kept[NDArray[Any]] = Kept(BLOCK_BYTES, weigh=lambda block: block.nbytes)


def read(entry: Entry, band: str) -> NDArray[Any]:
    """Return the array as stored, read-only.

    Raises:
        InputError: zarr is missing, or which array or band is meant is open.
        CutoutError: MISSING (also where a chunk is absent), UNREADABLE (also where a codec is
            not to be used), MALFORMED, DTYPE or SHAPE.
    """
    name, row = part(entry.inside)
    folder = _folder(entry.path, name)
    key = identity(key_file(folder))
    return one_band(_pixels(folder, key, row), band)


def cutout(entry: Entry, band: str) -> Cutout:
    """Return a cutout of a listing; nothing is opened yet."""
    return Listed(entry, band, read)


def entries(path: str, inside: str, choice: Choice) -> Iterator[Entry]:
    """List the cutouts of a store, or of one array in it.

    Raises:
        InputError: zarr is missing, or which array or band is meant is open.
        CutoutError: it cannot be listed.
    """
    name, row = part(inside)
    if row is not None:
        return iter([Entry(path, inside)])
    arrays = arrays_in(path)
    stored = {each: meta.stored for each, meta in arrays.items()}
    chosen = name.strip("/") if name else the_images(stored, path)
    if chosen not in stored:
        raise CutoutError(Flag.MISSING, f"no array {chosen}")
    count = count_of(stored[chosen], choice, f"{path}#/{chosen}")
    ids = the_ids(stored, chosen) if count is not None else ""
    _open(arrays[chosen])  # says at once that a library is missing
    return listed(path, name, count, _ids(arrays[ids]) if ids else None)


@dataclass(frozen=True, slots=True)
class _Open:
    """An array that can be read, and how many of its cutouts are decoded at once."""

    meta: Meta
    array: Any
    rows: int


def _ids(meta: Meta) -> Iterator[str]:
    array = _open(meta)
    for start in range(0, meta.stored.shape[0], ID_ROWS):
        yield from id_texts(_decoded(array, slice(start, start + ID_ROWS)))


_DEFAULTS: Kept[str] = Kept(1 << 8)


def _folder(path: str, name: str) -> str:
    """Return the folder of an array, of the one that can hold cutouts where none is named."""
    if name:
        steps = [step for step in name.split("/") if step]
        if ".." in steps:
            raise CutoutError(Flag.MISSING, f"no array {name}")
        return os.path.join(path, *steps)  # noqa: PTH118 - it keeps the path

    def make() -> str:
        stored = {each: meta.stored for each, meta in arrays_in(path).items()}
        return the_images(stored, path)

    with reasons():
        written = os.stat(path).st_mtime_ns  # noqa: PTH116
    return os.path.join(path, _DEFAULTS.get((path, written), make))  # noqa: PTH118


def _pixels(folder: str, key: Any, row: int | None) -> NDArray[Any]:
    found = _ARRAYS.get(key, lambda: _opened(folder))
    stored = found.meta.stored
    if row is None:
        return _whole(found)
    if len(stored.shape) not in (3, 4) or row >= stored.shape[0]:
        raise CutoutError(Flag.MISSING, f"no cutout {row} in shape {stored.shape}")

    def block(first: int, count: int) -> NDArray[Any]:
        return _BLOCKS.get((key, first, count), lambda: _block(found, first, count))

    return row_of(stored, found.rows, row, block)


def _block(found: _Open, first: int, count: int) -> NDArray[Any]:
    stored, chunk = found.meta.stored, found.meta.chunk
    stop = min(first + count, stored.shape[0])
    for row in range(first, stop, chunk[0]):
        for place in chunks_of(stored, chunk, row):
            found.meta.check(place)
    block = _decoded(found.array, slice(first, stop))
    block.flags.writeable = False
    return block


def _whole(found: _Open) -> NDArray[Any]:
    """Return an array that is one cutout, with bands where it has three axes."""
    stored, chunk = found.meta.stored, found.meta.chunk
    if len(stored.shape) not in (2, 3):
        raise CutoutError(Flag.SHAPE, f"shape {stored.shape}, expected H×W")
    block_rows(Stored((1, *stored.shape), stored.dtype), None)
    for row in range(0, stored.shape[0], chunk[0]):
        for place in chunks_of(stored, chunk, row):
            found.meta.check(place)
    return _decoded(found.array, ...)


def _opened(folder: str) -> _Open:
    """Open an array of numbers that are not too many."""
    meta = meta_of(folder)
    if meta is None:
        raise CutoutError(Flag.MISSING, "no array there")
    stored = meta.stored
    if stored.dtype.kind not in "biuf":
        raise CutoutError(Flag.DTYPE, f"{stored.dtype}, expected integers or floats")
    if 0 in stored.shape or len(stored.shape) != len(meta.chunk):
        raise CutoutError(Flag.SHAPE, f"shape {stored.shape} in chunks {meta.chunk}")
    return _Open(meta, _open(meta), block_rows(stored, meta.chunk))


def _open(meta: Meta) -> Any:
    try:
        import zarr
        from zarr.errors import UnstableSpecificationWarning
        from zarr.storage import LocalStore
    except ImportError as err:
        raise InputError("zarr stores need zarr: pip install 'stronglens[formats]'") from err
    store = LocalStore(meta.folder, read_only=True)
    if meta.stored.dtype.kind in "biuf":
        return _through(lambda: zarr.open_array(store, mode="r"))
    with warnings.catch_warnings():  # format 3 has no final word on strings of fixed length
        warnings.simplefilter("ignore", UnstableSpecificationWarning)
        return _through(lambda: zarr.open_array(store, mode="r"))


def _decoded(array: Any, selection: Any) -> NDArray[Any]:
    found: NDArray[Any] = _through(lambda: array[selection])
    return found


def _through(call: Callable[[], Any]) -> Any:
    """Call zarr; what it raises becomes CutoutError: JSON, numpy and each codec have their own."""
    try:
        return call()
    except Exception as err:
        raise CutoutError(Flag.MALFORMED, f"zarr: {err}") from err
