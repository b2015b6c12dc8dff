"""Rows as lines of text and back, for the formats that are text."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from stronglens.engine.batches import Rows, flag_words, reason, status
from stronglens.engine.sinks.table import CHUNK, best_class, bits, check_rows, not_ours

Cell = Callable[[str], str]
"""makes of a text what the format holds for it"""


class Lines:
    """Makes lines of rows: begin, cell, between, cell, …, end.

    Probabilities have the nine digits that tell every float32 apart, nan_frac has six. What is
    not there is an empty cell. Rows with the same flags and label differ in their numbers and
    names only, so each such kind has one template: "%" on it is the fastest way to text.
    """

    def __init__(
        self,
        classes: Sequence[str],
        cell: Cell,
        *,
        carried: Sequence[Cell] = (),
        begin: str = "",
        between: str,
        end: str,
    ) -> None:
        self._classes, self._cell, self._carried = classes, cell, carried
        self._begin, self._between, self._end = begin, between, end
        self._templates: dict[tuple[int, int], str] = {}

    def __call__(self, rows: Rows) -> str:
        """Return the lines of rows."""
        cell, templates = self._cell, self._templates
        arrays = (rows.prob_BK, best_class(rows), rows.flags_B, rows.nan_frac_B)
        columns = [array.tolist() for array in arrays]
        lines = []
        for name, tail, prob_K, best, flags, share in zip(
            rows.ids, self._tails(rows), *columns, strict=True
        ):
            kind = flags, best
            template = templates.get(kind) or self._template(kind)
            if best < 0:
                known = "%.6g" % share if share == share else ""  # noqa: UP031
                lines.append(template % (cell(name), known, tail))
            else:
                lines.append(template % (cell(name), *prob_K, share, tail))
        return "".join(lines)

    def _tails(self, rows: Rows) -> list[str]:
        if not self._carried:
            return [""] * len(rows.ids)
        return [
            "".join(
                [self._between + cell(text) for cell, text in zip(self._carried, row, strict=True)]
            )
            for row in rows.carried
        ]

    def _template(self, kind: tuple[int, int]) -> str:
        flags, best = kind
        count = len(self._classes)
        scored = best >= 0
        words = [
            *(["%.9g"] * count if scored else [""] * count),
            self._literal(self._classes[best] if scored else ""),
            *(self._literal(word(flags)) for word in (status, reason)),
            "%.6g" if scored else "%s",
            self._literal(flag_words(flags)),
        ]
        line = self._between.join(["%s", *words])
        template = f"{self._begin}{line}%s{self._end}"
        self._templates[kind] = template
        return template

    def _literal(self, text: str) -> str:
        return self._cell(text).replace("%", "%%")


def read_rows(
    lines: Iterator[Sequence[str]], classes: Sequence[str], width: int, path: Path
) -> Iterator[Rows]:
    """Yield the rows whose cells are read, in chunks.

    Args:
        lines: the cells of a row each.
        classes: of the output.
        width: how many cells a row has.
        path: of the output, for errors.

    Raises:
        InputError: a cell is not what its column holds; says which row, counted from 1.
    """
    done = 0
    while cells := list(islice(lines, CHUNK)):
        try:
            yield _parse(cells, classes, width)
        except ValueError:
            row, err = next(_wrong(cells, classes, width))
            raise not_ours(path, f"row {done + row + 1}: {err}") from err
        done += len(cells)


def _wrong(
    cells: Sequence[Sequence[str]], classes: Sequence[str], width: int
) -> Iterator[tuple[int, ValueError]]:
    for i, row in enumerate(cells):
        try:
            _parse([row], classes, width)
        except ValueError as err:
            yield i, err


def _parse(cells: Sequence[Sequence[str]], classes: Sequence[str], width: int) -> Rows:
    end = 1 + len(classes)
    for row in cells:
        if len(row) != width:
            raise ValueError(f"{len(row)} fields instead of {width}")
    columns = list(zip(*(row[: end + 5] for row in cells), strict=True))
    rows = Rows(
        list(columns[0]),
        np.array([[float(p or "nan") for p in row[1:end]] for row in cells], np.float32),
        np.array([bits(words) for words in columns[end + 4]], np.uint16),
        np.array([float(share or "nan") for share in columns[end + 3]], np.float32),
        [list(row[end + 5 :]) for row in cells] if width > end + 5 else [],
    )
    check_rows(rows, classes, columns[end : end + 3])
    return rows
