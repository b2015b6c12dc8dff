"""Catalogues: tables with a column of paths, one cutout a row, whose other columns are carried on.

Rows are streamed, from CSV, parquet and FITS binary tables alike. Columns whose cells hold more
than one value (spectra, lists, complex numbers) are no text and are left out.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from stronglens.engine.batches import Column
from stronglens.engine.errors import CutoutError, InputError
from stronglens.engine.sources import table_csv, table_fits, table_parquet
from stronglens.engine.sources.entries import Entry, ending

PATH_NAMES = ("path", "file", "filename", "file_path", "filepath", "cutout_path")
"""what a column of paths is called, in any case"""


class Table(Protocol):
    """A table whose cells are text."""

    @property
    def columns(self) -> list[Column]:
        """Those whose cells hold one value."""

    def rows(self) -> Iterator[Sequence[str]]:
        """Yield the cells of each row, one a column, "" where there is none.

        Raises:
            InputError: the table ends before its end, or cannot be read.
        """


class TableFormat(Protocol):
    """What the module of a kind of table offers."""

    ENDINGS: tuple[str, ...]

    def has_cutouts(self, path: str) -> bool:
        """Return whether a file holds cutouts itself, or no table at all.

        Raises:
            CutoutError: it cannot be read.
            InputError: a library is missing.
        """

    def open_table(self, path: str) -> Table:
        """Open a table, and see what kinds its columns are of; raise InputError if it is none."""


_ALL: tuple[TableFormat, ...] = (table_csv, table_parquet, table_fits)
TABLES: dict[str, TableFormat] = {each: form for form in _ALL for each in form.ENDINGS}
"""by ending, lower case"""

ENDINGS: tuple[str, ...] = tuple(TABLES)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """A table of paths."""

    path: str
    table: Table
    place: int
    """of its column of paths"""

    @property
    def columns(self) -> list[Column]:
        """What is carried: all columns but that of the paths."""
        found = self.table.columns
        return found[: self.place] + found[self.place + 1 :]

    def entries(self) -> Iterator[Entry]:
        """Yield an entry for each row, its path as it is seen from the working folder.

        Raises:
            InputError: the table ends before its end, or cannot be read.
        """
        folder = os.path.dirname(self.path)  # noqa: PTH120 - it keeps the spelling
        for row in self.table.rows():
            path = row[self.place]
            rest = [*row[: self.place], *row[self.place + 1 :]]
            yield Entry(
                os.path.join(folder, path) if path else "",  # noqa: PTH118
                carried=json.dumps(rest) if rest else "",
            )


def is_catalogue(path: str) -> bool:
    """Return whether a file is a catalogue: a table, and not of cutouts.

    Raises:
        InputError: a library is missing.
    """
    form = TABLES.get(ending(path))
    try:
        return form is not None and not form.has_cutouts(path)
    except CutoutError:  # as a file of cutouts it will be a row that says what is wrong
        return False


def open_catalogue(path: str) -> Catalogue:
    """Open a catalogue.

    Raises:
        InputError: it cannot be read, or has not exactly one column of paths.
    """
    try:
        table = TABLES[ending(path)].open_table(path)
    except CutoutError as err:
        raise InputError(f"{path}: cannot read this catalogue: {err}") from err
    names = [column.name for column in table.columns]
    found = [i for i, name in enumerate(names) if name.strip().lower() in PATH_NAMES]
    if len(found) == 1:
        return Catalogue(path, table, found[0])
    which = ", ".join(names[i] for i in found) if found else "none"
    raise InputError(
        f"{path}: {len(found)} columns of paths ({which}) among {', '.join(names[:30])}; expected "
        f"exactly one called {', '.join(PATH_NAMES)}"
    )
