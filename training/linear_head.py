"""Logistic regression on encodings, and what it is worth; numpy + scikit-learn only."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score

from stronglens.engine.errors import InputError
from stronglens.training import metrics

FOLDS = 5
REPEATS = 5

Scored = tuple[NDArray[np.int64], NDArray[Any]]
"""y_N and prob_N2 of a split"""


@dataclass(frozen=True, slots=True)
class LinearHead:
    """prob of column 1 = 1 / (1 + exp(-(z·weight + bias))), as scikit-learn fits labels 0, 1."""

    weight_1D: NDArray[np.float64]
    bias_1: NDArray[np.float64]
    converged: bool
    """False: scikit-learn's default of 100 iterations ended the fit, as it would the reference's"""


def fit_logistic(z_ND: NDArray[Any], y_N: NDArray[np.int64], *, c: float) -> LinearHead:
    """Fit scikit-learn's default: L2 penalty of strength 1/c on the weight, lbfgs, no scaling.

    Raises:
        InputError: only one class among the labels.
    """
    if len(np.unique(y_N)) != 2:
        raise InputError(f"{len(y_N)} cutouts, all of one class: no line can tell two apart")
    model = LogisticRegression(C=c)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # kept as `converged`
        model.fit(z_ND.astype(np.float64), y_N)
    return LinearHead(model.coef_, model.intercept_, bool(model.n_iter_[0] < model.max_iter))


def cross_validate(
    z_ND: NDArray[Any], y_N: NDArray[np.int64], *, c: float, seed: int
) -> dict[str, Any]:
    """Return the ROC AUC of linear heads on encodings they were not fitted on.

    Five times over, the encodings are dealt into five folds (fewer where a class has fewer
    cutouts), and each fold is scored by a head fitted on the others. Steadier than one small
    validation split, and optimistic: the encoder learned from most of the cutouts, without
    their labels.

    Returns:
        "roc_auc", mean over folds; "std" of a fold's; "folds", "repeats", "count"; empty where
        a class has a single cutout.
    """
    folds = min(FOLDS, *np.bincount(y_N, minlength=2))
    if folds < 2:
        return {}
    deal = RepeatedStratifiedKFold(n_splits=folds, n_repeats=REPEATS, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        auc_F = cross_val_score(
            LogisticRegression(C=c), z_ND.astype(np.float64), y_N, scoring="roc_auc", cv=deal
        )
    return {
        "roc_auc": float(auc_F.mean()),
        "std": float(auc_F.std()),
        "folds": int(folds),
        "repeats": REPEATS,
        "count": len(y_N),
    }


def scores(splits: Mapping[str, Scored], *, seed: int) -> dict[str, dict[str, Any]]:
    """Return ROC AUC from probabilities and from hard predictions, by split, with intervals.

    The hard ones replace each probability by 0 or 1 first, which is how the reference scored.
    They see the order of the cutouts at one threshold only: lower as a rule, not always.
    """
    return {
        "probability_roc_auc": {
            name: _interval(y_N, prob_N2, seed) for name, (y_N, prob_N2) in splits.items()
        },
        "hard_roc_auc": {
            name: _interval(y_N, np.eye(2)[prob_N2.argmax(axis=1)], seed)
            for name, (y_N, prob_N2) in splits.items()
        },
    }


def remarks(figures: Mapping[str, Any]) -> list[str]:
    """Return what the user should read of `scores` and `cross_validate`, line by line."""
    lines = [
        f"ROC AUC from {what}: train {_say(figures[key]['train'])}, "
        f"validation {_say(figures[key]['val'])}"
        for key, what in (
            ("probability_roc_auc", "probabilities"),
            ("hard_roc_auc", "hard 0/1 predictions (the reference's definition)"),
        )
    ]
    if crossed := figures["cross_validated"]:
        lines.append(
            f"ROC AUC in {crossed['repeats']}× {crossed['folds']}-fold cross-validation of the "
            f"linear head on all {crossed['count']:,} encodings: {crossed['roc_auc']:.4f} "
            f"(a fold's deviation {crossed['std']:.4f}); optimistic, as the encoder saw the "
            "training cutouts, without labels"
        )
    if not figures["head_converged"]:
        lines.append("the linear head stopped at scikit-learn's default of 100 iterations")
    return lines


def _interval(y_N: NDArray[np.int64], prob_N2: NDArray[Any], seed: int) -> dict[str, float]:
    low, high = metrics.bootstrap_roc_auc(y_N, prob_N2, seed=seed)[0]
    return {"value": metrics.roc_auc(y_N, prob_N2)[0], "low": low, "high": high}


def _say(auc: Mapping[str, float]) -> str:
    return f"{auc['value']:.4f} ({auc['low']:.4f}–{auc['high']:.4f})"
