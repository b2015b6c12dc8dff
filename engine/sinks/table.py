"""What outputs of all formats have in common: their columns, and what a row says in words."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.batches import REJECTED, Column, Flag, Rows, reason, status
from stronglens.engine.errors import InputError, LensError

TAIL = ["label", "status", "reason", "nan_frac", "flags"]
"""the columns behind the probabilities"""
CHUNK = 1 << 13
"""rows that are read at once"""


@dataclass(frozen=True, slots=True)
class Shape:
    """What is known of an output before its rows."""

    classes: list[str]
    """in the order of the probability columns"""
    columns: list[Column]
    """of the catalogue, carried through"""
    count: int
    """rows"""
    longest: dict[str, int] = field(default_factory=dict)
    """bytes of the longest value by column name: "id" and the columns of text. FITS begins with
    these widths; wrong or absent ones cost time, no text"""

    @property
    def names(self) -> list[str]:
        """The columns' names, in order."""
        own = ["id", *(f"p_{name}" for name in self.classes), *TAIL]
        return [*own, *_untaken(own, [column.name for column in self.columns])]


def _untaken(own: Sequence[str], names: Sequence[str]) -> list[str]:
    """Put `catalogue_` before the names that are taken, or empty.

    `ID` is taken by `id`: FITS and many readers of tables do not tell them apart.
    """
    taken = {"", *(name.casefold() for name in own)}
    free = []
    for each in names:
        name = each
        while name.casefold() in taken:
            name = f"catalogue_{name}"
        taken.add(name.casefold())
        free.append(name)
    return free


class Writer(Protocol):
    """Writes rows to an open file; a format has one."""

    def write(self, rows: Rows) -> None:
        """Write rows, at least one."""

    def finish(self) -> None:
        """Write what comes after the last row."""

    def close(self) -> None:
        """Let go without writing; safe after `finish`, and after an error."""


class Format(Protocol):
    """A module that knows a format."""

    def open_writer(self, file: BinaryIO, shape: Shape) -> Writer:
        """Begin an output."""

    def read(self, path: Path) -> "Output":
        """Open an output."""


@dataclass(frozen=True, slots=True)
class Output:
    """An output that was written; iterate over it, as often as wanted, for its rows in chunks.

    Raises, while it is iterated:
        LensError: the file is damaged, or a row's words are not what its numbers say.
    """

    classes: list[str]
    columns: list[Column]
    """of the catalogue; CSV does not tell their kind: there all are text"""
    chunks: Callable[[], Iterator[Rows]]

    def __iter__(self) -> Iterator[Rows]:
        return self.chunks()


def split_names(names: Sequence[str], path: Path) -> tuple[list[str], list[str]]:
    """Return the classes and the carried columns that an output's columns tell.

    Raises:
        LensError: they are not those of an output.
    """
    end = names.index("label") if "label" in names else 0
    ours = names[:1] == ["id"] and names[end : end + len(TAIL)] == TAIL and end > 1
    if not ours or not all(name.startswith("p_") for name in names[1:end]):
        found = ", ".join(names[:12]) or "none"
        raise not_ours(path, f"columns found: {found}; expected id, p_<class>, {', '.join(TAIL)}")
    return [name[2:] for name in names[1:end]], list(names[end + len(TAIL) :])


def not_ours(path: Path, why: object) -> InputError:
    """Return the error for a file that `lens-infer` has not written, or that was altered."""
    return InputError(f"{path} is not a whole output of lens-infer: {why}")


def best_class(rows: Rows) -> NDArray[np.intp]:
    """Return the column of the highest probability (B,), the first of equals; -1 where rejected."""
    best_B: NDArray[np.intp] = np.argmax(np.nan_to_num(rows.prob_BK, nan=-1.0), axis=1)
    best_B[(rows.flags_B & np.uint16(REJECTED)) != 0] = -1
    return best_B


def labels(rows: Rows, classes: Sequence[str]) -> list[str]:
    """Return each row's label, "" where it is rejected."""
    names = [*classes, ""]
    return [names[best] for best in best_class(rows).tolist()]


def spelled(rows: Rows, word: Callable[[int], str]) -> list[str]:
    """Return what `status`, `reason` or `flag_words` makes of each row's flags."""
    found, index_B = np.unique(rows.flags_B, return_inverse=True)
    words = [word(int(flags)) for flags in found]
    return [words[index] for index in index_B.tolist()]


@cache
def bits(words: str) -> int:
    """Return the flags that `flag_words` spells so; raises ValueError for other words."""
    flags = Flag.OK
    for word in words.split("|") if words else ():
        if word.upper() not in Flag.__members__ or word != word.lower():
            raise ValueError(f"flags {words!r}: there is no {word!r}")
        flags |= Flag[word.upper()]
    return int(flags)


def check_rows(rows: Rows, classes: Sequence[str], found: Sequence[Sequence[str]]) -> None:
    """Compare what rows say in words with what their numbers say.

    Args:
        rows: as read.
        classes: of the output.
        found: the columns label, status and reason as read.

    Raises:
        ValueError: they differ, or the scores are not there where they should be; says where.
    """
    scored_BK = np.isfinite(rows.prob_BK)
    accepted_B1 = (best_class(rows) >= 0)[:, None]
    if (scored_BK != accepted_B1).any():
        row = int((scored_BK != accepted_B1).any(axis=1).argmax())
        raise ValueError(f"{rows.ids[row]}: its probabilities are not what its flags say")
    expected = [labels(rows, classes), spelled(rows, status), spelled(rows, reason)]
    for column, said, right in zip(TAIL, found, expected, strict=False):
        for name, one, other in zip(rows.ids, said, right, strict=True):
            if one != other:
                raise ValueError(f"{name}: {column} is {one!r}, its numbers say {other!r}")


def parsed(text: str, kind: type[int] | type[float], name: str) -> int | float | None:
    """Return a carried value as a number, None for "".

    Raises:
        LensError: it is no such number.
    """
    try:
        number = kind(text) if text else None
    except ValueError:
        number = -(1 << 64)
    if isinstance(number, int) and not -(1 << 63) <= number < 1 << 63:
        raise LensError(
            f"column {name} of the catalogue: {text!r} is no {kind.__name__} of 64 bits"
        )
    return number
