"""Every artefact against torch float32 on the run's own cutouts; a miss fails the export."""

import math
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.backends import Backend
from stronglens.engine.errors import BackendError
from stronglens.engine.machine import usable_cores
from stronglens.training.metrics import roc_auc

Floats = NDArray[np.float32]

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
        auc = f", |ΔROC AUC| {self.delta_roc_auc:.3g}" if math.isfinite(self.delta_roc_auc) else ""
        return f"max |Δp| {self.max_abs_dp:g}{auc}"


ROUNDED = "float16, every activation rounded"

GATES = {
    # the same arithmetic in another order; the AUC of exact ties may move by any amount
    "float32": Gate(1e-4, math.inf),
    "float16": Gate(5e-3, 1e-3),
    # an estimate of what a GPU does, pessimistic by its separate rounding of what a GPU fuses:
    # a sharply trained ResNeXt50 gave 0.0053, where the logits are steep, and no label flipped
    ROUNDED: Gate(5e-2, 1e-3),
    # ranks must stay, scores may move: where logits are steep, 8 bits of mantissa moved those of
    # sharply trained ResNeXt50s by 0.02 and 0.06, and 7 bits without an exponent by 0.1 to 0.9,
    # as more or fewer layers were int8, with a ROC AUC that passed at 0.9 too and 4 % of the
    # labels flipped. With 0.25 no label can flip whose probability is 0.75 or more
    "bfloat16": Gate(0.25, 1e-3),
    "int8": Gate(0.25, 1e-3),
}


NAMES = {"ort": "ONNX Runtime", "ov": "OpenVINO"}
RUNTIMES = {
    "float32": ("ort", "ov"),
    "float16": ("ort",),
    "bfloat16": ("ov",),
    "int8": ("ov", "ort"),  # the faster first: several graphs may miss
}
"""which of the engine's runtimes compute in a precision on a CPU"""


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
    one_pair: float = 0.0
    """what a single swapped pair of cutouts moves the ROC AUC by, in the rarest class"""
    max_abs_activation: float | None = None
    """of a half body; float16 ends at 65,504"""
    rounded_max_abs_dp: float | None = None
    """of a half body with every activation rounded, which no CPU runtime does"""
    calibration: str | None = None
    """of int8: how the scales were taken"""
    calibrated_on: int | None = None
    """of int8: training cutouts that the scales were taken from"""
    float_layers: list[str] | None = None
    """of int8: the body's convolutions that stay float32"""
    float_sums: bool | None = None
    """of int8: whether sums read their shortcuts as float32"""

    @property
    def gate(self) -> Gate:
        """What is allowed.

        On few cutouts one swap of two near ties moves the ROC AUC by more than any gate, so
        one is forgiven: that matters below 1,000 pairs, about 65 cutouts of two even classes.
        """
        gate = GATES[self.precision]
        return replace(gate, delta_roc_auc=max(gate.delta_roc_auc, self.one_pair * (1 + 1e-6)))

    @property
    def passed(self) -> bool:
        """Whether both differences are within the gate; NaN is not."""
        gate = self.gate
        return self.max_abs_dp <= gate.max_abs_dp and self.delta_roc_auc <= gate.delta_roc_auc

    @property
    def figures(self) -> str:
        """What was measured, in a line."""
        return (
            f"max |Δp| {self.max_abs_dp:.3g}, |ΔROC AUC| {self.delta_roc_auc:.3g}, "
            f"{self.label_flips} labels flip ({self.runtime})"
        )

    def __str__(self) -> str:
        return (
            f"{self.precision} differs from torch float32 on {self.count} cutouts: "
            f"{self.figures}; allowed are {self.gate}"
        )

    def check(self) -> None:
        """Raise BackendError with the figures unless passed."""
        if not self.passed:
            raise BackendError(f"{self}. No bundle was written")

    def to_dict(self) -> dict[str, Any]:
        """Return what the manifest holds under the precision's name."""
        found = {name: value for name, value in asdict(self).items() if value is not None}
        del found["precision"]
        return found


@dataclass(frozen=True, slots=True)
class Reference:
    """What torch float32 says: the first rows have labels, the golden batch follows without."""

    x_NHW: Floats
    prob_NK: Floats
    y_M: NDArray[np.int64]
    """of the first M rows, M ≤ N"""

    def compare(self, precision: str, prob_NK: Floats, runtime: str) -> Parity:
        """Compare: |Δp| over all rows, the rest over those with labels; NaN differs by infinity."""
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
            one_pair=self._one_pair(),
        )

    def _one_pair(self) -> float:
        counts_K = np.bincount(self.y_M)
        return float(1 / (counts_K * (len(self.y_M) - counts_K)).min())


def worst(found: list[Parity]) -> Parity:
    """Return the largest differences of one precision over several runtimes, all named."""
    return Parity(
        found[0].precision,
        max(p.max_abs_dp for p in found),
        max(p.delta_roc_auc for p in found),
        max(p.label_flips for p in found),
        found[0].count,
        ", ".join(p.runtime for p in found),
        found[0].one_pair,
    )


def auto_count(flop: float) -> int:
    """Return how many cutouts to compare, given the operations one of them costs."""
    fewest, most = AUTO_RANGE
    return int(min(max(AUTO_FLOP / max(flop, 1.0), fewest), most))


def run_backends(graph: Path, precision: str, reference: Reference, *, between: str = "") -> Parity:
    """Compare what the engine's own CPU backends make of a graph in one precision.

    float32 and int8 through both runtimes, since a machine may have either; where the first
    misses, the second is spared. A half graph runs in float32 on a CPU, so one runtime is
    enough; only OpenVINO computes in bfloat16.

    Args:
        graph: of that precision.
        precision: what to compute in.
        reference: what torch float32 says.
        between: what OpenVINO computes in between the int8 layers of an int8 graph.
    """
    from stronglens.engine.backends.openvino import OpenVinoBackend
    from stronglens.engine.backends.ort import OrtBackend

    threads = usable_cores()
    found: list[Parity] = []
    for runtime in RUNTIMES[precision]:
        name = f"{NAMES[runtime]} {runtime_version(runtime)}"
        if runtime == "ort":
            backend: Backend = OrtBackend(graph, precision=precision, threads=threads)
        else:
            name += f" with {between}" if between else ""
            backend = OpenVinoBackend(graph, precision=precision, threads=threads, between=between)
        found.append(_run(backend, precision, reference, name))
        if not found[-1].passed:
            break
    return worst(found)


def computes_bfloat16() -> bool:
    """Return whether this CPU computes in bfloat16, rather than emulates it."""
    from stronglens.engine.backends.openvino import native_precisions

    return "bfloat16" in native_precisions()


def runtime_version(name: str) -> str:
    """Return the version of "ort", whichever of its two packages is installed, or of "ov"."""
    for package in {"ort": ("onnxruntime-gpu", "onnxruntime"), "ov": ("openvino",)}[name]:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return "of unknown version"


def _run(backend: Backend, precision: str, reference: Reference, name: str) -> Parity:
    parts = [
        backend.run(reference.x_NHW[i : i + backend.batch_size])
        for i in range(0, len(reference.x_NHW), backend.batch_size)
    ]
    backend.close()
    return reference.compare(precision, np.concatenate(parts), name)
