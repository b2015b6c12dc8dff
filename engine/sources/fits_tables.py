"""Read the columns of a FITS binary table, a block of rows at a time."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError
from stronglens.engine.sources.files import MAX_BYTES
from stronglens.engine.sources.fits_units import Bytes, Unit

BLOCK_BYTES = 1 << 20
"""of rows that are read at once"""
FORMAT = re.compile(r"([0-9]{0,9})([LXBIJKAEDCMPQ])")
WIDTHS = {"L": 1, "B": 1, "I": 2, "J": 4, "K": 8, "A": 1, "E": 4, "D": 8, "C": 8, "M": 16}
DESCRIPTORS = {"P": ">i4", "Q": ">i8"}
NUMBERS = {"B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}


@dataclass(frozen=True, slots=True)
class Field:
    """A column: where it lies in a row, and what its values mean."""

    name: str
    code: str
    """the letter of its TFORM"""
    repeat: int
    offset: int
    """bytes from where its row starts"""
    scale: float
    zero: float
    null: int | None
    """the integer that stands for no value"""

    @property
    def kind(self) -> Literal["int", "float", "text"] | None:
        """What its values are as text; None where a cell holds several, or what is no text.

        Integers that int64 does not hold are text.
        """
        if self.code == "A":
            return "text" if self.repeat else None
        if self.repeat != 1 or self.code not in {*NUMBERS, "L"}:
            return None
        if self.code in "ED":
            return "float"
        if self.code == "L" or (self.code == "K" and self.zero == 2.0**63 and self.scale == 1):
            return "text"
        return "int" if self.scale == 1 and self.zero.is_integer() else "float"

    def texts(self, rows: bytes, width: int) -> list[str]:
        """Return the values in a block of rows, each `width` bytes; "" where there is none.

        Numbers are written with as few digits as tell them apart. Strings end before the first
        NUL and the spaces at their end; bytes that are no UTF-8 become surrogate escapes.
        """
        if self.code == "A":
            cells = self._cells(rows, width, f"S{self.repeat}").tolist()
            cut = (cell.partition(b"\0")[0].rstrip(b" ") for cell in cells)
            return [cell.decode("utf-8", "surrogateescape") for cell in cut]
        if self.code == "L":
            words = {b"T": "true", b"F": "false"}
            return [words.get(cell, "") for cell in self._cells(rows, width, "S1").tolist()]
        raw = self._cells(rows, width, NUMBERS[self.code])
        absent = np.isnan(raw) if self.code in "ED" else raw == self.null
        texts = self._scaled(raw)
        return ["" if gone else text for text, gone in zip(texts, absent.tolist(), strict=True)]

    def _scaled(self, raw: NDArray[Any]) -> list[str]:
        if self.scale == 1 and self.zero == 0:
            return list(raw.astype(str).tolist())
        if self.scale == 1 and self.zero.is_integer() and self.code not in "ED":
            return [str(value + int(self.zero)) for value in raw.tolist()]
        return [str(value * self.scale + self.zero) for value in raw.tolist()]

    def _cells(self, rows: bytes, width: int, dtype: str) -> NDArray[Any]:
        return np.ndarray(
            (len(rows) // width,), dtype, buffer=rows, offset=self.offset, strides=(width,)
        )


def fields(unit: Unit) -> list[Field]:
    """Return the columns of a binary table.

    Raises:
        CutoutError: MALFORMED, where its header contradicts itself.
    """
    found, offset = [], 0
    count = unit.integer("TFIELDS")
    if len(unit.axes()) != 2 or not 0 <= count <= 999:
        raise CutoutError(Flag.MALFORMED, f"unit {unit.number}: a table of {count} columns")
    for i in range(1, count + 1):
        form = FORMAT.match(unit.text(f"TFORM{i}").strip())
        if not form:
            raise CutoutError(Flag.MALFORMED, f"unit {unit.number}: TFORM{i}")
        repeat, code = int(form[1] or 1), form[2]
        null = unit.integer(f"TNULL{i}") if f"TNULL{i}".encode() in unit.cards else None
        scale, zero = unit.number_of(f"TSCAL{i}", 1.0), unit.number_of(f"TZERO{i}", 0.0)
        found.append(Field(unit.text(f"TTYPE{i}"), code, repeat, offset, scale, zero, null))
        offset += _width(code, repeat)
    if offset != unit.axes()[1]:
        raise CutoutError(Flag.MALFORMED, f"unit {unit.number}: rows of {offset} bytes")
    return found


def blocks(file: Bytes, unit: Unit) -> Iterator[bytes]:
    """Yield the rows of a table, many at once, each as many bytes as `NAXIS1` says.

    Raises:
        CutoutError: MALFORMED where the file ends before, SHAPE where a row is too large.
    """
    count, width = unit.axes()
    if width > MAX_BYTES:
        raise CutoutError(Flag.SHAPE, f"rows of {width} bytes")
    at_once = max(1, BLOCK_BYTES // max(width, 1))
    for start in range(0, count if width else 0, at_once):
        size = width * min(at_once, count - start)
        rows = file.at(unit.start + start * width, size)
        if len(rows) < size:
            raise CutoutError(Flag.MALFORMED, f"truncated: {count} rows of {width} bytes expected")
        yield rows


def pieces(file: Bytes, unit: Unit, column: Field) -> Iterator[bytes]:
    """Yield the cells of a column of variable length, as they are stored.

    Raises:
        CutoutError: MALFORMED, where one lies outside the table.
    """
    dtype = DESCRIPTORS[column.code]
    count, width = unit.axes()
    heap = unit.integer("THEAP", count * width)
    for rows in blocks(file, unit):
        pairs = np.ndarray(
            (len(rows) // width, 2), dtype, rows, column.offset, (width, np.dtype(dtype).itemsize)
        )
        for length, offset in pairs.tolist():
            if length < 0 or offset < 0 or heap + offset + length > unit.size():
                raise CutoutError(Flag.MALFORMED, "a cell that lies outside its table")
            yield file.at(unit.start + heap + offset, length)


def _width(code: str, repeat: int) -> int:
    if code == "X":
        return math.ceil(repeat / 8)
    if code in DESCRIPTORS:
        return repeat * 2 * np.dtype(DESCRIPTORS[code]).itemsize
    return repeat * WIDTHS[code]
