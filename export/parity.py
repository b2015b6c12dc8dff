"""Every artefact against torch float32 on the run's own cutouts; a miss fails the export."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.errors import BackendError
from stronglens.training.metrics import roc_auc

Floats = NDArray[np.float32]
Scorer = Callable[[Floats], Floats]
"""x_BHW -> prob_BK"""

BATCH = 32
AUTO_FLOP = 2.2e12
"""operations an automatic count may cost per artefact: half a minute in float32 on two cores"""
AUTO_RANGE = (256, 2000)
"""fewest and most cutouts an automatic count takes"""


@dataclass(frozen=True, slots=True)
class Gate:
    """The largest differences that pass."""

    max_abs_dp: float
    delta_roc_auc: float

    def __str__(self) -> str:
        auc = f", |ΔROC AUC| {self.delta_roc_auc:g}" if math.isfinite(self.delta_roc_auc) else ""
        return f"max |Δp| {self.max_abs_dp:g}{auc}"


GATES = {
    # the same arithmetic in another order; the AUC of exact ties may move by any amount
    "float32": Gate(1e-4, math.inf),
    "float16": Gate(5e-3, 1e-3),
    # 8 bits of mantissa move p by about 0.01 (random ResNet-18: 0.007); with 0.05 a label can
    # only flip where the two best classes are less than 0.1 apart
    "bfloat16": Gate(5e-2, 1e-3),
}


@dataclass(frozen=True, slots=True)
class Parity:
    """How far one artefact's probabilities are from torch float32's."""

    precision: str
    max_abs_dp: float
    delta_roc_auc: float
    """absolute, of the class where it moves most"""
    label_flips: int
    count: int
    """cutouts compared"""
    runtime: str

    @property
    def passed(self) -> bool:
        """Whether both differences are within the gate; NaN is not."""
        gate = GATES[self.precision]
        return self.max_abs_dp <= gate.max_abs_dp and self.delta_roc_auc <= gate.delta_roc_auc

    def __str__(self) -> str:
        return (
            f"{self.precision} differs from torch float32 on {self.count} cutouts: "
            f"max |Δp| {self.max_abs_dp:.2g}, |ΔROC AUC| {self.delta_roc_auc:.2g}, "
            f"{self.label_flips} labels flip ({self.runtime}); "
            f"allowed are {GATES[self.precision]}"
        )

    def check(self) -> None:
        """Raise BackendError with the figures unless passed."""
        if not self.passed:
            raise BackendError(f"{self}. No bundle was written")

    def to_dict(self) -> dict[str, Any]:
        """Return what the manifest holds under the precision's name."""
        return {name: value for name, value in asdict(self).items() if name != "precision"}


@dataclass(frozen=True, slots=True)
class Reference:
    """What torch float32 says: the first rows have labels, the golden batch follows without."""

    x_NHW: Floats
    prob_NK: Floats
    y_M: NDArray[np.int64]
    """of the first M rows, M ≤ N"""

    def compare(self, precision: str, scorer: Scorer, runtime: str) -> Parity:
        """Score every row and compare: |Δp| over all of them, the rest over those with labels."""
        return self.compare_scores(precision, score(scorer, self.x_NHW), runtime)

    def compare_scores(self, precision: str, prob_NK: Floats, runtime: str) -> Parity:
        """Compare probabilities that are there already; those not finite differ by infinity."""
        labelled = len(self.y_M)
        if not np.isfinite(prob_NK).all():
            return Parity(precision, math.inf, math.inf, labelled, labelled, runtime)
        expected_MK, prob_MK = self.prob_NK[:labelled], prob_NK[:labelled]
        before, after = roc_auc(self.y_M, expected_MK), roc_auc(self.y_M, prob_MK)
        return Parity(
            precision,
            max_abs_dp=float(np.abs(prob_NK - self.prob_NK).max()),
            delta_roc_auc=max(abs(after[key] - before[key]) for key in before),
            label_flips=int((prob_MK.argmax(1) != expected_MK.argmax(1)).sum()),
            count=labelled,
            runtime=runtime,
        )


def worst(found: list[Parity]) -> Parity:
    """Return the largest differences of one precision over several runtimes, all named."""
    return Parity(
        found[0].precision,
        max(p.max_abs_dp for p in found),
        max(p.delta_roc_auc for p in found),
        max(p.label_flips for p in found),
        found[0].count,
        ", ".join(p.runtime for p in found),
    )


def score(scorer: Scorer, x_NHW: Floats) -> Floats:
    """Return prob_NK, run in batches of 32."""
    return np.concatenate([scorer(x_NHW[i : i + BATCH]) for i in range(0, len(x_NHW), BATCH)])


def auto_count(flop: float) -> int:
    """Return how many cutouts to compare, given the operations one of them costs."""
    fewest, most = AUTO_RANGE
    return int(min(max(AUTO_FLOP / max(flop, 1.0), fewest), most))
