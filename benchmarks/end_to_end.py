"""How fast is a folder of cutouts scored, beside every other way to do it, on the same files?

    python benchmarks/end_to_end.py RUN BUNDLE FOLDER [--count N] [--full] [--name NAME]

From files in the page cache to probabilities (lens-infer: to its CSV). Each contender has a
process of its own, every round runs all of them in the same order, and each ratio is the median
over the rounds of its rate to the reference's in the same round. The clock starts when the model
is loaded and has scored a batch; the command's whole time stands beside.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import click
import numpy as np
import waterfall
from common import RESULTS, apart, roc_auc, skipped, table, truth, write_result
from contenders import PRECISIONS, Contender, contenders
from numpy.typing import NDArray

from stronglens.engine.bundle import load_bundle
from stronglens.engine.machine import count_gpus
from stronglens.training.checkpoint import read_config

PLAIN = {"cpu": "openvino", "cuda": "onnxruntime"}
NAMES = {"resnext50": "ResNeXt50", "resnet18": "lens finder"}
NOTE = """Rates are medians of the rounds; a ratio is the median of the rounds' own ratios. The
clock starts with the model loaded and warm; "whole command" has its start and imports in it. The
peers' probabilities stay in memory, lens-infer's rows are in a CSV. Memory is that of the largest
process: the two workers of a DataLoader, forked from it, come on top. Δp and labels are against
the first row."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A contender's figures beside the reference's."""

    rate: float
    ratio: float
    max_dp: float
    flips: int
    auc: float


def judge(one: Contender, reference: Contender, y_N: NDArray[np.int64] | None) -> Verdict:
    """Compare a contender with the reference."""
    assert one.prob_NK is not None and reference.prob_NK is not None
    ratios = [mine / base for mine, base in zip(one.rates, reference.rates, strict=True)]
    max_dp, flips = apart(one.prob_NK, reference.prob_NK)
    return Verdict(median(one.rates), median(ratios), max_dp, flips, roc_auc(y_N, one.prob_NK))


def row(one: Contender, verdict: Verdict) -> list[str]:
    """Return a contender's line of the table."""
    return [
        one.name,
        f"{verdict.rate:,.1f}",
        f"{verdict.ratio:.2f}",
        f"{median(one.whole):.1f}",
        f"{one.peak_mb:,.0f}",
        f"{verdict.max_dp:.1e}",
        str(verdict.flips),
        f"{verdict.auc:.4f}",
    ]


def in_words(verdicts: dict[str, Verdict]) -> str:
    """Return the README's figure: every precision of lens-infer."""
    parts = [
        f"{precision} {v.ratio:.1f} times ({v.rate:,.0f} cutouts/s, max |Δp| {v.max_dp:.1e}, "
        f"{v.flips} labels changed, ROC AUC {v.auc:.4f})"
        for precision, v in verdicts.items()
        if precision in PRECISIONS
    ]
    base = verdicts["notebook"]
    return f"{'; '.join(parts)}; the loop {base.rate:,.1f} cutouts/s, ROC AUC {base.auc:.4f}"


def draw(name: str, title: str, found: dict[str, Contender], verdicts: dict[str, Verdict]) -> str:
    """Draw the waterfall and return its line of Markdown."""
    plain = PLAIN["cuda" if count_gpus() else "cpu"]
    labels = {"notebook": "the notebook's loop", plain: f"{found[plain].name.split()[0]}, float32"}
    labels |= {"float32": "lens-infer: its feed", **{p: p for p in PRECISIONS[1:]}}
    steps = [
        waterfall.Step(label, v.rate, v.ratio, v.max_dp, v.auc)
        for key, label in labels.items()
        if (v := verdicts.get(key)) is not None
    ]
    waterfall.draw(RESULTS / f"{name}_waterfall.png", title, steps)
    return f"![each step's gain and its accuracy]({name}_waterfall.png)"


def pick(folder: Path, count: int) -> list[str]:
    """Return `count` .npy files of a folder, evenly spread, and bring them into memory."""
    paths = sorted(map(str, folder.rglob("*.npy")))
    chosen = [paths[i * len(paths) // count] for i in range(min(count, len(paths)))]
    for path in chosen:
        Path(path).read_bytes()
    return chosen


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--count", default=192, show_default=True, help="Cutouts that each scores a round.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--full", is_flag=True, help="Also what takes minutes to start.")
@click.option("--name", default="end_to_end", show_default=True, help="Of the result's file.")
def main(
    run: Path, bundle: Path, folder: Path, count: int, rounds: int, full: bool, name: str
) -> None:
    loaded, config = load_bundle(bundle), read_config(run)
    assert config is not None, f"{run}: not a run"
    paths = pick(folder, count)
    found, absent = contenders(run, loaded, paths, full=full)
    with tempfile.TemporaryDirectory() as work:
        for _ in range(rounds):
            for one in found.values():
                one.round(Path(work))
    absent += [f"{one.name}: {one.failed}" for one in found.values() if one.failed]
    found = {key: one for key, one in found.items() if not one.failed}
    y_N = truth(paths, loaded.manifest.classes)
    verdicts = {key: judge(one, found["notebook"], y_N) for key, one in found.items()}
    size = loaded.manifest.preprocess.size
    net = NAMES.get(config.recipe.net, config.recipe.net)
    title = (
        f"{net} at {config.recipe.input_size or size} from {size}×{size}, files to probabilities"
    )
    header = ["files → probabilities", "cutouts/s", "ratio", "whole command, s", "peak MB"]
    header += ["max abs Δp", "labels changed", "ROC AUC"]
    write_result(
        name,
        title,
        f"{len(paths)} files in the page cache, {rounds} rounds.",
        table(header, [row(one, verdicts[key]) for key, one in found.items()]),
        NOTE,
        draw(name, title, found, verdicts),
        skipped(absent),
        readme=[(f"{title}, against the reference's loop", in_words(verdicts))],
    )


if __name__ == "__main__":
    main()
