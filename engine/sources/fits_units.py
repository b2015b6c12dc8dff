"""Find the parts of a FITS file, trusting nothing that its headers say.

A FITS file is a row of units (HDUs), each a header of 80-byte cards and its data, both padded to
2880 bytes. Of a header only the few cards that place and scale the data are read.
"""

import gzip
import io
import math
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError
from stronglens.engine.sources.files import MAX_BYTES, OPEN_FLAGS, read_file, reasons, regular_size

BLOCK = 2880
CARD = 80
MAX_HEADER = 1 << 20
"""bytes of one header; those of mosaics with all their history have a tenth of it"""
MAX_UNITS = 1 << 16
HEAD = 1 << 18
"""bytes that are read when a file is opened: all of most cutouts"""
GZIP_HEAD = 1 << 22
GZIP_REACH = 1 << 32
"""how far into a compressed stream is looked, in bytes: finding a place means expanding to it"""

GZIP = b"\x1f\x8b"
END = b"END".ljust(CARD)
INTEGER = re.compile(rb"[+-]?[0-9]{1,19}")
STRING = re.compile(rb"'((?:[^']|'')*)'")


class Bytes(Protocol):
    """A file as bytes at places."""

    def at(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset`; fewer where the file ends."""


class Plain:
    """A file as it lies on the disk; `size` in bytes."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd, self.size = fd, size
        self._head = os.pread(fd, HEAD, 0)

    def at(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset`; fewer where the file ends."""
        if offset + count <= len(self._head):
            return self._head[offset : offset + count]
        count = min(count, max(self.size - offset, 0))
        data = os.pread(self._fd, count, offset) if count else b""
        while data and len(data) < count:  # only network file systems return less than asked
            more = os.pread(self._fd, count - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data


class Gzipped:
    """A file that gzip compressed, expanded no further than needed."""

    def __init__(self, data: bytes) -> None:
        self._file = gzip.GzipFile(fileobj=io.BytesIO(data))
        self._head = self._read(0, GZIP_HEAD)

    def at(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset`; fewer where the file ends."""
        if offset + count <= len(self._head) or len(self._head) < GZIP_HEAD:
            return self._head[offset : offset + count]
        if offset + count > GZIP_REACH:
            raise CutoutError(Flag.SHAPE, f"expands to more than {GZIP_REACH} bytes")
        return self._read(offset, count)

    def _read(self, offset: int, count: int) -> bytes:
        try:
            self._file.seek(offset)
            return self._file.read(count)
        except (OSError, EOFError, zlib.error) as err:
            raise CutoutError(Flag.MALFORMED, f"gzip: {err}") from err


class InMemory:
    """A file whose bytes are here."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def at(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset`; fewer where the file ends."""
        return self._data[offset : offset + count]


def in_memory(data: bytes) -> Bytes:
    """Return the bytes of a file, plain or gzipped, as a file."""
    return Gzipped(data) if data.startswith(GZIP) else InMemory(data)


@contextmanager
def opened(path: str) -> Iterator[Bytes]:
    """Open a file, plain or gzipped (its first bytes say which).

    Raises:
        CutoutError: MISSING, UNREADABLE, MALFORMED, or SHAPE where a gzipped file is too large.
    """
    with reasons():
        fd = os.open(path, OPEN_FLAGS)
        try:
            plain = Plain(fd, regular_size(fd))
            yield _expanded(path) if plain.at(0, 2) == GZIP else plain
        finally:
            os.close(fd)


def _expanded(path: str) -> Gzipped:
    data, size = read_file(path)
    if size > MAX_BYTES:
        raise CutoutError(Flag.SHAPE, f"{size} bytes, more than is expanded")
    return Gzipped(data)


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit of a file: where it lies, and the cards of its header as they are written."""

    number: int
    """0 is the primary one"""
    cards: dict[bytes, bytes]
    """what stands behind `KEYWORD =`; of a keyword that is repeated, the first"""
    offset: int
    start: int
    """of its header and of its data, in bytes"""

    def integer(self, key: str, default: int | None = None) -> int:
        """Return an integer; CutoutError MALFORMED where it is none, or absent with no default."""
        text = self._value(key)
        if text is None and default is not None:
            return default
        if text is None or not INTEGER.fullmatch(text):
            raise CutoutError(Flag.MALFORMED, f"unit {self.number}: {key} is {_shown(text)}")
        return int(text)

    def number_of(self, key: str, default: float) -> float:
        """Return a float; CutoutError MALFORMED where it is none or not finite."""
        text = self._value(key)
        if text is None:
            return default
        try:
            found = float(text.replace(b"D", b"E"))
        except ValueError:
            found = math.nan
        if not math.isfinite(found):
            raise CutoutError(Flag.MALFORMED, f"unit {self.number}: {key} is {_shown(text)}")
        return found

    def text(self, key: str) -> str:
        """Return a string without the spaces behind it; "" where it is absent or none."""
        found = STRING.match(self.cards.get(key.encode(), b"").lstrip())
        return found[1].replace(b"''", b"'").rstrip().decode("ascii", "replace") if found else ""

    def true(self, key: str) -> bool:
        """Return whether a keyword is there and says T."""
        return self._value(key) == b"T"

    def axes(self, prefix: str = "") -> tuple[int, ...]:
        """Return the lengths of the axes, the fastest last as in numpy.

        Raises:
            CutoutError: MALFORMED.
        """
        count = self.integer(f"{prefix}NAXIS")
        if not 0 <= count <= 999:
            raise CutoutError(Flag.MALFORMED, f"unit {self.number}: {count} axes")
        axes = tuple(self.integer(f"{prefix}NAXIS{i}") for i in range(count, 0, -1))
        if any(axis < 0 for axis in axes):
            raise CutoutError(Flag.MALFORMED, f"unit {self.number}: axes {axes}")
        return axes

    def size(self) -> int:
        """Return how many bytes its data have, without padding; CutoutError MALFORMED."""
        axes = self.axes()
        if axes and axes[-1] == 0 and self.true("GROUPS"):
            axes = axes[:-1]
        elements = math.prod(axes) if axes else 0
        extra, groups = self.integer("PCOUNT", 0), self.integer("GCOUNT", 1)
        bits = self.integer("BITPIX")
        if bits not in (8, 16, 32, 64, -32, -64) or extra < 0 or groups < 0:
            raise CutoutError(Flag.MALFORMED, f"unit {self.number}: BITPIX {bits}, {extra} extra")
        return abs(bits) // 8 * groups * (extra + elements)

    def _value(self, key: str) -> bytes | None:
        value = self.cards.get(key.encode())
        return None if value is None else value.partition(b"/")[0].strip()


def units(file: Bytes) -> Iterator[Unit]:
    """Yield the units of a file; none of their data is read.

    Raises:
        CutoutError: MALFORMED, or SHAPE where there are too many.
    """
    offset = 0
    for number in range(MAX_UNITS):
        if number and _ends(file.at(offset, BLOCK)):
            return
        unit = unit_at(file, offset, number)
        yield unit
        offset = unit.start + -(-unit.size() // BLOCK) * BLOCK
    raise CutoutError(Flag.SHAPE, f"more than {MAX_UNITS} units")


def unit_at(file: Bytes, offset: int, number: int) -> Unit:
    """Return the unit whose header is at `offset`; CutoutError MALFORMED where none is."""
    cards, start = _header(file, offset, number)
    return Unit(number, cards, offset, start)


def _ends(block: bytes) -> bool:
    """Say whether the last unit has passed: tapes are filled up with zeros or spaces."""
    if not block.strip(b"\0 "):
        return True
    if not block.startswith(b"XTENSION"):
        raise CutoutError(Flag.MALFORMED, "bytes left over behind its last unit")
    return False


def _header(file: Bytes, offset: int, number: int) -> tuple[dict[bytes, bytes], int]:
    """Return the cards of a header, and where it ends."""
    cards: dict[bytes, bytes] = {}
    first = file.at(offset, BLOCK)
    if number == 0 and not first.startswith(b"SIMPLE  ="):
        raise CutoutError(Flag.MALFORMED, "not a FITS file" if first else "empty file")
    for start in range(offset, offset + MAX_HEADER, BLOCK):
        block = file.at(start, BLOCK)
        for place in range(0, len(block) - CARD + 1, CARD):
            card = block[place : place + CARD]
            if card == END and len(block) == BLOCK:
                return cards, start + BLOCK
            if card[8:10] == b"= ":
                cards.setdefault(card[:8].rstrip(), card[10:])
        if len(block) < BLOCK:
            raise CutoutError(Flag.MALFORMED, f"unit {number}: its header is truncated")
    raise CutoutError(Flag.MALFORMED, f"unit {number}: a header of more than {MAX_HEADER} bytes")


def _shown(text: bytes | None) -> str:
    return "absent" if text is None else repr(text[:40].decode("ascii", "replace"))
