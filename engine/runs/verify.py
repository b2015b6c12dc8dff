"""Check a finished output: complete, in order, of this model and listing, and scored as it says."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.backends import open_backend
from stronglens.engine.batches import REJECTED, Rows, reason
from stronglens.engine.bundle import MANIFEST, Bundle, load_bundle, newest_bundle, sha256
from stronglens.engine.config import EngineConfig, Wanted
from stronglens.engine.feed import feed
from stronglens.engine.golden import replay, tolerance
from stronglens.engine.progress import say
from stronglens.engine.runs.identity import read_receipt
from stronglens.engine.scoring import auto_workers, score
from stronglens.engine.sinks import read_output
from stronglens.engine.sources import Cutout, Source, open_source

SUM_TOLERANCE = 1e-3
"""how far from 1 a row's probabilities may add up: half precision rounds each"""


@dataclass(slots=True)
class Verdict:
    """What was found; `str` gives the lines that the command prints."""

    out: Path
    rows: int = 0
    checked: list[str] = field(default_factory=list)
    """what holds"""
    problems: list[str] = field(default_factory=list)
    """what does not"""

    def note(self, holds: bool, right: str, wrong: str) -> None:
        """Add `right` to what holds, or `wrong` to the problems."""
        (self.checked if holds else self.problems).append(right if holds else wrong)

    def __str__(self) -> str:
        head = "not what it should be" if self.problems else "verified"
        lines = [f"{self.out}, {self.rows:,} rows: {head}"]
        lines += [f"  ok       {line}" for line in self.checked]
        lines += [f"  PROBLEM  {line}" for line in self.problems]
        return "\n".join(lines)


def verify(
    out: Path,
    inputs: Sequence[str | Path],
    *,
    model: Path | None = None,
    sample: int = 100,
    seed: int = 0,
    wanted: Wanted | None = None,
    config: EngineConfig | None = None,
    stderr: TextIO,
) -> Verdict:
    """Compare an output with the listing and the model that it should be of.

    Args:
        out: what lens-infer wrote, in any of its formats.
        inputs: what it was given.
        model: the bundle; None: that of the receipt, or else the newest one under bundles/.
        sample: how many rows, drawn at random, are scored again.
        seed: of the draw.
        wanted: how to take the inputs.
        config: how to use the machine; the precision is that of the receipt, where there is one.
        stderr: gets the line on what was chosen.

    Raises:
        LensError: one of them cannot be read at all, or the model cannot run here.
    """
    wanted, config = wanted or Wanted(), config or EngineConfig()
    bundle = load_bundle(model or _model_of(out) or newest_bundle())
    source = open_source(
        inputs, band=wanted.band, stacked=wanted.stacked, null_separated=wanted.null_separated
    )
    verdict, run = Verdict(out), _check_receipt(out, bundle, source, wanted.band)
    identity, verdict.checked, verdict.problems = run
    start, stop = identity.get("rows", (0, len(source)))
    drawn = _draw(stop - start, sample, seed)
    rows = _check_rows(verdict, bundle, source.entries(start, stop), stop - start, drawn)
    cutouts = _cutouts(source, start, drawn)
    if len(rows.ids) == len(cutouts) > 0 and rows.prob_BK.shape[1] == len(bundle.manifest.classes):
        config = EngineConfig(
            device=config.device, precision=str(identity.get("precision", config.precision))
        )
        _score_again(verdict, rows, cutouts, bundle, config, stderr)
    return verdict


def _model_of(out: Path) -> Path | None:
    """Return the bundle that the receipt names; None where there is none, or no such folder."""
    named = Path(str((read_receipt(out) or {}).get("model", "")))
    return named if named.name and named.is_dir() else None


def _check_receipt(
    out: Path, bundle: Bundle, source: Source, band: str
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Return the identity that the receipt gives, what of it holds, and what does not."""
    receipt, verdict = read_receipt(out), Verdict(out)
    if receipt is None:
        return {}, ["there is no receipt: what follows goes by the rows alone"], []
    run: dict[str, Any] = receipt["run"]
    unchanged = receipt.get("sha256") == sha256(out)
    verdict.note(unchanged, "unchanged since it was written", "changed since it was written")
    verdict.note(
        run.get("model") == sha256(bundle.path / MANIFEST),
        f"made by the model {bundle.path}",
        f"made by another model than {bundle.path}: {receipt.get('model')}",
    )
    verdict.note(
        run.get("listing") == source.digest and run.get("band") == band,
        f"made from these inputs, {len(source):,} cutouts",
        f"made from other inputs, {run.get('inputs'):,} cutouts; these are {len(source):,}",
    )
    return run, verdict.checked, verdict.problems


def _draw(count: int, sample: int, seed: int) -> list[int]:
    """Return the numbers of the rows to score again, ascending."""
    rng = np.random.default_rng(seed)
    return sorted(rng.choice(max(count, 0), min(sample, max(count, 0)), replace=False).tolist())


def _check_rows(
    verdict: Verdict, bundle: Bundle, entries: Iterator[Any], count: int, drawn: list[int]
) -> Rows:
    """Compare the rows with the listing, one by one; return the drawn ones."""
    output, classes = read_output(verdict.out), bundle.manifest.classes
    told = f"classes {', '.join(output.classes)}, the model's are {', '.join(classes)}"
    verdict.note(output.classes == classes, f"classes {', '.join(classes)}", told)
    differing, broken, kept = "", 0, [_some(_NONE, [], len(output.classes))]
    for rows in output:
        listed = [entry.id for entry in islice(entries, len(rows.ids))]
        differing = differing or _first_differing(rows.ids, listed, verdict.rows)
        broken += _count_broken(rows)
        here = [i - verdict.rows for i in drawn if 0 <= i - verdict.rows < len(rows.ids)]
        kept.append(_some(rows, here, len(output.classes)))
        verdict.rows += len(rows.ids)
    complete = f"{verdict.rows:,} rows for {count:,} inputs"
    verdict.note(verdict.rows == count, "a row for every input", complete)
    verdict.note(not differing, "every id in its place", differing)
    verdict.note(
        not broken,
        "probabilities add up to 1, and no rejected row has any",
        f"{broken:,} rows with probabilities that do not add up to 1, or though they are rejected",
    )
    return _joined(kept)


def _first_differing(found: list[str], listed: list[str], first: int) -> str:
    """Say where the ids leave the listing; "" where they do not."""
    for i, (one, other) in enumerate(zip(found, listed, strict=False), first + 1):
        if one != other:
            return f"row {i:,} is {one!r}, the input there is {other!r}"
    return ""


def _count_broken(rows: Rows) -> int:
    """Return how many rows do not keep the contract."""
    rejected_B = (rows.flags_B & REJECTED) != 0
    whole_B = np.abs(rows.prob_BK.sum(axis=1) - 1) <= SUM_TOLERANCE
    none_B = np.isnan(rows.prob_BK).all(axis=1)
    return int((~np.where(rejected_B, none_B, whole_B)).sum())


_NONE = Rows([], np.empty((0, 0), np.float32), np.empty(0, np.uint16), np.empty(0, np.float32), [])


def _some(rows: Rows, at: list[int], num_classes: int) -> Rows:
    ids = [rows.ids[i] for i in at]
    prob_BK = rows.prob_BK[at].reshape(-1, num_classes)
    return Rows(ids, prob_BK, rows.flags_B[at], rows.nan_frac_B[at], [])


def _joined(rows: Sequence[Rows]) -> Rows:
    def all_of(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(each, name) for each in rows])

    ids = [name for each in rows for name in each.ids]
    return Rows(ids, all_of("prob_BK"), all_of("flags_B"), all_of("nan_frac_B"), [])


def _cutouts(source: Source, start: int, drawn: list[int]) -> list[Cutout]:
    wanted, last = set(drawn), max(drawn, default=-1)
    listed = enumerate(source.cutouts(start, start + last + 1))
    return [cutout for i, cutout in listed if i in wanted]


def _score_again(
    verdict: Verdict,
    rows: Rows,
    cutouts: list[Cutout],
    bundle: Bundle,
    config: EngineConfig,
    stderr: TextIO,
) -> None:
    """Score the drawn rows again, and compare."""
    backend = open_backend(bundle, device=config.device, precision=config.precision)
    say(f"{backend.label}\n", stderr)
    with closing(backend):
        replay(bundle, backend)
        batches = feed(
            cutouts,
            bundle.manifest.preprocess,
            batch_size=backend.batch_size,
            workers=auto_workers(backend.device, 1),
        )
        found = [score(batch, backend, len(bundle.manifest.classes)) for batch in batches]
        limit = tolerance(bundle, backend.precision)
    prob_BK = np.concatenate([each.prob_BK for each in found])
    flags_B = np.concatenate([each.flags_B for each in found])
    moved_B = ((rows.flags_B ^ flags_B) & REJECTED) != 0
    example = next(
        (
            f"; {rows.ids[i]!r} was {reason(rows.flags_B[i]) or 'scored'}, "
            f"is {reason(flags_B[i]) or 'scored'}"
            for i in np.flatnonzero(moved_B)
        ),
        "",
    )
    verdict.note(
        not moved_B.any(),
        f"{len(moved_B):,} rows drawn at random are scored or rejected again as they say",
        f"{int(moved_B.sum()):,} of {len(moved_B):,} rows drawn at random are not{example}",
    )
    worst = float(np.nan_to_num(np.abs(prob_BK - rows.prob_BK)).max(initial=0.0))
    verdict.note(
        worst <= limit,
        f"their probabilities agree within {worst:.2g}",
        f"their probabilities are off by {worst:.2g}, more than {limit:.2g} in {backend.precision}",
    )
