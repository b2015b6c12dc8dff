"""Read cutouts from a dataset N×H×W in an HDF5 file, with h5py.

h5py lets one thread at a time into the HDF5 library; so does the lock of the open files here,
which keeps a file from being closed while it is read. What is decompressed is kept for the next
cutout, and serving that needs no lock of h5py. Nothing outside the file is ever opened: no
external link, no external storage, no virtual dataset.

The library itself trusts a file's inner structure: of randomly damaged files, HDF5 2.0 was seen
to read strings of variable length (ids) for ever. What can be checked from here is checked; a
file from a stranger is better converted in a process of its own first.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError, InputError
from stronglens.engine.sources.arrays import (
    MAX_ARRAYS,
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
from stronglens.engine.sources.chunks import most_stored
from stronglens.engine.sources.entries import Choice, Cutout, Entry, Listed, Many
from stronglens.engine.sources.kept import BLOCK_BYTES, OPEN_FILES, Identity, Kept, identity

if TYPE_CHECKING:
    import h5py

ENDINGS: tuple[str, ...] = (".h5", ".hdf5", ".hdf")
MANY: Many = "always"
MAX_LINKS = 16
"""soft links that are followed to find one dataset"""
ID_ROWS = 1 << 12

_FILES: Kept[Any] = Kept(OPEN_FILES, drop=lambda file: file.close())
_PLANS: Kept["_Plan"] = Kept(1 << 8)
_BLOCKS: Kept[NDArray[Any]] = Kept(BLOCK_BYTES, weigh=lambda block: block.nbytes)


@dataclass(frozen=True, slots=True)
class _Plan:
    """A dataset that can be read: its path in the file, what it holds, and its chunks."""

    name: str
    stored: Stored
    chunks: tuple[int, ...] | None


def read(entry: Entry, band: str) -> NDArray[Any]:
    """Return the array as stored, read-only.

    Raises:
        InputError: h5py is missing, or which dataset or band is meant is open.
        CutoutError: MISSING (also where its pixels were never written), UNREADABLE (also
            where a filter is not installed), MALFORMED, DTYPE or SHAPE.
    """
    return one_band(_pixels(entry), band)


def cutout(entry: Entry, band: str) -> Cutout:
    """Return a cutout of a listing; nothing is opened yet."""
    return Listed(entry, band, read)


def entries(path: str, inside: str, choice: Choice) -> Iterator[Entry]:
    """List the cutouts of a file, or of one dataset in it.

    Raises:
        InputError: h5py is missing, or which dataset or band is meant is open.
        CutoutError: it cannot be listed.
    """
    name, row = part(inside)
    if row is not None:
        return iter([Entry(path, inside)])
    key = identity(path)
    with _FILES.lock, _mapped():
        file = _opened(key)
        arrays = _datasets(file)
        chosen = name.strip("/") or the_images(arrays, path)
        dataset = _dataset(file, chosen)
        stored = Stored(dataset.shape, dataset.dtype)
        count = count_of(stored, choice, f"{path}#/{chosen}")
        ids = the_ids(arrays, chosen) if count is not None and chosen in arrays else ""
    return listed(path, name, count, _ids(key, ids, count or 0) if ids else None)


def _ids(key: Identity, name: str, count: int) -> Iterator[str]:
    for start in range(0, count, ID_ROWS):
        with _FILES.lock, _mapped():
            values = _dataset(_opened(key), name)[start : start + ID_ROWS]
        yield from id_texts(values)


def _pixels(entry: Entry) -> NDArray[Any]:
    """Return a step along the first axis of a dataset, or all of it."""
    name, row = part(entry.inside)
    key = identity(entry.path)
    plan = _PLANS.get((key, name), lambda: _plan(key, name))
    if row is None:
        return _whole(key, plan)
    if len(plan.stored.shape) not in (3, 4) or row >= plan.stored.shape[0]:
        raise CutoutError(Flag.MISSING, f"no cutout {row} in shape {plan.stored.shape}")

    def block(first: int, count: int) -> NDArray[Any]:
        place = (key, plan.name, first, count)
        return _BLOCKS.get(place, lambda: _block(key, plan, first, count))

    return row_of(plan.stored, block_rows(plan.stored, plan.chunks), row, block)


def _plan(key: Identity, name: str) -> _Plan:
    """Find a dataset, and see that it can be read; the lock is held as short as that takes."""
    with _FILES.lock, _mapped():
        file = _opened(key)
        found = name.strip("/") or the_images(_datasets(file), key[0])
        dataset = _dataset(file, found)
        return _Plan(found, _checked(dataset), dataset.chunks)


def _block(key: Identity, plan: _Plan, first: int, count: int) -> NDArray[Any]:
    stop = min(first + count, plan.stored.shape[0])
    with _FILES.lock, _mapped():
        dataset = _dataset(_opened(key), plan.name)
        for row in range(first, stop, plan.chunks[0] if plan.chunks else count):
            _refuse_absent(dataset, plan, row)
        block: NDArray[Any] = dataset[first:stop]
    block.flags.writeable = False
    return block


def _whole(key: Identity, plan: _Plan) -> NDArray[Any]:
    """Return a dataset that is one cutout, with bands where it has three axes."""
    shape = plan.stored.shape
    if len(shape) not in (2, 3):
        raise CutoutError(Flag.SHAPE, f"shape {shape}, expected H×W")
    block_rows(Stored((1, *shape), plan.stored.dtype), None)
    with _FILES.lock, _mapped():
        dataset = _dataset(_opened(key), plan.name)
        for row in range(0, shape[0], plan.chunks[0] if plan.chunks else shape[0]):
            _refuse_absent(dataset, plan, row)
        pixels: NDArray[Any] = dataset[()]
    return pixels


def _checked(dataset: "h5py.Dataset") -> Stored:
    """Return what a dataset's header says; raise CutoutError where it cannot be read."""
    import h5py

    stored = Stored(dataset.shape or (), dataset.dtype)
    if stored.dtype.kind not in "biuf":
        raise CutoutError(Flag.DTYPE, f"{stored.dtype}, expected integers or floats")
    if 0 in stored.shape:
        raise CutoutError(Flag.SHAPE, f"shape {stored.shape}")
    plan = dataset.id.get_create_plist()
    if dataset.is_virtual or plan.get_external_count():
        raise CutoutError(Flag.UNREADABLE, "its pixels lie in other files, which are not opened")
    for i in range(plan.get_nfilters()):
        code, _, _, name = plan.get_filter(i)
        if not h5py.h5z.filter_avail(code):
            raise CutoutError(
                Flag.UNREADABLE,
                f"needs the HDF5 filter {code} ({name.decode('ascii', 'replace')}), which is not "
                "installed: pip install hdf5plugin has the usual ones",
            )
    return stored


def _refuse_absent(dataset: "h5py.Dataset", plan: _Plan, row: int) -> None:
    """Raise CutoutError where chunks were never written, which HDF5 would read as fill values."""
    if plan.chunks is None:
        compact = dataset.id.get_create_plist().get_layout() == 0
        if not compact and dataset.id.get_offset() is None:
            raise CutoutError(Flag.MISSING, "its pixels were never written")
        return
    size = math.prod(plan.chunks) * plan.stored.dtype.itemsize
    for place in chunks_of(plan.stored, plan.chunks, row):
        info = dataset.id.get_chunk_info_by_coord(place)
        if info.byte_offset is None:
            raise CutoutError(Flag.MISSING, f"the chunk at {place} was never written")
        if info.size > most_stored(size):
            raise CutoutError(Flag.MALFORMED, f"the chunk at {place} has {info.size} bytes")


def _opened(key: Identity) -> "h5py.File":
    """Return an open file; hold the lock of `_FILES` while it is used."""
    try:
        import h5py
    except ImportError as err:
        raise InputError("HDF5 needs h5py: pip install 'stronglens[formats]'") from err
    with suppress(ImportError):
        import hdf5plugin  # noqa: F401 - registers the filters that it brings

    def make() -> Any:
        return h5py.File(os.fsencode(key[0]), "r", locking="best-effort")

    return _FILES.get(key, make)


def _datasets(file: "h5py.File") -> dict[str, Stored]:
    """Return the datasets of a file by their paths; no links out of it or within it count."""
    import h5py

    found: dict[str, Stored] = {}

    def visit(name: str, each: object) -> bool | None:
        if isinstance(each, h5py.Dataset) and each.shape is not None:
            with suppress(TypeError):  # of a type that numpy lacks
                if each.dtype.kind != "O" or h5py.check_string_dtype(each.dtype):
                    found[name] = Stored(each.shape, each.dtype)
        return True if len(found) > MAX_ARRAYS else None

    file.visititems(visit)
    return found


def _dataset(file: "h5py.File", name: str) -> "h5py.Dataset":
    """Return a dataset of this file by its path; soft links are followed, external ones refused."""
    import h5py

    steps, links = [step for step in name.split("/") if step], 0
    here: Any = file
    while steps:
        step = steps.pop(0)
        link = here.get(step, getlink=True) if isinstance(here, h5py.Group) else None
        if isinstance(link, h5py.SoftLink) and links < MAX_LINKS:
            links += 1
            here = file if link.path.startswith("/") else here
            steps = [*(each for each in link.path.split("/") if each not in ("", ".")), *steps]
        elif isinstance(link, h5py.HardLink):
            here = here[step]
        elif isinstance(link, h5py.ExternalLink):
            raise CutoutError(Flag.UNREADABLE, f"{step} is a link to another file, not followed")
        else:
            raise CutoutError(Flag.MISSING, f"no dataset {name}")
    if not isinstance(here, h5py.Dataset):
        raise CutoutError(Flag.MISSING, f"{name or '/'} is no dataset")
    return here


@contextmanager
def _mapped() -> Iterator[None]:
    """Turn what h5py raises into CutoutError."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, MemoryError) as err:
        flag = Flag.UNREADABLE if getattr(err, "errno", None) else Flag.MALFORMED
        raise CutoutError(flag, f"HDF5: {err}") from err
