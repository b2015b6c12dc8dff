"""What lies beside an output: the rejected rows, and the best ones."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from stronglens.engine.batches import REJECTED, Rows, flag_words, reason
from stronglens.engine.sinks.atomic import failed, replacing
from stronglens.engine.sinks.csv import quoted


def rejected_path(out: Path) -> Path:
    """Return where the rejected rows of an output go: preds.fits → preds.rejected.csv."""
    return out.with_name(f"{out.stem}.rejected.csv")


def top_path(out: Path) -> Path:
    """Return where the best rows of an output go: preds.fits → preds.top.fits."""
    return out.with_name(f"{out.stem}.top{out.suffix}")


class Rejected:
    """Writes the rejected ones of the rows it is given; see `open_rejected`."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path, self._stack = path, stack
        self._file: BinaryIO | None = None

    def write(self, rows: Rows) -> None:
        """Write those of the rows that are rejected."""
        lines = [
            _line(rows, row) for row in np.flatnonzero(rows.flags_B & np.uint16(REJECTED)).tolist()
        ]
        if lines and self._file is None:
            self._file = self._stack.enter_context(replacing(self._path))
            self._file.write(b"id,reason,nan_frac,flags\n")
        if self._file is not None:
            self._file.write("".join(lines).encode("utf-8", "surrogateescape"))

    def finish(self) -> None:
        """Remove the file of an earlier run where this one has rejected nothing."""
        if self._file is None:
            try:
                self._path.unlink(missing_ok=True)
            except OSError as err:
                raise failed(self._path, err) from err


def _line(rows: Rows, row: int) -> str:
    flags, share = int(rows.flags_B[row]), float(rows.nan_frac_B[row])
    known = f"{share:.6g}" if share == share else ""
    return f"{quoted(rows.ids[row])},{reason(flags)},{known},{flag_words(flags)}\n"


@contextmanager
def open_rejected(out: Path) -> Iterator[Rejected]:
    """Begin the CSV of an output's rejected rows, at `rejected_path`; there is none without any.

    Its columns are id, reason, nan_frac and flags, its rows in order of input.

    Raises:
        LensError: the file cannot be made or written.
    """
    with ExitStack() as stack:
        rejected = Rejected(rejected_path(out), stack)
        yield rejected
        rejected.finish()
