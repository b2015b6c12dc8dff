"""How good are these predictions, where the truth is known?

    python benchmarks/score.py preds.csv catalog/params.csv       # lens-simulate's truth

Prints ROC AUC with intervals and the confusion, and draws roc.png and mistakes.png beside the
predictions (PREFIX_roc.png where they are called PREFIX.csv).
"""

import csv
import sys
from pathlib import Path

import numpy as np
from common import read_predictions, table

from stronglens.engine.feed import feed
from stronglens.engine.preprocess import PreprocessSpec
from stronglens.engine.sources import open_source
from stronglens.training import metrics, plots


def main(predictions: Path, truth: Path) -> None:
    ids, classes, prob_NK = read_predictions(predictions)
    with truth.open(newline="") as file:
        class_of = {row["file"]: row["class"] for row in csv.DictReader(file)}
    y_N = np.array([classes.index(class_of[Path(name).name]) for name in ids])
    scored_N = np.isfinite(prob_NK).all(axis=1)
    y_N, prob_NK = y_N[scored_N], prob_NK[scored_N]
    ids = [name for name, scored in zip(ids, scored_N, strict=True) if scored]
    found = metrics.summarise(y_N, prob_NK, classes)
    print(report(found, classes, int((~scored_N).sum())))
    # shown as they are stored: stretched so that faint things are seen
    spec = PreprocessSpec(mode="asinh", size=_side(ids[0]), fit="crop", softening=3)
    batches = feed(open_source(ids), spec, batch_size=len(ids), workers=1)
    x_NHW = next(batches).x_BHW.copy()
    batches.close()
    for name, draw in {
        "roc": lambda path: plots.roc_png(y_N, prob_NK, classes, found, path),
        "mistakes": lambda path: plots.mistakes_png(x_NHW, ids, y_N, prob_NK, classes, path),
    }.items():
        picture = predictions.with_name(f"{predictions.stem}_{name}.png")
        draw(picture)
        print(f"picture: {picture}")


def report(found: dict, classes: list[str], rejected: int) -> str:
    """Return the figures as two tables: scores by class, then the confusion."""
    auc = found["roc_auc"]
    rows = [
        [name, f"{auc[name]['value']:.4f}", f"{auc[name]['low']:.4f} to {auc[name]['high']:.4f}"]
        for name in [*classes, "macro"]
    ]
    confusion = [[true, *counts] for true, counts in zip(classes, found["confusion"], strict=True)]
    return "\n\n".join(
        [
            table(["class", "ROC AUC", "95 % interval"], rows),
            table(["true \\ label", *classes], confusion),
            f"accuracy {found['accuracy']:.4f}, {rejected} rejected",
        ]
    )


def _side(path: str) -> int:
    return int(np.load(path, mmap_mode="r").shape[-1])


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
