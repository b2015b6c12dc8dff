"""How fast is a folder of cutouts scored, beside every other way to do it, on the same files?

    python benchmarks/end_to_end.py RUN BUNDLE FOLDER [--count N] [--full] [--name NAME]

From files in the page cache to probabilities (lens-infer: to its CSV). Each contender has a
process of its own, every round runs all of them in the same order, and each ratio is the median
over the rounds of its rate to the reference's in the same round. The clock starts when the model
is loaded and has scored a batch; the command's whole time stands beside.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click
import waterfall
from common import RESULTS, apart, roc_auc, skipped, table, truth, write_result
from contenders import DEVICES, Contender, contenders
from numpy.typing import NDArray

from stronglens.engine.bundle import Bundle, load_bundle
from stronglens.engine.machine import count_gpus

CPU_STEPS = {
    "notebook": "the notebook's loop",
    "openvino": "OpenVINO, float32",
    "cpu float32": "lens-infer: its feed",
    "cpu bfloat16": "bfloat16",
    "cpu int8": "int8",
}
GPU_STEPS = {
    "notebook": "the notebook's loop",
    "onnxruntime": "ONNX Runtime, float32",
    "cuda float32": "lens-infer: its feed",
    "cuda float16": "float16",
    "tensorrt float16": "TensorRT",
    "tensorrt int8": "int8",
}
BESIDE = {"timm_way": "timm", "onnxruntime": "ONNX Runtime"}
"""peers that the README names"""
NAMES = {"resnext50": "ResNeXt50", "resnet18": "lens finder"}
NOTE = """Rates are medians of the rounds; a ratio is the median of the rounds' own ratios. The
clock starts with the model loaded and warm; "whole command" has its start and imports in it. The
peers' probabilities stay in memory, lens-infer's rows are in a CSV. Memory is that of the largest
process: the two workers of a DataLoader, forked from it, come on top. Δp and labels are against
the first row."""
HEADER = (
    "files → probabilities", "cutouts/s", "ratio", "whole command, s", "peak MB", "max abs Δp",
    "labels changed", "ROC AUC",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verdict:
    """A contender's figures beside the reference's."""

    rate: float
    ratio: float
    max_dp: float
    flips: int
    auc: float


def judge(one: Contender, reference: Contender, y_N: NDArray[Any] | None) -> Verdict:
    """Compare a contender with the reference."""
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
    """Return the README's figure: every precision of lens-infer, then some peers."""
    ours = [
        f"{key.removeprefix('cpu ')} {v.ratio:.1f} times ({v.rate:,.0f} cutouts/s, "
        f"max |Δp| {v.max_dp:.1e}, {v.flips} labels changed, ROC AUC {v.auc:.4f})"
        for key, v in verdicts.items()
        if key.startswith(DEVICES)
    ]
    peers = [
        f"{name} {verdicts[key].ratio:.1f} times" for key, name in BESIDE.items() if key in verdicts
    ]
    base = verdicts["notebook"]
    loop = f"the loop {base.rate:,.1f} cutouts/s, ROC AUC {base.auc:.4f}"
    return "; ".join([*ours, *peers, loop])


def draw(name: str, title: str, verdicts: dict[str, Verdict]) -> str:
    """Draw the waterfall and return its line of Markdown."""
    labels = GPU_STEPS if count_gpus() else CPU_STEPS
    steps = [
        waterfall.Step(label, v.rate, v.ratio, v.max_dp, v.auc)
        for key, label in labels.items()
        if (v := verdicts.get(key)) is not None
    ]
    waterfall.draw(RESULTS / f"{name}_waterfall.png", title[0].upper() + title[1:], steps)
    return f"![each step's gain and its accuracy]({name}_waterfall.png)"


def describe(bundle: Bundle) -> tuple[str, str]:
    """Return the title, and a sentence on how much the net has learnt."""
    facts, size = bundle.manifest, bundle.manifest.preprocess.size
    net = NAMES.get(facts.recipe["net"], facts.recipe["net"])
    title = f"{net} at {facts.recipe['input_size'] or size} from {size}×{size}"
    kind = "simulated" if facts.data["simulated"] else "real"
    learnt = f"{sum(facts.data['counts']['train'].values()):,} {kind} cutouts"
    return title, f"The net was trained on {learnt}, {facts.metrics['epochs']} epochs."


def pick(folder: Path, count: int) -> list[str]:
    """Return `count` .npy files of a folder, evenly spread; some several times if it has fewer."""
    if not (paths := sorted(map(str, folder.resolve().rglob("*.npy")))):
        sys.exit(f"{folder}: no .npy files")
    step = max(1, len(paths) / count)
    return [paths[int(i * step) % len(paths)] for i in range(count)]


def link(paths: list[str], folder: Path) -> list[str]:
    """Link the files in one folder, in their order, and bring them into memory."""
    folder.mkdir()
    links = [folder / f"{i}.npy" for i in range(len(paths))]
    for each, path in zip(links, paths, strict=True):
        each.symlink_to(path)
        each.read_bytes()
    return list(map(str, links))


def measure(found: dict[str, Contender], rounds: int, work: Path) -> None:
    """Run every contender once a round; stop if the reference cannot run."""
    for _ in range(rounds):
        for one in found.values():
            one.round(work)
        if failed := found["notebook"].failed:
            sys.exit(f"the reference's loop failed: {failed}")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--count", default=0, help="Cutouts scored a round; 0: what the machine needs.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--full", is_flag=True, help="Also what takes long to start.")
@click.option("--name", default="end_to_end", show_default=True, help="Of the result's file.")
def main(
    run: Path, bundle: Path, folder: Path, count: int, rounds: int, full: bool, name: str
) -> None:
    count = count or (20_000 if count_gpus() else 576 if full else 192)
    loaded, paths = load_bundle(bundle), pick(folder, count)
    with tempfile.TemporaryDirectory() as work:
        links = link(paths, Path(work, "cutouts"))
        found, absent = contenders(run, loaded, links, full=full)
        measure(found, rounds, Path(work))
    absent += [f"{one.name}: {one.failed}" for one in found.values() if one.failed]
    y_N = truth(paths, loaded.manifest.classes)
    ran = {key: one for key, one in found.items() if not one.failed}
    verdicts = {key: judge(one, found["notebook"], y_N) for key, one in ran.items()}
    title, learnt = describe(loaded)
    write_result(
        name,
        f"Files to probabilities: {title}",
        f"{len(paths)} files in the page cache, {rounds} rounds. {learnt}",
        table(HEADER, [row(one, verdicts[key]) for key, one in ran.items()]),
        NOTE,
        draw(name, title, verdicts),
        skipped(absent),
        readme=[(f"files to rows, {title}, against the reference's loop", in_words(verdicts))],
    )


if __name__ == "__main__":
    main()
