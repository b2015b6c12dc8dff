"""Whether the serving graph says what the training said, before anything is exported."""

import csv
import os
from pathlib import Path

import numpy as np
from torch import nn

from stronglens.engine.errors import BackendError, InputError
from stronglens.export.cutouts import Sample
from stronglens.export.graph import Floats
from stronglens.training.checkpoint import Run

LOGISTIC_GATE = 1e-5
PREDICTIONS_GATE = 0.02
"""a training on a GPU rounds its last scores otherwise than this CPU, by less than this"""


def check_logistic(head: nn.Linear, encoding_ND: Floats, prob_NK: Floats) -> float:
    """Return the largest difference from scikit-learn's own predict_proba on the encodings.

    Raises:
        BackendError: it exceeds 1e-5.
    """
    from sklearn.linear_model import LogisticRegression

    regression = LogisticRegression()
    regression.classes_ = np.array([0, 1])
    regression.coef_ = head.weight.detach().numpy().astype(np.float64)
    regression.intercept_ = head.bias.detach().numpy().astype(np.float64)
    expected_NK = regression.predict_proba(encoding_ND.astype(np.float64))
    largest = float(np.abs(expected_NK - prob_NK).max())
    if not largest <= LOGISTIC_GATE:
        raise BackendError(
            f"the folded linear head differs from scikit-learn's by {largest:.2g} in p on "
            f"{len(prob_NK)} cutouts, allowed is {LOGISTIC_GATE:g}. No bundle was written"
        )
    return largest


def check_predictions(run: Run, sample: Sample, prob_NK: Floats, root: Path) -> int:
    """Compare with the run's own val_predictions.csv; return how many cutouts were in both.

    Holds the order of the classes, the weights and the data to what they were in training.

    Raises:
        InputError: some probability differs by more than 0.02.
    """
    recorded = _read_predictions(run)
    ids = [os.path.relpath(path, root) for path in sample.paths[: sample.origin["val"]]]
    rows = [i for i, name in enumerate(ids) if name in recorded]
    if not rows:
        return 0
    expected_MK = np.array([recorded[ids[i]] for i in rows])
    largest_M = np.abs(prob_NK[rows] - expected_MK).max(axis=1)
    if not largest_M.max() <= PREDICTIONS_GATE:
        worst = ids[rows[int(largest_M.argmax())]]
        raise InputError(
            f"{root}: the net's probabilities differ by {largest_M.max():.2g} from those in "
            f"{run.path}/val_predictions.csv (first at {worst}): the data or the run's files "
            "changed after training. Train again, or name other cutouts with --data DIR"
        )
    return len(rows)


def _read_predictions(run: Run) -> dict[str, list[float]]:
    path = run.path / "val_predictions.csv"
    columns = [f"p_{name}" for name in run.config.classes]
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {row["id"]: [float(row[c]) for c in columns] for row in csv.DictReader(file)}
    except (OSError, KeyError, TypeError, ValueError) as err:
        raise InputError(f"{path}: cannot be read as the run's predictions: {err!r}") from err
