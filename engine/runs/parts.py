"""What a run has done so far, on disk, so that it can be killed anywhere and go on.

    preds.csv.parts/                    beside the output, gone once that is written
        lock                            held by the run that writes here; says which
        run.json                        what the run is: model, precision, listing, rows
        0000000000-0000016384.1c291ca3.part   records of rows 0 to 16,383, and their CRC-32

A part holds numbers alone (a .npy file by another name, so that nobody takes it for a cutout):
the ids are those of the listing. It gets its name when it is whole and on disk, and is not
written again, but for `retry`, which puts another in its place.
"""

import io
import json
import os
import re
import shutil
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.batches import REJECTED, Scores
from stronglens.engine.errors import ConfigError, LensError
from stronglens.engine.sinks.atomic import replacing

try:
    import fcntl
except ImportError:  # Windows: two runs on one output are not noticed there
    fcntl = None  # type: ignore[assignment]

FORMAT = 1
PART_BYTES = 1 << 22
"""A part is ended at this size at the latest"""
SHARE_AT_RISK = 0.02
"""of a run's time; a part is ended when it holds that much of it, and `seconds` at least, so that
a kill costs little and a week makes hundreds of parts, not thousands"""
NAME = re.compile(r"(\d{10,})-(\d{10,})\.([0-9a-f]{8})\.part")

Records = NDArray[np.void]
"""structured, a record a row: see `record_type`"""


def record_type(num_classes: int, encoding: int = 0) -> np.dtype[np.void]:
    """Return the type of a row's record: flags, nan_frac, prob (K,) and, if any, encoding (D,)."""
    fields: list[Any] = [("flags", "<u2"), ("nan_frac", "<f4"), ("prob", "<f4", (num_classes,))]
    return np.dtype([*fields, ("encoding", "<f4", (encoding,))] if encoding else fields)


def records_of(scores: Scores) -> Records:
    """Return the records of a batch."""
    encoding_BD = scores.encoding_BD
    width = 0 if encoding_BD is None else encoding_BD.shape[1]
    found = np.empty(len(scores.ids), record_type(scores.prob_BK.shape[1], width))
    found["flags"], found["nan_frac"] = scores.flags_B, scores.nan_frac_B
    found["prob"] = scores.prob_BK
    if encoding_BD is not None:
        found["encoding"] = encoding_BD
    return found


class Parts:
    """The finished rows of one run; a context manager that holds the run's lock.

    Leaving the block keeps the rows written so far, whatever ended it; a run that has none yet
    leaves nothing.

    Raises:
        LensError: another run writes this output, or the folder cannot be written.
    """

    def __init__(self, out: Path, *, seconds: float = 10.0) -> None:
        """Take the lock; `seconds` of work at least make a part."""
        self.folder = out.with_name(f"{out.name}.parts")
        self.done = 0
        """rows that are on disk"""
        self._seconds = seconds
        self._begun = self._ended = time.monotonic()
        self._pending: list[Records] = []
        self._bytes = 0
        self._names: list[str] = []
        self._removed = False
        self._lock = self._take_lock()

    def __enter__(self) -> "Parts":
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.end_part()
        finally:
            with suppress(OSError):  # somebody may have removed the folder
                if self._removed or not self._numbered():
                    shutil.rmtree(self.folder, ignore_errors=True)
            os.close(self._lock)

    # ------------------------------------------------------------ who writes, and what

    def _take_lock(self) -> int:
        file = self.folder / "lock"
        while True:
            try:
                self.folder.mkdir(exist_ok=True)
                fd = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
            except FileNotFoundError:
                if not self.folder.parent.is_dir():
                    raise ConfigError(f"there is no folder {self.folder.parent}") from None
                continue  # the run before has just removed its folder
            except OSError as err:
                raise LensError(f"cannot write in {self.folder}: {err.strerror}") from err
            self._lock_file(fd, file)
            if _is_still(fd, file):
                with suppress(OSError):  # a full disk shows where rows are written
                    os.ftruncate(fd, 0)
                    os.write(fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                return fd
            os.close(fd)

    def _lock_file(self, fd: int, file: Path) -> None:
        try:
            if fcntl:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.read(fd, 200).decode(errors="replace").strip()
            os.close(fd)
            raise LensError(
                f"another run is writing this output ({who}): wait for it, or give another --out"
            ) from None
        except OSError:  # some cluster file systems have no locks: go on without
            pass

    def agree(self, run: dict[str, Any], dtype: np.dtype[np.void]) -> None:
        """Begin, or go on with, the run that `run` describes.

        Raises:
            LensError: the folder holds rows of another run, or cannot be written.
        """
        file = self.folder / "run.json"
        mine = json.loads(json.dumps({"format": FORMAT, **run}))
        try:
            found = json.loads(file.read_text()) if file.exists() else None
        except (ValueError, OSError):
            found = {}
        if found is None:
            self._write(file.name, (json.dumps(mine, indent=2) + "\n").encode())
        elif found != mine:
            others = sorted(k for k in {*mine, *found} if mine.get(k) != found.get(k))
            raise LensError(
                f"{self.folder} holds finished rows of another run; it differs in "
                f"{', '.join(others)}. To go on with that run, give its options, model and "
                f"inputs; to drop it, remove that folder; or give another --out"
            )
        self.dtype = dtype
        self._names = self._find_parts()

    def _find_parts(self) -> list[str]:
        """Return the parts that follow each other from row 0 on, and remove what is beside them."""
        names = []
        for name, (start, end) in sorted(self._numbered().items()):
            if start != self.done or self._load(name) is None:
                (self.folder / name).unlink()  # of a run cut off by a power failure, say
                continue
            names.append(name)
            self.done = end
        return names

    def _numbered(self) -> dict[str, tuple[int, int]]:
        """Return the files that are named as parts, and the rows they are named for."""
        found = (NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return {m[0]: (int(m[1]), int(m[2])) for m in found if m}

    def _load(self, name: str) -> Records | None:
        """Return the records of a part; None where it is damaged."""
        start, end, crc = NAME.fullmatch(name).groups()  # type: ignore[union-attr]
        data = (self.folder / name).read_bytes()
        if f"{zlib.crc32(data):08x}" != crc:
            return None
        records: Records = np.load(io.BytesIO(data), allow_pickle=False)
        fits = records.dtype == self.dtype and records.shape == (int(end) - int(start),)
        return records if fits else None

    # ------------------------------------------------------------ rows

    def add(self, records: Records) -> None:
        """Add rows; they are on disk once their part ends."""
        self._pending.append(records)
        self._bytes += records.nbytes
        now = time.monotonic()
        due = max(self._seconds, SHARE_AT_RISK * (now - self._begun))
        if self._bytes >= PART_BYTES or now - self._ended >= due:
            self.end_part()

    def end_part(self) -> None:
        """Put the rows added so far on disk.

        Raises:
            LensError: the folder cannot be written; what was finished before is kept.
        """
        if self._pending:
            self._names.append(self._write_part(self.done, np.concatenate(self._pending)))
            self.done += sum(map(len, self._pending))
            self._pending, self._bytes = [], 0
        self._ended = time.monotonic()

    def _write_part(self, start: int, records: Records) -> str:
        buffer = io.BytesIO()
        np.save(buffer, records, allow_pickle=False)
        data = buffer.getvalue()
        name = f"{start:010d}-{start + len(records):010d}.{zlib.crc32(data):08x}.part"
        self._write(name, data)
        return name

    def _write(self, name: str, data: bytes) -> None:
        try:
            with replacing(self.folder / name) as file:
                file.write(data)
        except LensError as err:
            why = getattr(err.__cause__, "strerror", None) or err
            kept = f"{self.done:,} finished rows are kept" if self.done else "no row was finished"
            raise LensError(
                f"cannot write in {self.folder}: {why}; {kept}: make room, and run the same "
                "command to go on"
            ) from err

    def records(self) -> Iterator[Records]:
        """Yield the finished rows, a part at a time."""
        for name in self._names:
            records = self._load(name)
            if records is None:
                raise LensError(f"{self.folder / name} was changed while the run went on")
            yield records

    def count_rejected(self) -> int:
        """Return how many of the finished rows are rejected."""
        return sum(int(((each["flags"] & REJECTED) != 0).sum()) for each in self.records())

    def retry(self) -> Iterator[tuple[int, Records]]:
        """Yield (first row, records) of each part with rejected rows; what is changed is kept."""
        for i, name in enumerate(self._names):
            records = self._load(name)
            if records is None or not (records["flags"] & REJECTED).any():
                continue
            start = int(name.partition("-")[0])
            yield start, records
            new = self._write_part(start, records)
            if new != name:
                self._names[i] = new
                (self.folder / name).unlink()

    def remove(self) -> None:
        """Let the folder go when the block is left: the output is written."""
        self._removed = True


def _is_still(fd: int, file: Path) -> bool:
    """Return whether a locked file still has its name."""
    try:
        return os.path.samestat(os.fstat(fd), file.stat())
    except FileNotFoundError:
        return False
