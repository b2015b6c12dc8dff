"""Which rows are candidates: the best by one class's probability, and above which threshold."""

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stronglens.engine.batches import REJECTED, Rows
from stronglens.engine.config import Wanted
from stronglens.engine.errors import BundleError, ConfigError
from stronglens.engine.manifest import Manifest

DEFAULT = "lens"
MOST = 100_000
"""candidates that are kept where only a threshold says how many; some 50 MB"""

Row = tuple[str, list[float], int, float, list[str]]


def target_class(classes: Sequence[str], name: str = "") -> str:
    """Return the class whose probability ranks candidates: the one named, else "lens".

    Raises:
        ConfigError: there is no such class, or none was named and there is no "lens".
    """
    if (name or DEFAULT) in classes:
        return name or DEFAULT
    known = ", ".join(classes)
    if name:
        raise ConfigError(f"--target {name}: the model's classes are {known}")
    raise ConfigError(f"which class are candidates of? The model's are {known}: give --target")


class Top:
    """The best of the rows it is given, in as much memory as they take.

    Equal ones stay in the order in which they came; rejected rows are none of the best.
    """

    def __init__(
        self, count: int, column: int, threshold: float = -math.inf, *, rule: str = ""
    ) -> None:
        """Keep the best.

        Args:
            count: how many, at least 1.
            column: of the probabilities, the one that tells.
            threshold: the least probability.
            rule: where the threshold is from, in words.
        """
        if count < 1:
            raise ConfigError(f"the best {count}: must be a whole number from 1 on")
        self._count, self._column, self._threshold = count, column, threshold
        self._rule = rule
        self._heap: list[tuple[float, int, Row]] = []  # the worst first; of equals the latest
        self._seen = self._classes = 0
        self.passed = 0
        """rows so far that reach the threshold, whether kept or not"""

    def add(self, rows: Rows) -> None:
        """Look at more rows, that come after those before."""
        # as float64, else the threshold would be rounded to compare it
        prob_B = rows.prob_BK[:, self._column].astype(np.float64)
        self._classes = rows.prob_BK.shape[1]
        passed_B = (prob_B >= self._threshold) & ((rows.flags_B & np.uint16(REJECTED)) == 0)
        self.passed += int(passed_B.sum())
        if len(self._heap) == self._count:
            passed_B &= prob_B > self._heap[0][0]
        for i in np.flatnonzero(passed_B).tolist():
            self._offer(float(prob_B[i]), self._seen + i, rows, i)
        self._seen += len(rows.ids)

    def _offer(self, prob: float, place: int, rows: Rows, i: int) -> None:
        full = len(self._heap) == self._count
        if full and prob <= self._heap[0][0]:
            return
        row = (
            rows.ids[i],
            rows.prob_BK[i].tolist(),
            int(rows.flags_B[i]),
            float(rows.nan_frac_B[i]),
            rows.carried[i] if rows.carried else [],
        )
        (heapq.heappushpop if full else heapq.heappush)(self._heap, (prob, -place, row))

    def __str__(self) -> str:
        kept = f"the best {len(self._heap):,} of {self.passed:,}"
        return f"{kept} with {self._rule}" if self._rule else kept

    def rows(self) -> Rows:
        """Return the rows that are kept, the best first."""
        best = [row for _, _, row in sorted(self._heap, key=lambda kept: kept[:2], reverse=True)]
        return Rows(
            [row[0] for row in best],
            np.array([row[1] for row in best], np.float32).reshape(len(best), self._classes),
            np.array([row[2] for row in best], np.uint16),
            np.array([row[3] for row in best], np.float32),
            [row[4] for row in best] if any(row[4] for row in best) else [],
        )


@dataclass(frozen=True, slots=True)
class Threshold:
    """A cut on a class's probability, and what it did to the validation set it is from."""

    value: float
    """candidates have at least this probability"""
    tpr: float
    """share of the class that reaches it"""
    fpr: float
    """share of the others that reaches it, at most the one asked for"""
    negatives: int
    """how many others there were"""
    split: str
    """which cutouts those were"""
    simulated: bool

    def __str__(self) -> str:
        kind = "simulated" if self.simulated else "real"
        return (
            f"≥ {self.value:.6g}, which in validation ({self.negatives:,} {kind} others) let "
            f"{self.fpr:.2g} of them pass, and {self.tpr:.2g} of the class"
        )


def threshold_at_fpr(metrics: Mapping[str, Any], target: str, fpr: float) -> Threshold:
    """Return the lowest threshold that let at most `fpr` of the other classes pass in validation.

    Args:
        metrics: a manifest's.
        target: the class.
        fpr: false positive rate, above 0 and below 1.

    Raises:
        ConfigError: no such class, or a rate that this validation set cannot tell.
        BundleError: the bundle was made before there were curves in it, or they are damaged.
    """
    if not 0 < fpr < 1:
        raise ConfigError(f"a false positive rate of {fpr:g}: must be between 0 and 1")
    negatives, points = _curve(metrics, target)
    if fpr * negatives < 1 - 1e-9:
        raise ConfigError(
            f"a false positive rate of {fpr:g} cannot be told from {negatives:,} validation "
            f"cutouts of other classes: the smallest is {1 / negatives:.2g}"
        )
    allowed = [point for point in points if point[0] <= fpr]
    if not allowed:
        raise ConfigError(
            f"no threshold has a false positive rate of {fpr:g} or less: in validation the best "
            f"score is shared by {points[0][0]:.2g} of the other classes; that is the smallest"
        )
    found, tpr, value = allowed[-1]
    return Threshold(
        value, tpr, found, negatives, str(metrics["split"]), bool(metrics["simulated"])
    )


def _curve(metrics: Mapping[str, Any], target: str) -> tuple[int, list[tuple[float, float, float]]]:
    """Return how many cutouts are of other classes, and (fpr, tpr, threshold) from the best down.

    Raises:
        ConfigError, BundleError: see `threshold_at_fpr`.
    """
    if "roc_curve" not in metrics:
        raise BundleError(
            "the model has no ROC curve, so no threshold can be told from it: train and export it "
            "again with this version"
        )
    try:
        curves, counts = metrics["roc_curve"], metrics["counts"]
        if target not in curves:
            raise ConfigError(f"no ROC curve of class {target}: there are {', '.join(curves)}")
        columns = [[float(v) for v in curves[target][k]] for k in ("fpr", "tpr", "threshold")]
        points = list(zip(*columns, strict=True))
        negatives = sum(counts.values()) - counts[target]
        if not points or negatives < 1 or not np.isfinite(points).all() or sorted(points) != points:
            raise ValueError("no points in order")
        metrics["split"], metrics["simulated"]
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise BundleError(f"the model's ROC curve is damaged ({err}): export it again") from err
    return negatives, points


def candidates(manifest: Manifest, wanted: Wanted) -> Top | None:
    """Return what gathers the candidates that are wanted, None for none; see `Wanted`.

    Raises:
        ConfigError, BundleError: see `target_class` and `threshold_at_fpr`.
    """
    if not wanted.top and not wanted.max_fpr:
        return None
    target = target_class(manifest.classes, wanted.target)
    column = manifest.classes.index(target)
    if not wanted.max_fpr:
        return Top(wanted.top, column)
    threshold = threshold_at_fpr(manifest.metrics, target, wanted.max_fpr)
    return Top(wanted.top or MOST, column, threshold.value, rule=f"p_{target} {threshold}")
