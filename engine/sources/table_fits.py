"""Read the first binary table of a FITS file as a table of text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stronglens.engine.batches import Column
from stronglens.engine.errors import CutoutError, InputError
from stronglens.engine.sources.fits import images_in
from stronglens.engine.sources.fits_tables import Field, blocks, fields
from stronglens.engine.sources.fits_units import Unit, opened, units

ENDINGS: tuple[str, ...] = (".fits", ".fit", ".fts", ".fits.gz", ".fit.gz", ".fts.gz")


@dataclass(frozen=True, slots=True)
class FitsTable:
    """A binary table of a file."""

    path: str
    unit: Unit
    fields: list[Field]
    columns: list[Column]

    def rows(self) -> Iterator[Sequence[str]]:
        """Yield the cells of each row as text, "" for NaN and null.

        Raises:
            InputError: it is truncated, or cannot be read.
        """
        width = self.unit.axes()[1]
        try:
            with opened(self.path) as file:
                for rows in blocks(file, self.unit):
                    yield from zip(*(each.texts(rows, width) for each in self.fields), strict=True)
        except CutoutError as err:
            raise InputError(f"{self.path}: {err}") from err


def has_cutouts(path: str) -> bool:
    """Return whether a file holds an image or no table; raise CutoutError if it is no FITS."""
    with opened(path) as file:
        images, tables = images_in(file)
    return bool(images) or not tables


def open_table(path: str) -> FitsTable:
    """Open the first binary table of a file.

    Raises:
        InputError: there is none.
        CutoutError: it cannot be read.
    """
    with opened(path) as file:
        for unit in units(file):
            if unit.text("XTENSION") == "BINTABLE":
                kinds = [(each, each.kind) for each in fields(unit)]
                return FitsTable(
                    path,
                    unit,
                    [each for each, kind in kinds if kind],
                    [Column(each.name, kind) for each, kind in kinds if kind],
                )
    raise InputError(f"{path}: no binary table in it")
