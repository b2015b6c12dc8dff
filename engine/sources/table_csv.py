"""Read a CSV file as a table of text, with Python's csv module and bounds on what it takes."""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, TextIO

from stronglens.engine.batches import Column
from stronglens.engine.errors import InputError

ENDINGS: tuple[str, ...] = (".csv",)
LONGEST_LINE = 1 << 20
"""characters; the module's own bound on a cell is an eighth of it"""
ROWS = 1 << 12
"""looked at together"""

INTEGERS = re.compile(r"(?:[ \t]*(?:[+-]?(?:0|[1-9][0-9]{0,18}))?[ \t]*\n)*+")
DIGITS = r"(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:e[+-]?[0-9]{1,6})?"
FLOATS = re.compile(rf"(?:[ \t]*(?:[+-]?(?:{DIGITS}|nan|inf|infinity))?[ \t]*\n)*+", re.IGNORECASE)
LONG = re.compile(r"[+-]?[0-9]{19}")
SPOILED = re.compile(r"^[ \t]*[+-]?(?:0[0-9]|[0-9]{17}[0-9]*[ \t]*$)", re.MULTILINE)
"""Whole numbers that a float would spoil: with zeros in front, as in names, or with many digits"""

Kind = Literal["int", "float", "text"]


@dataclass(frozen=True, slots=True)
class CsvTable:
    """A CSV file whose first line names its columns."""

    path: str
    columns: list[Column]

    def rows(self) -> Iterator[Sequence[str]]:
        """Yield the cells of each row as they are written; bytes not UTF-8 as surrogate escapes.

        Blank lines are left out.

        Raises:
            InputError: it cannot be read, or a row has not as many cells as there are columns.
        """
        with _opened(self.path) as file:
            rows = _rows(self.path, file)
            next(rows, None)
            yield from rows


def has_cutouts(path: str) -> bool:
    """Return False: a CSV file holds no cutouts."""
    return False


def open_table(path: str) -> CsvTable:
    """Read a CSV file once, to see what kinds its columns are of: text, if in doubt.

    Whole numbers are int as far as int64 holds them, and text beyond it or where zeros lead
    them, since they are names then, of which a float would lose digits.

    Raises:
        InputError: it is no such file.
    """
    with _opened(path) as file:
        rows = _rows(path, file)
        names = next(rows, None)
        if names is None:
            raise InputError(f"{path}: an empty file; a catalogue's first line names its columns")
        if len(set(names)) < len(names):
            raise InputError(f"{path}: two columns of one name: {', '.join(names[:50])}")
        kinds: list[Kind] = ["int"] * len(names)
        empty = [True] * len(names)
        while block := list(islice(rows, ROWS)):
            for i, cells in enumerate(zip(*block, strict=True)):
                kinds[i] = kind_of(cells, kinds[i])
                empty[i] = empty[i] and not any(map(str.strip, cells))
    found = zip(names, kinds, empty, strict=True)
    return CsvTable(path, [Column(name, "text" if none else kind) for name, kind, none in found])


def kind_of(cells: Sequence[str], known: Kind) -> Kind:
    """Return what kind cells are of, where those above them were of the kind `known`."""
    text = "\n".join((*cells, ""))
    if known == "text" or text.count("\n") != len(cells):  # a cell with a newline is no number
        return "text"
    if known == "int" and INTEGERS.fullmatch(text) and all(map(_fits, LONG.findall(text))):
        return "int"
    return "float" if FLOATS.fullmatch(text) and not SPOILED.search(text) else "text"


def _fits(digits: str) -> bool:
    return -(1 << 63) <= int(digits) < 1 << 63


def _opened(path: str) -> TextIO:
    try:
        return Path(path).open(encoding="utf-8-sig", errors="surrogateescape", newline="")
    except OSError as err:
        raise InputError(f"{path}: {err.strerror}") from err


def _rows(path: str, file: TextIO) -> Iterator[list[str]]:
    """Yield rows of equal length, the first of which names the columns."""
    reader = csv.reader(_lines(path, file), strict=True)
    width = 0
    try:
        for row in reader:
            width = width or len(row)
            if row and len(row) != width:
                raise InputError(
                    f"{path}: line {reader.line_num} has {len(row)} cells where the first line "
                    f"names {width} columns; a cell with a comma stands between quotes"
                )
            if row:
                yield row
    except csv.Error as err:
        raise InputError(f"{path}: line {reader.line_num}: {err}") from err
    except OSError as err:
        raise InputError(f"{path}: {err.strerror}") from err


def _lines(path: str, file: TextIO) -> Iterator[str]:
    while line := file.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise InputError(f"{path}: a line of more than {LONGEST_LINE} characters: no catalogue")
        yield line
