"""Read a parquet file as a table of text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stronglens.engine.batches import Column
from stronglens.engine.errors import CutoutError, InputError
from stronglens.engine.sources.cells import kind_of, texts
from stronglens.engine.sources.kept import identity
from stronglens.engine.sources.parquet import (
    ENDINGS,
    cutout_columns,
    mapped,
    open_parquet,
)

__all__ = ["ENDINGS", "ParquetTable", "has_cutouts", "open_table"]

ROWS = 1 << 12
"""decoded at once"""


@dataclass(frozen=True, slots=True)
class ParquetTable:
    """The columns of scalars in a parquet file."""

    path: str
    columns: list[Column]

    def rows(self) -> Iterator[Sequence[str]]:
        """Yield the cells of each row as text, "" for null.

        Raises:
            InputError: it is damaged, or cannot be read.
        """
        names = [column.name for column in self.columns]
        try:
            with mapped():
                file = open_parquet(identity(self.path))
                for batch in file.iter_batches(ROWS, columns=names, use_threads=False):
                    yield from zip(*(texts(batch.column(name)) for name in names), strict=True)
        except CutoutError as err:
            raise InputError(f"{self.path}: {err}") from err


def has_cutouts(path: str) -> bool:
    """Return whether a column can hold cutouts; raise CutoutError if it is no parquet file."""
    with mapped():
        return bool(cutout_columns(open_parquet(identity(path)).schema_arrow))


def open_table(path: str) -> ParquetTable:
    """Open a parquet file as a table; raise CutoutError where it cannot be read."""
    with mapped():
        schema = open_parquet(identity(path)).schema_arrow
        if len(set(schema.names)) < len(schema.names):
            raise InputError(f"{path}: two columns of one name: {', '.join(schema.names[:50])}")
        kinds = ((field.name, kind_of(field.type)) for field in schema)
        return ParquetTable(path, [Column(name, kind) for name, kind in kinds if kind])
