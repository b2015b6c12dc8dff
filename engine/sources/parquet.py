"""Read cutouts from a column of a parquet file, with pyarrow.

A cell is a list of pixels, a list of rows, a tensor, or the bytes of a .npy, FITS, PNG or JPEG
file. Rows are decoded a few at a time, in order, and kept for the next cutout: reading in order
is quick, while each step back starts its row group anew.
"""

import bisect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

from numpy.typing import NDArray

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError, InputError
from stronglens.engine.sources.arrays import ID_NAMES, MAX_CUTOUTS, part
from stronglens.engine.sources.cells import holds_cutouts, holds_ids, pixels_of, shape_of, texts
from stronglens.engine.sources.entries import Choice, Cutout, Entry, Listed, Many
from stronglens.engine.sources.kept import BLOCK_BYTES, OPEN_FILES, Identity, Kept, identity

ENDINGS: tuple[str, ...] = (".parquet", ".pq")
MANY: Many = "always"
COLUMN_NAMES = ("cutout", "image", "data", "pixels")
"""what a column of cutouts is called, in any case; the first of these that can be one"""
ROWS_BYTES = 1 << 23
"""of cells that are decoded at once"""
READ_BYTES = 1 << 20
"""of a column that are read at once"""
MOST_ROWS = 1 << 10
"""decoded at once"""

_READERS: Kept["_Reader"] = Kept(OPEN_FILES, drop=lambda reader: reader.close())
_BLOCKS: Kept[Any] = Kept(BLOCK_BYTES, weigh=lambda block: int(block.nbytes))
"""arrays of pyarrow; a reader is used only while one is made, so by one thread at a time"""


def read(entry: Entry, band: str) -> NDArray[Any]:
    """Return the array as stored; a null pixel is NaN.

    Raises:
        InputError: pyarrow is missing, or which column is meant is open.
        CutoutError: MISSING (also where the cell is null), UNREADABLE, MALFORMED, DTYPE or
            SHAPE.
    """
    name, row = part(entry.inside)
    if row is None:
        raise CutoutError(Flag.SHAPE, f"names no row: {entry.path}#0 is the first")
    key = identity(entry.path)
    with mapped():
        cells, i, shape = _cells(key, name, row)
        return pixels_of(cells, i, shape, band)


def cutout(entry: Entry, band: str) -> Cutout:
    """Return a cutout of a listing; nothing is opened yet."""
    return Listed(entry, band, read)


def entries(path: str, inside: str, choice: Choice) -> Iterator[Entry]:
    """List the cutouts of a file, or of one column of it.

    Raises:
        InputError: pyarrow is missing, or which column is meant is open.
        CutoutError: it cannot be listed.
    """
    name, row = part(inside)
    if row is not None:
        return iter([Entry(path, inside)])
    with mapped():
        file = open_parquet(identity(path))
        column = name or the_column(file.schema_arrow, path)
        if column not in file.schema_arrow.names:
            raise CutoutError(Flag.MISSING, f"no column {column}")
        if file.metadata.num_rows > MAX_CUTOUTS:
            raise CutoutError(Flag.SHAPE, f"{file.metadata.num_rows} rows")
    return _listed(path, f"{name}#" if name else "", file, _id_column(file.schema_arrow, column))


def the_column(schema: Any, path: str) -> str:
    """Return the name of the one column that can hold cutouts.

    Raises:
        InputError: there is none, or more than one and none called as in COLUMN_NAMES.
    """
    found = cutout_columns(schema)
    if len(found) == 1:
        return found[0]
    by_name = {name.lower(): name for name in found}
    for wanted in COLUMN_NAMES:
        if wanted in by_name:
            return by_name[wanted]
    if found:
        raise InputError(
            f"{path}: {len(found)} columns may hold cutouts: {', '.join(found[:20])}; "
            f"name one, as in {path}#{found[0]}"
        )
    raise InputError(f"{path}: no column of cutouts among {', '.join(schema.names[:50])}")


def cutout_columns(schema: Any) -> list[str]:
    """Return the names of the columns that can hold cutouts."""
    return [field.name for field in schema if holds_cutouts(field.type)]


def open_parquet(key: Identity) -> Any:
    """Open a parquet file; nothing but its footer is read, and it is never mapped into memory.

    Raises:
        InputError: pyarrow is missing.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as err:
        raise InputError("parquet needs pyarrow: pip install 'stronglens[formats]'") from err
    return parquet.ParquetFile(pyarrow.OSFile(os.fsencode(key[0])), buffer_size=READ_BYTES)


@contextmanager
def mapped() -> Iterator[None]:
    """Turn what pyarrow raises into CutoutError."""
    try:
        yield
    except (OSError, UnicodeDecodeError, MemoryError) as err:
        flag = Flag.UNREADABLE if getattr(err, "errno", None) else Flag.MALFORMED
        raise CutoutError(flag, f"parquet: {err}") from err
    except (CutoutError, InputError):  # of ours, and pyarrow may be missing
        raise
    except Exception as err:
        from pyarrow import ArrowException

        if not isinstance(err, ArrowException):
            raise
        raise CutoutError(Flag.MALFORMED, f"parquet: {err}") from err


def _id_column(schema: Any, column: str) -> str:
    """Return the name of the column of ids, "" where there is none."""
    fit = {each.name.lower(): each.name for each in schema if holds_ids(each.type)}
    found = (fit[wanted] for wanted in ID_NAMES if wanted in fit)
    return next((name for name in found if name != column), "")


def _listed(path: str, prefix: str, file: Any, ids: str) -> Iterator[Entry]:
    if not ids:
        yield from (Entry(path, f"{prefix}{k}") for k in range(file.metadata.num_rows))
        return
    k = 0
    with mapped():
        for batch in file.iter_batches(batch_size=MOST_ROWS, columns=[ids], use_threads=False):
            for name in texts(batch.column(0)):
                yield Entry(path, f"{prefix}{k}", name)
                k += 1


class _Reader:
    """An open file, and how far a column of it has been decoded."""

    def __init__(self, key: Identity, name: str) -> None:
        self.file = open_parquet(key)
        self.column = name or the_column(self.file.schema_arrow, key[0])
        if self.column not in self.file.schema_arrow.names:
            raise CutoutError(Flag.MISSING, f"no column {self.column}")
        self.shape = shape_of(self.file.schema_arrow.field(self.column))
        groups = range(self.file.metadata.num_row_groups)
        self._counts = [self.file.metadata.row_group(g).num_rows for g in groups]
        self._starts = [0, *accumulate(self._counts)]
        self._rows = [self._rows_at_once(g) for g in groups]
        self._place = (-1, 0)
        """the group and the block in it that `_batches` goes on with"""
        self._batches: Iterator[Any] = iter(())

    def close(self) -> None:
        """Close the file."""
        self._batches = iter(())
        self.file.close()

    def place(self, row: int) -> tuple[int, int, int]:
        """Return a row's group, its block in there, and its place in that."""
        group = bisect.bisect_right(self._starts, row) - 1
        if group >= len(self._counts):
            raise CutoutError(Flag.MISSING, f"no row {row} of {self._starts[-1]}")
        return (group, *divmod(row - self._starts[group], self._rows[group]))

    def block(self, group: int, block: int) -> Any:
        """Decode up to a block and return it."""
        (at_group, start), self._place = self._place, (-1, 0)  # an error loses the place
        if at_group != group or start > block:
            start = 0
            self._batches = self.file.iter_batches(
                self._rows[group], row_groups=[group], columns=[self.column], use_threads=False
            )
        for at, batch in enumerate(self._batches, start):
            if at == block:
                self._place = (group, at + 1)
                return batch.column(0)
        raise CutoutError(Flag.MALFORMED, f"row group {group} has fewer rows than it says")

    def _rows_at_once(self, group: int) -> int:
        """Return how many rows are decoded at once, from what the footer says of their size.

        It says so of each column too, but to ask for that aborts the process where the footer
        is damaged (pyarrow 26).
        """
        found = self.file.metadata.row_group(group)
        rows: int = ROWS_BYTES * max(found.num_rows, 1) // max(found.total_byte_size, 1)
        return max(1, min(MOST_ROWS, rows))


def _cells(key: Identity, name: str, row: int) -> tuple[Any, int, tuple[int, ...] | None]:
    """Return a block of cells, which of them is the row's, and the shape they all have if told."""
    with _BLOCKS.lock:
        reader = _READERS.get((key, name), lambda: _Reader(key, name))
        group, block, i = reader.place(row)
        cells = _BLOCKS.get((key, name, group, block), lambda: reader.block(group, block))
    if i >= len(cells):
        raise CutoutError(Flag.MALFORMED, f"row group {group} has fewer rows than it says")
    return cells, i, reader.shape
