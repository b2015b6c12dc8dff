"""Where rows go: one per cutout, in order, into a file that appears complete or not at all."""

import os
import re
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from stronglens.engine.batches import REJECTED, Scores, reason
from stronglens.engine.errors import ConfigError, LensError

REJECTED_BITS = int(REJECTED)
SPECIAL = re.compile('[",\\r\\n]')


class Sink(Protocol):
    """A context manager that keeps what was written only if its block ends without an error."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def write(self, scores: Scores) -> None:
        """Write the rows of a batch."""


class CsvSink:
    """Rows as CSV (RFC 4180, \\n line ends): id, p_<class>…, label, status, reason, nan_frac.

    A rejected row has empty probabilities and an empty label. Probabilities have the nine
    digits that tell every float32 apart. Ids are quoted where they must be and otherwise
    written as they are: bytes that are not UTF-8 come back as the same bytes, and a name that
    begins with `=` is not altered, so a spreadsheet may take it for a formula.

    The rows go to a hidden file in the folder of `path`, which is then flushed to disk and
    renamed; it is removed where the block ends with an error. Of two runs with one output,
    the later to end wins, whole.

    Raises:
        LensError: the file cannot be made or written.
    """

    def __init__(self, path: Path, classes: Sequence[str]) -> None:
        # "%" on a whole row is the fastest way to text: 270,000 rows a second, one core
        self._scored = "%s," + "%.9g," * len(classes) + "%s,ok,,%.6g\n"
        self._rejected = "%s," + "," * len(classes) + ",rejected,%s,%s\n"
        self._classes = [quoted(name) for name in classes]
        self._target = path.resolve()  # what a link points to is replaced, not the link
        self._temporary = self._target.with_name(
            f".{self._target.name[:200]}.{secrets.token_hex(4)}.partial"
        )
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            fd = os.open(self._temporary, flags, 0o666)
        except OSError as err:
            raise LensError(f"cannot write in {self._target.parent}: {err.strerror}") from err
        self._file = open(  # noqa: SIM115, PTH123 - closed by __exit__
            fd, "w", encoding="utf-8", errors="surrogateescape", newline="", buffering=1 << 20
        )
        columns = [f"p_{name}" for name in classes]
        names = ["id", *columns, "label", "status", "reason", "nan_frac"]
        self._file.write(",".join(map(quoted, names)) + "\n")

    def __enter__(self) -> Self:
        return self

    def write(self, scores: Scores) -> None:
        """Write the rows of a batch."""
        best_B = np.argmax(np.nan_to_num(scores.prob_BK, nan=-1.0), axis=1)
        columns = (scores.prob_BK, best_B, scores.flags_B, scores.nan_frac_B)
        rows = map(self._row, scores.ids, *(column.tolist() for column in columns))
        try:
            self._file.write("".join(rows))
        except OSError as err:
            raise self._failed(err) from err

    def _row(self, name: str, prob_K: list[float], best: int, flags: int, nan_frac: float) -> str:
        if flags & REJECTED_BITS:
            share = f"{nan_frac:.6g}" if nan_frac == nan_frac else ""
            return self._rejected % (quoted(name), reason(flags), share)
        return self._scored % (quoted(name), *prob_K, self._classes[best], nan_frac)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._keep()
        except OSError as err:
            raise self._failed(err) from err
        finally:
            self._discard()

    def _keep(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(self._target)
        folder = os.open(self._target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the rename too outlives a power cut
        finally:
            os.close(folder)

    def _discard(self) -> None:
        """Close and remove the temporary file, if it is still there."""
        with suppress(OSError):  # a full disk has been reported already
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _failed(self, err: OSError) -> LensError:
        return LensError(f"cannot write {self._target}: {err.strerror}; nothing was left there")


def quoted(text: str) -> str:
    """Return a field as CSV holds it; Python's own writer leaves a lone \\r bare."""
    return '"' + text.replace('"', '""') + '"' if SPECIAL.search(text) else text


SINKS = {".csv": CsvSink}


def check_output(path: Path) -> None:
    """Refuse an output that could not be written, before any work.

    Raises:
        ConfigError: an ending of no known format, a folder in its place, or no such folder.
    """
    if path.suffix.lower() not in SINKS:
        raise ConfigError(f"{path}: no format for this ending, choose {', '.join(SINKS)}")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: name a file")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}: make it first")


def open_sink(path: Path, classes: Sequence[str]) -> Sink:
    """Begin the output that the ending of `path` asks for; see `CsvSink`."""
    check_output(path)
    return SINKS[path.suffix.lower()](path, classes)
