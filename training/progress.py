"""Progress on stderr: one line that is rewritten on a terminal, few lines in a log."""

import sys
import time
from contextlib import suppress
from typing import TextIO

from stronglens.engine.progress import duration

SETTLE_S = 10.0
"""seconds of steady steps after which the speed is believed"""
WINDOW_S = 30.0
"""the speed is that of the last one to two such spans: other work comes and goes"""
VALIDATION_COST = 1 / 3
"""of a cutout, relative to training on it: the forward pass only"""


class Progress:
    """Tells how far a training is and how long it will take."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.total = self.done = 0.0
        self.epochs = 0
        self.started = self.shown = 0.0
        self.older = self.newer = (0.0, 0.0)
        """times, and how much was done by then"""
        self.announced = False

    def say(self, text: str) -> None:
        """Write lines that stay."""
        self._write(("\r\x1b[K" if self.live else "") + text + "\n")

    def start(self, epochs: int, train: int, val: int) -> None:
        """Begin: `epochs` still to do, at most, each of so many cutouts."""
        self.epochs = epochs
        self.per_epoch = train + VALIDATION_COST * val
        self.total = epochs * self.per_epoch
        self.done = self.started = 0.0
        self.shown = time.monotonic()

    def step(self, epoch: int, cutouts: int, seen: int, train: int) -> None:
        """Tell of a training step: `seen` of `train` cutouts of `epoch` are behind."""
        self.done += cutouts
        now = time.monotonic()
        if not self.started:  # the first step warms up: allocations, compilations
            self.started = now
            self.older = self.newer = (now, self.done)
            return
        if now - self.newer[0] > WINDOW_S:
            self.older, self.newer = self.newer, (now, self.done)
        if not self.announced and now - self.started > SETTLE_S:
            self.announced = True
            plural = "s" if self.epochs > 1 else ""
            self.say(
                f"the whole run takes about {duration(self.total / self._rate(now))} at most: "
                f"{self.epochs} epoch{plural} at {self._rate(now):,.0f} cutouts a second"
            )
        if now - self.shown >= self._pause(now):
            self.shown = now
            self._show(
                f"epoch {epoch + 1}: {seen:,} of {train:,} cutouts, "
                f"{self._rate(now):,.0f} a second, at most {duration(self._left(now))} left"
            )

    def end_epoch(self, epoch: int, start: int, text: str) -> None:
        """Tell of a finished epoch; `start` is the first epoch of this process."""
        self.done = (epoch - start + 1) * self.per_epoch
        self.say(text)

    def simulated(self, done: int, total: int) -> None:
        """Tell how many cutouts the simulator has made."""
        now = time.monotonic()
        if now - self.shown >= (0.2 if self.live else 30.0):
            self.shown = now
            self._show(f"simulated {done:,} of {total:,} cutouts")

    def _pause(self, now: float) -> float:
        if self.live:
            return 0.2
        return max(60.0, 0.02 * (now - self.started + self._left(now)))

    def _rate(self, now: float) -> float:
        then, done = self.older
        return (self.done - done) / max(now - then, 1e-9)

    def _left(self, now: float) -> float:
        return (self.total - self.done) / max(self._rate(now), 1e-9)

    def _show(self, text: str) -> None:
        if self.live:
            self._write(f"\r{text}\x1b[K")
        else:
            self.say(text)

    def _write(self, text: str) -> None:
        with suppress(OSError):  # a training outlives the terminal it was started from
            self.stream.write(text)
            self.stream.flush()
