"""Score the cutouts of a run and keep their records: the loop that the time is spent in."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import compress
from typing import TextIO

import numpy as np

from stronglens.engine.backends import Backend
from stronglens.engine.batches import REJECTED, Batch, Flag, Scores
from stronglens.engine.clock import StageClock
from stronglens.engine.config import EngineConfig, Tolerated
from stronglens.engine.errors import TooManyRejectedError
from stronglens.engine.feed import feed
from stronglens.engine.progress import Progress
from stronglens.engine.report import RunReport
from stronglens.engine.runs.identity import Run
from stronglens.engine.runs.parts import Parts, records_of
from stronglens.engine.sources import Cutout


def auto_workers(device: str, cores: int) -> int:
    """Return how many threads feed the model.

    One thread prepares tens of thousands of cutouts a second, more than any CPU can score; the
    second hides the waits of slow storage. Beside a GPU a few more hide longer ones: the cores
    have nothing else to do.
    """
    return 2 if device == "cpu" else max(2, min(4, cores))


@dataclass(slots=True)
class Scoring:
    """A run, what scores it, and where its records go."""

    run: Run
    backend: Backend
    parts: Parts
    report: RunReport
    config: EngineConfig
    clock: StageClock
    check: Callable[[], None]
    """called before each batch, when all the batches before it are in `parts`"""

    def go_on(self, max_bad: Tolerated, stderr: TextIO) -> None:
        """Score what is not finished yet.

        Raises:
            TooManyRejectedError: what is finished is kept.
        """
        begin = time.perf_counter()
        run, total, done = self.run, len(self.run), self.parts.done
        rejected = self.parts.count_rejected()
        check_bearable(max_bad, rejected, done, total)
        cutouts = run.source.cutouts(run.start + done, run.stop)
        with Progress(total, stderr, done=done) as progress:
            for scores in self.scores(cutouts):
                with self.clock.timing("write"):
                    self.parts.add(records_of(scores))
                rejected += int(((scores.flags_B & REJECTED) != 0).sum())
                done += len(scores.ids)
                progress.add(len(scores.ids))
                check_bearable(max_bad, rejected, done, total)
        self.parts.end_part()
        self.report.wall += time.perf_counter() - begin

    def try_again(self) -> tuple[int, int]:
        """Score the rejected rows among the finished ones anew; return how many, and how many now
        have scores."""
        begin = time.perf_counter()
        tried = mended = 0
        for first, records in self.parts.retry():
            again_B = (records["flags"] & REJECTED) != 0
            start = self.run.start + first
            cutouts = self.run.source.cutouts(start, start + len(records))
            at = np.flatnonzero(again_B)
            for scores in self.scores(compress(cutouts, again_B.tolist())):
                some, at = at[: len(scores.ids)], at[len(scores.ids) :]
                records[some] = records_of(scores)
                tried += len(some)
                mended += int(((scores.flags_B & REJECTED) == 0).sum())
        self.report.wall += time.perf_counter() - begin
        return tried, mended

    def scores(self, cutouts: Iterator[Cutout]) -> Iterator[Scores]:
        """Yield the scores of `cutouts`, a batch at a time."""
        batches = feed(
            cutouts,
            self.run.bundle.manifest.preprocess,
            batch_size=self.backend.batch_size,
            workers=self.report.workers,
            buffer=self.backend.buffer,
            ahead=self.config.ahead,
            clock=self.clock,
        )
        with closing(batches):
            while True:
                self.check()
                with self.clock.timing("wait"):
                    batch = next(batches, None)
                if batch is None:
                    return
                with self.clock.timing("run"):
                    scores = score(batch, self.backend, self.run.num_classes, self.run.encoding)
                yield scores


def score(batch: Batch, backend: Backend, num_classes: int, encoding: int = 0) -> Scores:
    """Run a batch; rows that are rejected, or whose probabilities are not finite, are NaN.

    Args:
        batch: of the feed.
        backend: opened for encodings if `encoding` is not 0.
        num_classes: K.
        encoding: D; 0: none.
    """
    flags_B = batch.flags_B.copy()
    rejected_B = (flags_B & REJECTED) != 0
    if rejected_B.all():
        out_BK = np.full((len(batch.ids), num_classes + encoding), np.nan, np.float32)
    else:
        out_BK = backend.run(batch.x_BHW)
    prob_BK = out_BK[:, :num_classes]
    finite_B = np.isfinite(prob_BK).all(axis=1)
    flags_B[~finite_B & ~rejected_B] |= np.uint16(Flag.UNSCORED)
    out_BK[rejected_B | ~finite_B] = np.nan
    encoding_BD = out_BK[:, num_classes:] if encoding else None
    return Scores(batch.ids, prob_BK, flags_B, batch.nan_frac_B.copy(), encoding_BD)


def check_bearable(max_bad: Tolerated, rejected: int, done: int, total: int) -> None:
    """Raise TooManyRejectedError where more cutouts are rejected than the user bears."""
    if max_bad.exceeded(rejected, done, total):
        raise TooManyRejectedError(
            f"{rejected:,} of {done:,} cutouts were rejected, more than --max-bad bears: stopped. "
            "What is finished is kept: mend the inputs and run the same command with --retry, or "
            "allow more"
        )
