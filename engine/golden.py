"""Replay a bundle's golden batch: the model must answer here as it did where it was made."""

import numpy as np

from stronglens.engine.backends import Backend
from stronglens.engine.bundle import Bundle, Golden
from stronglens.engine.errors import BackendError, CutoutError
from stronglens.engine.manifest import DIFFERENCES
from stronglens.engine.preprocess import PreprocessSpec, prepare

PIXEL_TOLERANCE = 1e-6
"""absolute: mathematical libraries differ in the last bit of asinh"""
FLOAT32_TOLERANCE = 1e-4
DEFAULT_TOLERANCE = 5e-2
"""of a precision for which the bundle records no parity"""


def replay(bundle: Bundle, backend: Backend, *, encodings: bool = False) -> int:
    """Prepare and score the golden cutouts and compare them with what the bundle holds.

    Args:
        bundle: from `load_bundle`.
        backend: opened for this bundle.
        encodings: whether it was opened to return them too.

    Returns:
        How long an encoding is; 0 without.

    Raises:
        BackendError: they differ; the model must not be used here.
    """
    golden = bundle.golden()
    prob_NK = backend.run(golden.x_NHW)  # first: the kernels may still be compiled meanwhile
    length = prob_NK.shape[1] - len(bundle.manifest.classes) if encodings else 0
    if encodings:
        prob_NK = prob_NK[:, : len(bundle.manifest.classes)]
    _replay_prepare(golden, bundle.manifest.preprocess)
    limit = tolerance(bundle, backend.precision)
    if prob_NK.shape != golden.prob_NK.shape:
        raise BackendError(
            f"the model gives probabilities of shape {prob_NK.shape}, and gave "
            f"{golden.prob_NK.shape} when it was exported: export it again"
        )
    if prob_NK.shape[1] != len(classes := bundle.manifest.classes):
        raise BackendError(
            f"the model gives {prob_NK.shape[1]} probabilities for the classes "
            f"{', '.join(classes)}: export it again"
        )
    worst = float(np.abs(prob_NK - golden.prob_NK).max())
    if not worst <= limit:  # also when it is NaN
        raise BackendError(
            f"the golden cutouts' probabilities are off by {worst:.2g} in {backend.precision} on "
            f"this machine, more than {limit:.2g}: choose another --precision or --device"
        )
    return length


def tolerance(bundle: Bundle, precision: str) -> float:
    """Return how far a probability may be from torch float32.

    A GPU rounds every activation of a float16 graph, which the export estimated on its own.
    """
    if precision == "float32":
        return FLOAT32_TOLERANCE
    parity = bundle.manifest.parity.get(precision, {})
    recorded = [parity.get(name) for name in DIFFERENCES]
    known = [float(each) for each in recorded if each is not None]
    return 2 * max(known) + 1e-3 if known else DEFAULT_TOLERANCE


def _replay_prepare(golden: Golden, spec: PreprocessSpec) -> None:
    x_HW = np.empty((spec.size, spec.size), np.float32)
    for i, raw in enumerate(golden.raw_NHW):
        try:
            prepare(raw, spec, x_HW)
        except CutoutError as err:
            raise BackendError(f"golden cutout {i} cannot be prepared: {err}") from err
        worst = float(np.abs(x_HW - golden.x_NHW[i]).max())
        if not worst <= PIXEL_TOLERANCE:
            raise BackendError(
                f"golden cutout {i} is prepared differently here, by {worst:.2g}: "
                "this version does not fit the bundle, export the model again"
            )
