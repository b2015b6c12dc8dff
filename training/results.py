"""What a finished training leaves in its run's folder beside the weights."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stronglens.training import metrics, plots
from stronglens.training.checkpoint import RunConfig, write_text
from stronglens.training.data import DataSet
from stronglens.training.method import Predictions
from stronglens.training.schedule import best_epoch
from stronglens.training.state import State


def write_results(
    out: Path, config: RunConfig, data: DataSet, state: State, predictions: Predictions
) -> None:
    """Write all of a finished run's folder but its weights; metrics.json last."""
    y_N, prob_NK = predictions.y_N, predictions.prob_NK
    scores = metrics.summarise(y_N, prob_NK, config.classes, seed=config.recipe.seed)
    history = [asdict(row) for row in state.history]
    write_text(out / "history.csv", _csv(history))
    write_text(out / "timings.csv", _csv([asdict(row) for row in state.timings]))
    write_text(out / "val_predictions.csv", _csv(_rows(predictions, config.classes)))
    plots.roc_png(y_N, prob_NK, config.classes, scores, out / "roc.png")
    plots.loss_png([_drawn(row) for row in history], out / "loss.png")
    plots.mistakes_png(
        data.val.x_NHW, predictions.ids, y_N, prob_NK, config.classes, out / "mistakes.png"
    )
    losses = [row.monitored_loss for row in state.history]
    record = scores | {
        "split": f"validation: {config.data['split']}",
        "simulated": config.data["simulated"],
        "best_epoch": best_epoch(losses),
        "best_loss": min(losses),
        "epochs": len(losses),
        **predictions.extras,
    }
    write_text(out / "metrics.json", json.dumps(record, indent=2) + "\n")


def _drawn(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as the plot reads it; a loss that is only the training's again is no second."""
    other = row["monitored_loss"] != row["train_loss"]
    return row | ({"val_loss": row["monitored_loss"]} if other else {})


def _rows(predictions: Predictions, classes: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "id": name,
            "true": classes[y],
            **{f"p_{cls}": f"{p:.9g}" for cls, p in zip(classes, prob_K, strict=True)},
            "label": classes[int(prob_K.argmax())],
        }
        for name, y, prob_K in zip(
            predictions.ids, predictions.y_N, predictions.prob_NK, strict=True
        )
    ]


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()
