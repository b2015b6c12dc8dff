"""The whole engine: list, feed, run, write."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TextIO

import numpy as np

from stronglens.engine.backends import Backend, open_backend
from stronglens.engine.batches import REJECTED, Batch, Flag, Scores
from stronglens.engine.bundle import Bundle, load_bundle, newest_bundle
from stronglens.engine.clock import StageClock
from stronglens.engine.config import EngineConfig
from stronglens.engine.feed import feed
from stronglens.engine.golden import replay
from stronglens.engine.machine import usable_cores
from stronglens.engine.progress import Progress, say
from stronglens.engine.report import RunReport, threads
from stronglens.engine.sinks import Sink, check_output, open_sink
from stronglens.engine.sources import open_source
from stronglens.engine.warmup import warming_up


def classify(
    inputs: Sequence[str | Path],
    *,
    model: Path | None = None,
    out: Path,
    config: EngineConfig | None = None,
    stderr: TextIO | None = None,
    check: Callable[[], None] = lambda: None,
) -> RunReport:
    """Score every cutout of `inputs` and write one row each to `out`.

    Args:
        inputs: files, folders and patterns; see `open_source`.
        model: a bundle; None: the newest one under bundles/.
        out: the file to write; see `open_sink`.
        config: how to use the machine.
        stderr: gets the line on what was chosen, and the progress.
        check: called between the steps; what it raises ends the run, and nothing is written.

    Raises:
        LensError: nothing to read, no such model, a device that is not there, an output that
            cannot be written, or a model that does not answer as it did where it was made.
            Nothing is then written.
    """
    config = config or EngineConfig()
    stderr = stderr or sys.stderr
    clock = StageClock()
    check_output(out)
    with clock.timing("start"):
        bundle = load_bundle(model or newest_bundle())
    check()
    with clock.timing("list"):
        source = open_source(inputs)
    check()
    with open_sink(out, bundle.manifest.classes) as sink:
        with clock.timing("start"), warming_up(source, bundle.manifest.preprocess):
            backend = _open_and_replay(bundle, config, check, stderr)
        with closing(backend):
            report = RunReport(
                out=out,
                classes=bundle.manifest.classes,
                model=bundle.path,
                label=backend.label,
                workers=config.workers or auto_workers(backend.device, usable_cores()),
                skipped=source.skipped,
                duplicates=source.duplicates,
                seconds=clock.seconds,
            )
            say(f"{report.label}; fed by {threads(report.workers)}\n", stderr)
            batches = feed(
                source,
                bundle.manifest.preprocess,
                batch_size=backend.batch_size,
                workers=report.workers,
                buffer=backend.buffer,
                ahead=config.ahead,
                clock=clock,
            )
            with closing(batches), Progress(len(source), stderr) as progress:
                _score_all(batches, backend, sink, report, clock, progress, check)
    return report


def _open_and_replay(
    bundle: Bundle, config: EngineConfig, check: Callable[[], None], stderr: TextIO
) -> Backend:
    backend = open_backend(
        bundle,
        device=config.device,
        precision=config.precision,
        threads=config.threads,
        batch_size=config.batch_size,
        say=lambda line: say(f"{line}\n", stderr),
        check=check,
    )
    check()
    replay(bundle, backend)
    check()
    return backend


def auto_workers(device: str, cores: int) -> int:
    """Return how many threads feed the model.

    One thread prepares tens of thousands of cutouts a second, more than any CPU can score; the
    second hides the waits of slow storage. Beside a GPU a few more hide longer ones: the cores
    have nothing else to do.
    """
    return 2 if device == "cpu" else max(2, min(4, cores))


def _score_all(
    batches: Iterator[Batch],
    backend: Backend,
    sink: Sink,
    report: RunReport,
    clock: StageClock,
    progress: Progress,
    check: Callable[[], None],
) -> None:
    begin = time.perf_counter()
    while True:
        with clock.timing("wait"):
            batch = next(batches, None)
        check()
        if batch is None:
            break
        with clock.timing("run"):
            scores = score(batch, backend, len(report.classes))
        with clock.timing("write"):
            sink.write(scores)
        report.count(scores)
        progress.add(len(scores.ids))
    report.wall = time.perf_counter() - begin


def score(batch: Batch, backend: Backend, num_classes: int) -> Scores:
    """Run a batch; rows that are rejected, or whose probabilities are not finite, are NaN."""
    flags_B = batch.flags_B.copy()
    rejected_B = (flags_B & REJECTED) != 0
    if rejected_B.all():
        prob_BK = np.full((len(batch.ids), num_classes), np.nan, np.float32)
    else:
        prob_BK = backend.run(batch.x_BHW)
        finite_B = np.isfinite(prob_BK).all(axis=1)
        flags_B[~finite_B & ~rejected_B] |= np.uint16(Flag.UNSCORED)
        prob_BK[rejected_B | ~finite_B] = np.nan
    return Scores(batch.ids, prob_BK, flags_B, batch.nan_frac_B.copy())
