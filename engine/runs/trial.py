"""How fast each stage of a run is, measured on a sample of it."""

import tempfile
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import chain, repeat
from pathlib import Path

import numpy as np

from stronglens.engine.backends import Backend
from stronglens.engine.batches import Batch, Rows, Scores
from stronglens.engine.feed import feed
from stronglens.engine.runs.identity import Run
from stronglens.engine.runs.output import rows_of
from stronglens.engine.runs.parts import records_of
from stronglens.engine.scoring import score
from stronglens.engine.sinks import Shape, open_sink
from stronglens.engine.sources import Cutout

TRIAL = 1.5
"""seconds that a stage is tried at the least"""
LONGEST_READ = 20.0
"""seconds that reading the sample may take; on slow storage less of it is read"""
LONG_ENOUGH = 0.25
"""seconds of reading that tell a rate; what is faster lies in memory"""
WRITTEN = 20_000
"""rows that are written"""


def try_scoring(
    run: Run, backend: Backend, sample: Sequence[Cutout], workers: int, ahead: int
) -> tuple[dict[str, float], Rows]:
    """Return cutouts a second of "feed", "model" and "score" (both at once), and the rows.

    The sample is read once as it lies, on disk or in memory, and then again and again from
    memory, alone and with the model, which then shares the processor with the feed. If the
    first reading took long enough to tell, scoring is no faster than that.
    """

    def batches(cutouts: Iterable[Cutout]) -> Generator[Batch, None, None]:
        return feed(
            cutouts,
            run.bundle.manifest.preprocess,
            batch_size=backend.batch_size,
            workers=workers,
            buffer=backend.buffer,
            ahead=ahead,
        )

    begin = time.perf_counter()
    with closing(batches(_until(sample, begin + LONGEST_READ))) as first:
        count = sum(len(batch.ids) for batch in first)
    reading = time.perf_counter() - begin
    endless = partial(chain.from_iterable, repeat(sample[:count]))
    with closing(batches(endless())) as warm:
        one = next(warm)
        x_BHW = one.x_BHW.copy()
        fed = _rate(len(batch.ids) for batch in warm)
    model = _rate(len(backend.run(x_BHW)) for _ in repeat(None))
    scores: list[Scores] = []
    with closing(batches(endless())) as warm:
        scored = _rate(_scored(warm, backend, run, scores, count))
    if reading >= LONG_ENOUGH:
        fed = count / reading
    return {"feed": fed, "model": model, "score": min(fed, scored)}, _joined(scores, count)


def _until(sample: Sequence[Cutout], end: float) -> Iterator[Cutout]:
    for i, cutout in enumerate(sample):
        if i and time.perf_counter() > end:
            return
        yield cutout


def _rate(done: Iterator[int]) -> float:
    """Return how many are done a second, over TRIAL seconds at least."""
    total, begin = 0, time.perf_counter()
    for count in done:
        total += count
        if (spent := time.perf_counter() - begin) >= TRIAL:
            return total / spent
    raise AssertionError("ends only when it is closed")


def _scored(
    batches: Iterator[Batch], backend: Backend, run: Run, scores: list[Scores], count: int
) -> Iterator[int]:
    """Yield how many cutouts each batch scores; put the first `count` in `scores`."""
    for batch in batches:
        found = score(batch, backend, run.num_classes, run.encoding)
        if sum(len(each.ids) for each in scores) < count:
            scores.append(found)
        yield len(batch.ids)


def _joined(scores: Sequence[Scores], count: int) -> Rows:
    records = np.concatenate([records_of(each) for each in scores])[:count]
    return rows_of([name for each in scores for name in each.ids][:count], records, [])


def try_writing(out: Path, run: Run, rows: Rows) -> tuple[float, float]:
    """Return rows a second that are written to the format of `out`, and the bytes of one.

    Catalogue columns are counted as empty.
    """
    at = np.resize(np.arange(len(rows.ids)), WRITTEN)
    ids = [rows.ids[i] for i in at.tolist()]
    carried = [[""] * len(run.source.columns) for _ in ids] if run.source.columns else []
    many = Rows(ids, rows.prob_BK[at], rows.flags_B[at], rows.nan_frac_B[at], carried)
    shape = Shape(run.bundle.manifest.classes, run.source.columns, WRITTEN)
    with tempfile.TemporaryDirectory(prefix=".plan.", dir=out.parent) as folder:
        file = Path(folder) / f"plan{out.suffix}"
        begin = time.perf_counter()
        with open_sink(file, shape) as sink:
            sink.write(many)
        spent = time.perf_counter() - begin
        return WRITTEN / spent, file.stat().st_size / WRITTEN
