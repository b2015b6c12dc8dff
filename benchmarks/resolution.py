"""What does the reference's enlargement from 150 to 224 pixels buy, and what does it cost?

    python benchmarks/resolution.py [--epochs 4]

The same net and settings on real DeepLense cutouts with and without substructure, once as the
reference enlarges them and once at their own size, for the same operations: there they see
each cutout twice as often (the training of `sub_nosub.py`, where it had these settings). Each is
scored once, on the 1,600 cutouts that `sub_nosub.py` holds out, by lens-infer in each precision
that the CPU computes in. From random weights; a training that is there is not repeated.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from common import read_predictions, run, shared_folder, table, write_result
from sub_nosub import CLASSES, SERVED, unpack
from sub_nosub import WORK as REAL

from stronglens.engine.bundle import load_bundle
from stronglens.export.graph import count_flop, serving
from stronglens.training.checkpoint import load_run
from stronglens.training.metrics import summarise
from stronglens.training.tasks import SUBSTRUCTURE, override

WORK = Path("benchmarks/work/resolution")
SETTINGS = {"schedule": "onecycle", "flips": "true", "early_stop": "0"}
BACKWARD = 3
"""operations of a training step, in those of a forward pass"""


class Try(NamedTuple):
    """One training."""

    recipe: str
    side: int
    epochs: int

    @property
    def folder(self) -> Path:
        return REAL if _trained_alike(self, REAL / "run") else WORK / f"{self.side}_{self.epochs}"


def _trained_alike(each: Try, folder: Path) -> bool:
    """Whether a finished training had these settings; that it may end early made no difference."""
    if not (folder / "metrics.json").exists():
        return False
    settings = [f"{name}={value}" for name, value in SETTINGS.items()]
    wanted = override(SUBSTRUCTURE.recipes[each.recipe], [*settings, f"epochs={each.epochs}"])
    config = load_run(folder).config
    side = config.recipe.input_size or config.preprocess.size
    same = {"early_stop": 0, "precision": "auto", "input_size": 0}
    return side == each.side and replace(config.recipe, **same) == replace(wanted, **same)


def train(each: Try) -> None:
    settings = [
        word
        for name, value in (SETTINGS | {"epochs": each.epochs}).items()
        for word in ("-o", f"{name}={value}")
    ]
    if each.folder == REAL:
        return
    run(
        "lens-train", "substructure", "--data", REAL / "train", "--out", each.folder / "run",
        "--recipe", each.recipe, "--weights", "none", *settings,
    )  # fmt: skip
    if not (each.folder / "bundle").exists():
        run("lens-export", each.folder / "run", "--int8", "--out", each.folder / "bundle")


def score(each: Try, precision: str) -> tuple[dict[str, Any], float]:
    """Return the figures on the held-out cutouts, and cutouts a second after start-up."""
    out = each.folder / f"preds_{precision}.csv"
    said = run(
        "lens-infer", f"{REAL}/test/*/*.npy", "--model", each.folder / "bundle",
        "--precision", precision, "--out", out,
    )  # fmt: skip
    ids, classes, prob_NK = read_predictions(out)
    y_N = np.array([CLASSES.index(Path(name).parent.name) for name in ids])
    rate = said.splitlines()[0].split(": ")[1].split()[0].replace(",", "")
    return summarise(y_N, prob_NK, classes), float(rate)


def rows_of(each: Try) -> list[list[str]]:
    trained = load_run(each.folder / "run")
    flop = count_flop(serving(trained.net).graph, trained.config.preprocess.size)
    learnt = sum(trained.config.data["counts"]["train"].values())
    cost = BACKWARD * flop * learnt * each.epochs
    rows = []
    for precision in (
        p for p in SERVED if p in load_bundle(each.folder / "bundle").manifest.parity
    ):
        found, rate = score(each, precision)
        auc = found["roc_auc"]["sub"]
        rows.append(
            [
                f"{each.side} pixels, {each.epochs} epochs",
                f"{cost / 1e15:.2f}",
                precision,
                f"{flop / 1e9:.1f}",
                f"{rate:,.0f}",
                f"{auc['value']:.5f}",
                f"{auc['low']:.4f} to {auc['high']:.4f}",
                f"{found['accuracy']:.4f}",
            ]
        )
    return rows


@click.command()
@click.option("--epochs", default=4, show_default=True, help="Of the enlarged net.")
def main(epochs: int) -> None:
    unpack(shared_folder() / "data" / "deeplense_sub_nosub_8k.zip", REAL)
    tries = [Try("reference", 224, epochs), Try("native", 150, 2 * epochs)]
    rows = []
    for each in tries:
        train(each)
        rows += rows_of(each)
    full = [row for row in rows if row[2] == "float32"]
    write_result(
        "resolution",
        "ResNeXt50 at the cutouts' own 150 pixels, and enlarged to 224",
        "Trained on 5,760 real cutouts; 1,600 held out of training and of the choice of the epoch. "
        "One seed each.",
        table(
            [
                "net",
                "training, PFLOP",
                "served in",
                "GFLOP a cutout",
                "cutouts/s",
                "ROC AUC",
                "95 % interval",
                "accuracy",
            ],
            rows,
        ),
        readme=[
            (
                "ResNeXt50 on real cutouts, enlarged to 224 as the reference does, or at its own "
                "150 pixels (`--recipe native`): ROC AUC, and cutouts/s in float32",
                "; ".join(f"{row[0]}: {row[5]}, {row[4]}/s" for row in full),
            )
        ],
    )


if __name__ == "__main__":
    main()
