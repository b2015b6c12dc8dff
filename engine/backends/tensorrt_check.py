"""Whether a new plan says, on the GPU it is for, what the graph says on the CPU."""

import json
import re

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.backends.ort import OrtBackend
from stronglens.engine.backends.tensorrt import LANES, TensorRtBackend
from stronglens.engine.batches import REJECTED
from stronglens.engine.bundle import Bundle
from stronglens.engine.errors import BackendError, CutoutError
from stronglens.engine.golden import tolerance
from stronglens.engine.machine import usable_cores
from stronglens.engine.preprocess import PreprocessSpec, prepare

Floats = NDArray[np.float32]

HALF_MAX = 65504.0
"""the largest float16"""
HALF = re.compile(r"\b(?:fp16|half|float16)\b", re.I)
SINGLE = re.compile(r"\b(?:fp32|float|float32)\b", re.I)


def check_plan(backend: TensorRtBackend, bundle: Bundle) -> str:
    """Compare a plan with ONNX Runtime on the CPU, and see what its convolutions compute in.

    Returns:
        The figures, in a line.

    Raises:
        BackendError: they differ, or a float16 plan computes in float32: it must not be used.
    """
    x_NHW = fixed_batch(bundle)
    reference = OrtBackend(bundle.graph(backend.precision), threads=usable_cores())
    expected_NK = reference.run(x_NHW)
    reference.close()
    # more than one round of the lanes, and a short slice; each cutout in several places
    rows_M = np.arange(LANES * backend.size + 3 + len(x_NHW)) % len(x_NHW)
    prob_MK = backend.run(x_NHW[rows_M])
    off_M = np.abs(prob_MK - expected_NK[rows_M]).max(axis=1)
    off_M[_excused(prob_MK, x_NHW[rows_M])] = 0
    worst, limit = float(off_M.max()), tolerance(bundle, backend.precision)
    if not worst <= limit:  # also when it is NaN
        raise BackendError(
            f"the new plan is refused: its probabilities are off by {worst:.2g} in "
            f"{backend.precision}, more than {limit:.2g}, from ONNX Runtime's on the CPU (worst: "
            f"row {off_M.argmax()} of {len(off_M)}): use --device cuda, or another --precision"
        )
    return f"max |Δp| {worst:.1e} from the CPU's; {_check_types(backend)}"


def _excused(prob_NK: Floats, x_NHW: Floats) -> NDArray[np.bool_]:
    """Return which rows are NaN for pixels beyond half: they will count as not scored."""
    bright_N: NDArray[np.bool_] = np.abs(x_NHW).max(axis=(1, 2)) > HALF_MAX
    return bright_N & np.isnan(prob_NK).all(axis=1)


def fixed_batch(bundle: Bundle) -> Floats:
    """Return the golden cutouts and what `prepare` makes of five that are hard to bear.

    One with a grid of NaN, a constant one, a tiny one, one near float32's largest number, and
    one that is all NaN. What `prepare` rejects is a row of zeros, as in a catalogue run.
    """
    golden, spec = bundle.golden(), bundle.manifest.preprocess
    real_HW = np.asarray(golden.raw_NHW[0], np.float64)
    peak = np.abs(real_HW[np.isfinite(real_HW)]).max()
    unit_HW = real_HW / (peak if peak > 0 else 1.0)
    holes_HW = unit_HW.copy()
    holes_HW[::3, ::5] = np.nan
    hard = [holes_HW, np.full_like(unit_HW, 3.0), unit_HW * 1e-30, unit_HW * 3e38]
    hard.append(np.full_like(unit_HW, np.nan))
    return np.concatenate([golden.x_NHW, *(_prepared(raw_HW, spec) for raw_HW in hard)])


def _prepared(raw_HW: NDArray[np.float64], spec: PreprocessSpec) -> Floats:
    x_1HW = np.zeros((1, spec.size, spec.size), np.float32)
    try:
        flags, _ = prepare(raw_HW.astype(np.float32), spec, x_1HW[0])
    except CutoutError:
        flags = REJECTED
    return np.zeros_like(x_1HW) if flags & REJECTED else x_1HW


def _check_types(backend: TensorRtBackend) -> str:
    half, single, unknown = count_convolutions(backend.inspect())
    said = f"convolutions: {half} in half, {single} in float32"
    if backend.precision == "float16" and single > max(half, 1):  # the first is float32
        raise BackendError(
            f"the new plan is refused: asked for float16, but of its {said}. Please report "
            "this with what lens-infer --doctor prints, and use --device cuda"
        )
    return said + (f", {unknown} that TensorRT does not tell" if unknown else "")


def count_convolutions(information: str) -> tuple[int, int, int]:
    """Return how many convolutions read half, float32, and what the inspector does not tell.

    Args:
        information: JSON of `EngineInspector.get_engine_information`, of a plan whose profiling
            verbosity is DETAILED.
    """
    counts = [0, 0, 0]
    try:
        layers = json.loads(information).get("Layers", [])
    except ValueError:  # this only explains: that the numbers agree is checked before
        return 0, 0, 0
    for layer in layers:
        if not isinstance(layer, dict):  # less than DETAILED: only a name
            counts[2] += "conv" in str(layer).lower()
        elif "conv" in f"{layer.get('LayerType')} {layer.get('ParameterType')}".lower():
            types = " ".join(str(each.get("Format/Datatype")) for each in layer.get("Inputs", []))
            counts[0 if HALF.search(types) else 1 if SINGLE.search(types) else 2] += 1
    half, single, unknown = counts
    return half, single, unknown
