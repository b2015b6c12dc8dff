"""The whole engine: list, feed, run, keep what is done, write."""

import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TextIO

from stronglens.engine.backends import Backend, open_backend
from stronglens.engine.bundle import Bundle, load_bundle, newest_bundle
from stronglens.engine.candidates import Top, candidates
from stronglens.engine.clock import StageClock
from stronglens.engine.config import EngineConfig, Wanted
from stronglens.engine.errors import LensError
from stronglens.engine.golden import replay
from stronglens.engine.machine import usable_cores
from stronglens.engine.progress import say
from stronglens.engine.report import RunReport, threads
from stronglens.engine.runs.identity import Run, describe
from stronglens.engine.runs.output import finished_rows, remove_unfinished, shape_of, write_output
from stronglens.engine.runs.parts import Parts
from stronglens.engine.runs.restore import restore
from stronglens.engine.runs.shards import shard_path, shard_rows
from stronglens.engine.scoring import Scoring, auto_workers
from stronglens.engine.sinks import check_output, check_place
from stronglens.engine.sources import open_source
from stronglens.engine.warmup import warming_up


def classify(
    inputs: Sequence[str | Path],
    *,
    model: Path | None = None,
    out: Path,
    wanted: Wanted | None = None,
    config: EngineConfig | None = None,
    stderr: TextIO | None = None,
    check: Callable[[], None] = lambda: None,
) -> RunReport:
    """Score every cutout of `inputs` and write one row each to `out`.

    What is finished is kept beside `out` until all of it is: the same call goes on from there,
    whatever ended the one before.

    Args:
        inputs: files, folders, patterns, lists and catalogues; see `open_source`.
        model: a bundle; None: the newest one under bundles/.
        out: the file to write; see `open_sink`.
        wanted: what else to write, and how to take the inputs.
        config: how to use the machine.
        stderr: gets the line on what was chosen, and the progress.
        check: called between the steps; what it raises ends the run, with what is done kept.

    Raises:
        LensError: nothing to read, no such model, a device that is not there, an output that
            cannot be written, one that another run is writing or has begun, a model that does
            not answer as it did where it was made, or too many rejected cutouts. `out` is then
            as it was.
    """
    wanted, config, stderr = wanted or Wanted(), config or EngineConfig(), stderr or sys.stderr
    clock = StageClock()
    out = shard_path(out, wanted.shard)
    encodings = wanted.encodings and shard_path(wanted.encodings, wanted.shard)
    check_output(out)
    if encodings is not None:
        check_place(encodings)
    with clock.timing("start"):
        bundle = load_bundle(model or newest_bundle())
        top = candidates(bundle.manifest, wanted)
    check()
    with Parts(out, seconds=config.part_seconds) as parts:
        with clock.timing("list"):
            source = open_source(
                inputs,
                band=wanted.band,
                stacked=wanted.stacked,
                null_separated=wanted.null_separated,
            )
        check()
        with clock.timing("start"), warming_up(source, bundle.manifest.preprocess):
            backend, encoding = _open_and_replay(bundle, config, wanted, check, stderr)
        with closing(backend):
            rows = shard_rows(len(source), wanted.shard)
            run = describe(bundle, source, rows, wanted.band, backend, encoding)
            parts.agree(run.identity, run.dtype)
            report = _begin(out, run, backend, config, parts, clock)
            say(f"{report.label}; fed by {threads(report.workers)}\n", stderr)
            scoring = Scoring(run, backend, parts, report, config, clock, check)
            if wanted.retry:
                restore(out, run, parts, encodings)
                tried, mended = scoring.try_again()
                say(f"tried {tried:,} rejected cutouts again: {mended:,} are scored now\n", stderr)
            report.resumed = parts.done
            if parts.done:
                say(f"going on after {parts.done:,} of {len(run):,} rows\n", stderr)
            scoring.go_on(wanted.max_bad, stderr)
        with clock.timing("finish"):
            _finish(run, parts, report, top, encodings, check)
    return report


def _open_and_replay(
    bundle: Bundle, config: EngineConfig, wanted: Wanted, check: Callable[[], None], stderr: TextIO
) -> tuple[Backend, int]:
    """Return the backend, and how long an encoding is (0 where none is wanted)."""
    backend = open_backend(
        bundle,
        device=config.device,
        precision=config.precision,
        threads=config.threads,
        batch_size=config.batch_size,
        encodings=wanted.encodings is not None,
        say=lambda line: say(f"{line}\n", stderr),
        check=check,
    )
    check()
    encoding = replay(bundle, backend, encodings=wanted.encodings is not None)
    check()
    return backend, encoding


def _begin(
    out: Path, run: Run, backend: Backend, config: EngineConfig, parts: Parts, clock: StageClock
) -> RunReport:
    return RunReport(
        out=out,
        classes=run.bundle.manifest.classes,
        model=run.bundle.path,
        label=backend.label,
        workers=config.workers or auto_workers(backend.device, usable_cores()),
        skipped=run.source.skipped,
        duplicates=run.source.duplicates,
        seconds=clock.seconds,
    )


def _finish(
    run: Run,
    parts: Parts,
    report: RunReport,
    top: Top | None,
    encodings: Path | None,
    check: Callable[[], None],
) -> None:
    """Write the output, and let go of the parts."""
    if report.resumed == len(run):  # the run before may have been killed while it wrote
        remove_unfinished(report.out, encodings)
    try:
        write_output(
            finished_rows(run, parts),
            shape_of(run, report.out),
            report,
            run.identity,
            top=top,
            encodings=encodings,
            check=check,
        )
    except LensError as err:
        raise LensError(
            f"{err}. All {len(run):,} rows are finished and kept: the same command writes them"
        ) from err
    parts.remove()
