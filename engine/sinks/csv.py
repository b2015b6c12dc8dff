r"""CSV as RFC 4180 has it, but with \n at the ends of lines.

Fields are quoted where they must be and otherwise written as they are: bytes that are not
UTF-8 come back as the same bytes, and a name that begins with `=` is not altered, so a
spreadsheet may take it for a formula. A rejected row has empty probabilities and no label.
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

from stronglens.engine.batches import Column, Rows
from stronglens.engine.sinks.table import Output, Shape, not_ours, split_names
from stronglens.engine.sinks.text import Lines, read_rows

SPECIAL = re.compile('[",\\r\\n]')


class CsvWriter:
    """Writes rows as lines."""

    def __init__(self, file: BinaryIO, shape: Shape) -> None:
        carried = [quoted] * len(shape.columns)
        self._file = file
        self._lines = Lines(shape.classes, quoted, carried=carried, between=",", end="\n")
        self._write(",".join(map(quoted, shape.names)) + "\n")

    def write(self, rows: Rows) -> None:
        """Write rows."""
        self._write(self._lines(rows))

    def _write(self, text: str) -> None:
        self._file.write(text.encode("utf-8", "surrogateescape"))

    def finish(self) -> None:
        """Do nothing: the last row ends the file."""

    def close(self) -> None:
        """Do nothing."""


def quoted(text: str) -> str:
    """Return a field as CSV holds it; Python's own writer leaves a lone \\r bare."""
    return '"' + text.replace('"', '""') + '"' if SPECIAL.search(text) else text


def open_writer(file: BinaryIO, shape: Shape) -> CsvWriter:
    """Begin a CSV."""
    return CsvWriter(file, shape)


def read(path: Path) -> Output:
    """Open a CSV that was written here; its rows are read as they are asked for."""
    with _open(path) as file:
        try:
            names = next(csv.reader(file, strict=True), [])
        except csv.Error as err:
            raise not_ours(path, err) from err
    classes, carried = split_names(names, path)
    columns = [Column(name, "text") for name in carried]
    return Output(classes, columns, lambda: _chunks(path, classes, len(names)))


def _open(path: Path) -> TextIO:
    return path.open(encoding="utf-8", errors="surrogateescape", newline="")


def _chunks(path: Path, classes: list[str], width: int) -> Iterator[Rows]:
    with path.open("rb") as raw:
        raw.seek(-1, 2)
        if raw.read() != b"\n":
            raise not_ours(path, "its last line has no end, it was cut off")
    with _open(path) as file:
        lines = csv.reader(file, strict=True)
        try:
            next(lines)
            yield from read_rows(lines, classes, width, path)
        except csv.Error as err:
            raise not_ours(path, f"line {lines.line_num}: {err}") from err
