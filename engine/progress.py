"""How far a run is, on stderr: one line kept up to date on a terminal, else one now and then."""

import time
from contextlib import suppress
from typing import TextIO

TERMINAL_SECONDS = 0.2
LOG_SECONDS = 30.0


class Progress:
    """Counts cutouts; a context manager that leaves the terminal's line clean."""

    def __init__(self, total: int, stream: TextIO, *, done: int = 0) -> None:
        """Begin with `done` of `total` already done, which say nothing of the rate."""
        self._total = total
        self._before = done
        self._stream = stream
        self._terminal = stream.isatty()
        self._period = TERMINAL_SECONDS if self._terminal else LOG_SECONDS
        self._start = self._shown = time.monotonic()
        self._done = done

    def __enter__(self) -> "Progress":
        return self

    def add(self, count: int) -> None:
        """Count more cutouts as done; say so if it is time."""
        self._done += count
        now = time.monotonic()
        if now - self._shown >= self._period:
            self._shown = now
            line = describe(self._done, self._total, now - self._start, self._before)
            say(f"\r\x1b[2K{line}" if self._terminal else f"{line}\n", self._stream)

    def __exit__(self, *error: object) -> None:
        if self._terminal:
            say("\r\x1b[2K", self._stream)


def say(text: str, stream: TextIO) -> None:
    """Write at once; a reader that has gone away (`2>&1 | head`) must not stop the run."""
    with suppress(OSError):
        stream.write(text)
        stream.flush()


def describe(done: int, total: int, seconds: float, before: int = 0) -> str:
    """Return the line: how many of how many, at what rate, how long still.

    `before` of those done were done before the clock began.
    """
    rate = (done - before) / seconds if seconds > 0 else 0.0
    left = duration((total - done) / rate) if rate else "unknown"
    return f"{done:,} of {total:,} cutouts, {rate:,.0f}/s, {left} left"


def duration(seconds: float) -> str:
    """Return 3.2 s, 4 min 10 s, 5 h 03 min or 2 d 04 h."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    for unit, small, size, part in (("min", "s", 60, 1), ("h", "min", 3600, 60)):
        if seconds < size * (60 if unit == "min" else 24):
            whole, rest = divmod(seconds, size)
            return f"{whole:.0f} {unit} {int(rest / part):02d} {small}"
    days, rest = divmod(seconds, 86400)
    return f"{days:.0f} d {int(rest / 3600):02d} h"
