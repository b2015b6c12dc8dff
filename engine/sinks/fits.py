"""A FITS binary table: its header by astropy, its rows streamed.

What is not there is NaN, the smallest integer (TNULL) or an empty text. FITS text is printable
ASCII without blanks at the end; all else is escaped, see `escape`. Columns of text are as wide
as their longest value, those of fixed words as the longest word.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.batches import REJECTED, Column, Flag, Rows, flag_words, reason, status
from stronglens.engine.sinks.escape import DESCRIPTION, FITS, escape, escaping, unescape
from stronglens.engine.sinks.restripe import restripe
from stronglens.engine.sinks.table import (
    CHUNK,
    Output,
    Shape,
    bits,
    check_rows,
    labels,
    not_ours,
    parsed,
    spelled,
    split_names,
)

if TYPE_CHECKING:
    from astropy.io.fits import Header

SPECIAL = escaping(FITS)
IN_HEADER = escaping(f"'|{FITS}")  # astropy loses what follows some quotes
BLOCK = 2880
END = b"END".ljust(80)
LONGEST_HEADER = 1 << 20
"""bytes; 999 columns take less"""
LONGEST_NAME = 68
NULL = -(1 << 63)
KINDS = {"int": "K", "float": "D", "text": "A"}
TYPES = {"K": ">i8", "D": ">f8", "E": ">f4"}


class FitsWriter:
    """Writes rows as they come; a text wider than its column makes those before it wider too."""

    def __init__(self, file: BinaryIO, shape: Shape) -> None:
        self._file, self._shape = file, shape
        self._forms = _forms(shape)
        self._widths = _first_widths(shape)
        self._longest = dict.fromkeys(self._widths, 1) | _word_widths(shape)
        self._count = 0
        head = _header(shape, self._forms, self._widths, 0)
        file.write(head)  # the real one has the same length
        self._begin = len(head)

    def write(self, rows: Rows) -> None:
        """Write rows."""
        cells = self._cells(rows)
        for i in self._widths:
            self._longest[i] = max(self._longest[i], cells[i].itemsize)
        if wider := {i: 2 * w for i, w in self._longest.items() if w > self._widths[i]}:
            self._restripe(self._widths | wider)
        table_B = np.zeros(len(rows.ids), _dtype(self._forms, self._widths))
        for i, cell_B in enumerate(cells):
            table_B[f"f{i}"] = cell_B
        self._file.write(table_B.tobytes())
        self._count += len(rows.ids)

    def _restripe(self, widths: dict[int, int]) -> None:
        old, new = (_dtype(self._forms, each) for each in (self._widths, widths))
        restripe(self._file, self._begin, self._count, old, new)
        self._widths = widths

    def _cells(self, rows: Rows) -> list[NDArray[Any]]:
        rejected_B = (rows.flags_B & np.uint16(REJECTED)) != 0
        prob_BK = np.where(rejected_B[:, None], np.float32(np.nan), rows.prob_BK)
        said = [spelled(rows, word) for word in (status, reason, flag_words)]
        texts = map(_text, (rows.ids, labels(rows, self._shape.classes), *said))
        name_B, label_B, status_B, reason_B, flags_B = texts
        carried = [
            _carried(column, [row[i] for row in rows.carried])
            for i, column in enumerate(self._shape.columns)
        ]
        own = [label_B, status_B, reason_B, rows.nan_frac_B, flags_B]
        return [name_B, *prob_BK.T, *own, *carried]

    def finish(self) -> None:
        """Make each column as narrow as may be, and write the header."""
        if self._longest != self._widths:
            self._restripe(self._longest)
        size = _dtype(self._forms, self._widths).itemsize * self._count
        self._file.write(bytes(-size % BLOCK))
        self._file.seek(0)
        self._file.write(_header(self._shape, self._forms, self._widths, self._count))

    def close(self) -> None:
        """Do nothing."""


def _forms(shape: Shape) -> str:
    """Return a letter for each column: the FITS types."""
    return "A" + "E" * len(shape.classes) + "AAAEA" + "".join(KINDS[c.kind] for c in shape.columns)


def _word_widths(shape: Shape) -> dict[int, int]:
    end = 1 + len(shape.classes)
    names = max(len(escape(name, SPECIAL)) for name in shape.classes)
    reasons = max(len(reason(flag)) for flag in Flag)
    return {end: max(1, names), end + 1: len("rejected"), end + 2: reasons}


def _first_widths(shape: Shape) -> dict[int, int]:
    """Return the bytes of each column of text, by number, as far as they can be known."""
    names = ["id", *([""] * (len(shape.classes) + 5)), *(column.name for column in shape.columns)]
    texts = [i for i, form in enumerate(_forms(shape)) if form == "A"]
    return {i: max(1, shape.longest.get(names[i], 1)) for i in texts} | _word_widths(shape)


def _dtype(forms: str, widths: dict[int, int]) -> np.dtype[Any]:
    return np.dtype([(f"f{i}", TYPES.get(f) or f"S{widths[i]}") for i, f in enumerate(forms)])


def _text(texts: Sequence[str]) -> NDArray[np.bytes_]:
    return np.array([escape(text, SPECIAL).encode() for text in texts], np.bytes_)


def _carried(column: Column, texts: Sequence[str]) -> NDArray[Any]:
    if column.kind == "text":
        return _text(texts)
    kind, null = (int, NULL) if column.kind == "int" else (float, np.nan)
    numbers = (parsed(text, kind, column.name) for text in texts)
    return np.array([null if v is None else v for v in numbers], np.dtype(kind))


def _header(shape: Shape, forms: str, widths: dict[int, int], count: int) -> bytes:
    """Return the primary header and the table's; their length does not depend on the numbers."""
    from astropy.io.fits import Header

    first = Header([("SIMPLE", True), ("BITPIX", 8), ("NAXIS", 0), ("EXTEND", True)])
    size = _dtype(forms, widths).itemsize
    shapes = [("NAXIS", 2), ("NAXIS1", size), ("NAXIS2", count), ("PCOUNT", 0), ("GCOUNT", 1)]
    columns = ("TFIELDS", len(forms))
    table = Header([("XTENSION", "BINTABLE"), ("BITPIX", 8), *shapes, columns])
    for i, (name, form) in enumerate(zip(shape.names, forms, strict=True)):
        table.update(_name_cards(i + 1, escape(name, IN_HEADER)))
        table[f"TFORM{i + 1}"] = f"{widths[i]}A" if form == "A" else form
        if form == "K":
            table[f"TNULL{i + 1}"] = NULL
    table["EXTNAME"] = "STRONGLENS"
    table["COMMENT"] = DESCRIPTION
    return str(first.tostring() + table.tostring()).encode("ascii")


def _name_cards(number: int, name: str) -> dict[str, str]:
    """Return a column's name, in two cards where it is longer than astropy reads."""
    if len(name) <= LONGEST_NAME:
        return {f"TTYPE{number}": name}
    short = re.sub(r"\W+", "_", name)[: LONGEST_NAME - 4]
    return {f"TTYPE{number}": f"{short}_{number}", f"TLONG{number}": name}


def open_writer(file: BinaryIO, shape: Shape) -> FitsWriter:
    """Begin a FITS file."""
    return FitsWriter(file, shape)


def read(path: Path) -> Output:
    """Open a FITS table that was written here; its rows are read as they are asked for."""
    from astropy.io.fits import VerifyError
    from astropy.utils.exceptions import AstropyWarning

    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("error", AstropyWarning)  # a header of ours gives none
        try:
            head = [_read_header(file) for _ in range(2)][1]
            return _output(path, head, file.tell())
        except (KeyError, TypeError, ValueError, VerifyError, AstropyWarning) as err:
            raise not_ours(path, err) from err


def _read_header(file: BinaryIO) -> "Header":
    """Return the header that begins here; raise ValueError for what is none."""
    from astropy.io.fits import Header

    data = b""
    while END not in (data[i - 80 : i] for i in range(len(data), len(data) - BLOCK, -80)):
        block = file.read(BLOCK)
        data += block
        if len(block) < BLOCK or not block.isascii() or len(data) > LONGEST_HEADER:
            raise ValueError("it has no FITS header")
    return Header.fromstring(data.decode())


def _output(path: Path, header: "Header", begin: int) -> Output:
    numbers = range(1, int(header["TFIELDS"]) + 1)
    forms = [str(header[f"TFORM{i}"]) for i in numbers]
    names = [unescape(str(header.get(f"TLONG{i}", header[f"TTYPE{i}"]))) for i in numbers]
    classes, carried = split_names(names, path)
    kinds: dict[str, Any] = {letter: kind for kind, letter in KINDS.items()}
    ends = [form[-1:] for form in forms[len(forms) - len(carried) :]]
    columns = [Column(name, kinds[end]) for name, end in zip(carried, ends, strict=True)]
    letters = _forms(Shape(classes, columns, 0))
    dtype = _dtype(letters, {i: int(form[:-1]) for i, form in enumerate(forms) if form[-1] == "A"})
    if [form.lstrip("0123456789") for form in forms] != list(letters):
        raise ValueError("its columns are of other types")
    rows = int(header["NAXIS2"])
    if header["NAXIS1"] != dtype.itemsize or path.stat().st_size < begin + rows * dtype.itemsize:
        raise ValueError(f"it has not the bytes that its {rows} rows take")
    return Output(classes, columns, lambda: _chunks(path, begin, rows, dtype, classes))


def _chunks(
    path: Path, begin: int, count: int, dtype: np.dtype[Any], classes: list[str]
) -> Iterator[Rows]:
    with path.open("rb") as file:
        file.seek(begin)
        for done in range(0, count, CHUNK):
            data = file.read(min(CHUNK, count - done) * dtype.itemsize)
            try:
                yield _rows(np.frombuffer(data, dtype), classes)
            except ValueError as err:
                raise not_ours(path, err) from err


def _rows(table_B: NDArray[Any], classes: list[str]) -> Rows:
    end = 1 + len(classes)
    names = table_B.dtype.names or ()
    said = [_texts(table_B[names[i]]) for i in range(end, end + 3)]
    carried = [_texts(table_B[name]) for name in names[end + 5 :]]
    rows = Rows(
        _texts(table_B["f0"]),
        np.column_stack([table_B[name].astype(np.float32) for name in names[1:end]]),
        np.array([bits(words) for words in _texts(table_B[names[end + 4]])], np.uint16),
        table_B[names[end + 3]].astype(np.float32),
        [list(row) for row in zip(*carried, strict=True)],
    )
    check_rows(rows, classes, said)
    return rows


def _texts(values_B: NDArray[Any]) -> list[str]:
    if values_B.dtype.kind == "S":
        return [unescape(value.decode("ascii")) for value in values_B.tolist()]
    return ["" if value == NULL or value != value else str(value) for value in values_B.tolist()]
