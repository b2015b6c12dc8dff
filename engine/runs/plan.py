"""Before a long run: read a sample, measure each stage on it, and say what the run will be."""

import resource
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path

import numpy as np

from stronglens.engine.backends import open_backend
from stronglens.engine.batches import REJECTED, Rows, reason
from stronglens.engine.bundle import load_bundle, newest_bundle
from stronglens.engine.candidates import candidates
from stronglens.engine.config import EngineConfig, Wanted
from stronglens.engine.errors import CutoutError
from stronglens.engine.golden import replay
from stronglens.engine.machine import usable_cores
from stronglens.engine.progress import duration
from stronglens.engine.report import threads
from stronglens.engine.runs.identity import describe
from stronglens.engine.runs.shards import shard_rows
from stronglens.engine.runs.trial import try_scoring, try_writing
from stronglens.engine.scoring import auto_workers
from stronglens.engine.sinks import check_output
from stronglens.engine.sources import Cutout, Source, ending, open_source
from stronglens.engine.warmup import warming_up

SAMPLE = 200
"""cutouts that are read, spread evenly over the inputs"""


@dataclass(slots=True)
class Found:
    """What the sample holds."""

    read: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    shapes: Counter[str] = field(default_factory=Counter)
    dtypes: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    with_missing: int = 0
    missing: float = 0.0
    """sum of the shares of pixels that were filled"""


@dataclass(slots=True)
class Plan:
    """What a run would be; `str` gives the lines that the command prints."""

    inputs: int
    found: Found
    model: Path
    label: str
    out: Path
    workers: int
    rates: dict[str, float]
    """cutouts a second of each stage: feed, model, score (both at once), write"""
    seconds: dict[str, float]
    """list, start, score and write, of the whole run"""
    out_bytes: float
    part_bytes: float
    peak_bytes: float

    @property
    def total(self) -> float:
        """Seconds that the whole run should take."""
        return sum(self.seconds.values())

    @property
    def bottleneck(self) -> str:
        """The slowest stage, in words."""
        slowest = min(("feed", "model", "write"), key=self.rates.__getitem__)
        words = {"feed": "reading and preparing the cutouts", "model": "the model"}
        return words.get(slowest, "writing the rows")

    def __str__(self) -> str:
        rates, found = self.rates, self.found
        spent = ", ".join(f"{stage} {duration(s)}" for stage, s in self.seconds.items())
        share = 100 * found.missing / max(found.read, 1)
        lines = [
            f"{self.inputs:,} cutouts, of which {found.read:,} were read",
            f"  formats   {_counts(found.endings)}",
            f"  sizes     {_counts(found.shapes)}",
            f"  dtypes    {_counts(found.dtypes)}",
            f"  missing   pixels in {found.with_missing:,} of them, {share:.2g} % of all",
            f"  rejected  {_counts(found.rejected) or 'none'}",
            f"  model     {self.model}",
            f"  runs on   {self.label}; fed by {threads(self.workers)}",
            f"  rates     feed {rates['feed']:,.0f}/s, model {rates['model']:,.0f}/s, both at "
            f"once {rates['score']:,.0f}/s, write {rates['write']:,.0f}/s",
            f"  bound by  {self.bottleneck}",
            f"  time      {duration(self.total)}: {spent}",
            f"  memory    {self.peak_bytes / 1e6:,.0f} MB",
            f"  disk      {self.out} {_size(self.out_bytes)}, and {_size(self.part_bytes)} beside "
            "it until it is written",
        ]
        return "\n".join(lines)


def make_plan(
    inputs: Sequence[str | Path],
    *,
    model: Path | None,
    out: Path,
    wanted: Wanted,
    config: EngineConfig,
) -> Plan:
    """Measure the stages of a run on a sample of its inputs; arguments as `classify`.

    Nothing is written but a temporary file in the folder of `out`.

    Raises:
        LensError: as `classify` would, before its first cutout.
    """
    check_output(out)
    begin = time.perf_counter()
    bundle = load_bundle(model or newest_bundle())
    candidates(bundle.manifest, wanted)
    loaded = time.perf_counter()
    source = open_source(
        inputs, band=wanted.band, stacked=wanted.stacked, null_separated=wanted.null_separated
    )
    start, stop = shard_rows(len(source), wanted.shard)
    listed = time.perf_counter()
    sample = _spread(source, start, stop)
    encodings = wanted.encodings is not None
    with warming_up(sample[:1], bundle.manifest.preprocess):
        backend = open_backend(
            bundle,
            device=config.device,
            precision=config.precision,
            threads=config.threads,
            batch_size=config.batch_size,
            encodings=encodings,
        )
        encoding = replay(bundle, backend, encodings=encodings)
    started = time.perf_counter()
    run = describe(bundle, source, (start, stop), wanted.band, backend, encoding)
    workers = config.workers or auto_workers(backend.device, usable_cores())
    with closing(backend):
        rates, rows = try_scoring(run, backend, sample, workers, config.ahead)
    rates["write"], row_bytes = try_writing(out, run, rows)
    return Plan(
        inputs=len(run),
        found=_look(sample, rows),
        model=bundle.path,
        label=backend.label,
        out=out,
        workers=workers,
        rates=rates,
        seconds={
            "list": listed - loaded,
            "start": loaded - begin + started - listed,
            "score": len(run) / rates["score"],
            "write": len(run) / rates["write"],
        },
        out_bytes=len(run) * row_bytes,
        part_bytes=len(run) * run.dtype.itemsize,
        peak_bytes=_peak_bytes(),
    )


def _spread(source: Source, start: int, stop: int) -> list[Cutout]:
    """Return SAMPLE cutouts from all over the rows of a run, or all where there are fewer."""
    count = stop - start
    chosen = set(np.linspace(0, count - 1, min(SAMPLE, count)).astype(int).tolist())
    which = (i in chosen for i in range(count))
    return list(compress(source.cutouts(start, stop), which))


def _look(sample: Sequence[Cutout], rows: Rows) -> Found:
    """Return what the sample holds; its files are in the page cache by now."""
    found = Found(read=len(rows.ids))
    for cutout in sample[: found.read]:
        found.endings[ending(cutout.id.partition("#")[0]) or "none"] += 1
        with suppress(CutoutError):
            raw = cutout.read()
            found.shapes["×".join(map(str, raw.shape))] += 1
            found.dtypes[str(raw.dtype.newbyteorder("="))] += 1
    rejected_B = (rows.flags_B & REJECTED) != 0
    found.rejected.update(reason(flags) for flags in rows.flags_B[rejected_B].tolist())
    share_B = np.nan_to_num(rows.nan_frac_B)
    found.with_missing, found.missing = int((share_B > 0).sum()), float(share_B.sum())
    return found


def _peak_bytes() -> float:
    """Return the most memory that this process has held so far."""
    try:  # getrusage would tell that of the process that started this one, where it had more
        status = Path("/proc/self/status").read_text()
        return 1024 * float(status.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError):  # not Linux
        unit = 1 if sys.platform == "darwin" else 1024
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def _counts(counts: Counter[str], most: int = 5) -> str:
    words = [f"{name} {n:,}" for name, n in counts.most_common(most)]
    more = len(counts) - most
    return ", ".join([*words, f"{more} more"] if more > 0 else words)


def _size(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
