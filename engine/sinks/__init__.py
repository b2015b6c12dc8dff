"""Where rows go: one per cutout, in order, into a file that appears complete or not at all.

The columns, the same in each format: id, p_<class>…, label, status, reason, nan_frac, flags,
then those of a catalogue that are carried through.
"""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from stronglens.engine.batches import Rows
from stronglens.engine.errors import ConfigError, InputError, LensError
from stronglens.engine.sinks import csv, fits, parquet, votable
from stronglens.engine.sinks.atomic import remove_leftovers, replacing
from stronglens.engine.sinks.beside import Rejected, open_rejected, rejected_path, top_path
from stronglens.engine.sinks.table import Format, Output, Shape, Writer

__all__ = [
    "Output",
    "Rejected",
    "Shape",
    "Sink",
    "check_output",
    "check_place",
    "open_rejected",
    "open_sink",
    "read_output",
    "rejected_path",
    "remove_leftovers",
    "replacing",
    "top_path",
    "write_top",
]

FORMATS: dict[str, Format] = {
    ".csv": csv,
    ".parquet": parquet,
    ".fits": fits,
    ".vot": votable,
    ".votable": votable,
    ".xml": votable,
}
NEEDS = {".parquet": "pyarrow", ".fits": "astropy"}


class Sink:
    """An output that is being written; see `open_sink`."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.count = 0
        """rows so far"""

    def write(self, rows: Rows) -> None:
        """Write rows, in order after those before."""
        if rows.ids:
            self._writer.write(rows)
            self.count += len(rows.ids)


def check_output(path: Path) -> None:
    """Refuse an output that could not be written, before any work.

    Raises:
        ConfigError: an ending of no known format, a library that is missing for it, a folder in
            its place, no such folder, or one that may not be written in.
    """
    _check_format(path)
    check_place(path)


def check_place(path: Path) -> None:
    """Refuse a place where a file could not be written.

    Raises:
        ConfigError: a folder in its place, no such folder, or one that may not be written in.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: name a file")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}: make it first")
    if not os.access(path.resolve().parent, os.W_OK):
        raise ConfigError(
            f"{path}: you may not write in {path.resolve().parent}: choose another folder"
        )


def _check_format(path: Path) -> None:
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise ConfigError(f"{path}: no format for this ending, choose {', '.join(FORMATS)}")
    if (library := NEEDS.get(ending)) and find_spec(library) is None:
        raise ConfigError(f"{path}: {ending} needs {library}: pip install 'stronglens[formats]'")


@contextmanager
def open_sink(path: Path, shape: Shape) -> Iterator[Sink]:
    """Begin the output that the ending of `path` asks for; see `replacing`.

    Its bytes depend on the rows and the shape, not on how the rows come in pieces.

    Raises:
        ConfigError: see `check_output`.
        LensError: the file cannot be made or written, or had other than `shape.count` rows.
    """
    check_output(path)
    with (
        replacing(path) as file,
        closing(FORMATS[path.suffix.lower()].open_writer(file, shape)) as writer,
    ):
        sink = Sink(writer)
        yield sink
        if sink.count != shape.count:
            raise LensError(f"{path}: {sink.count} rows of {shape.count}; nothing was left there")
        writer.finish()


def write_top(path: Path, shape: Shape, rows: Rows) -> None:
    """Write a table of candidates, in the format and with the columns of the output it is from."""
    with open_sink(path, Shape(shape.classes, shape.columns, len(rows.ids))) as sink:
        sink.write(rows)


def read_output(path: Path) -> Output:
    """Open an output of `open_sink`. Of all formats the rows are read as they are asked for.

    Raises:
        ConfigError: an ending of no known format, or a library that is missing for it.
        InputError: it is not there, cannot be read, or is no output of ours.
    """
    _check_format(path)
    with _reading(path):
        output = FORMATS[path.suffix.lower()].read(path)
    return replace(output, chunks=lambda: _read(path, output))


def _read(path: Path, output: Output) -> Iterator[Rows]:
    with _reading(path):
        yield from output


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise InputError(f"cannot read {path}: {err.strerror or err}") from err
