"""How large the values inside a net become on real cutouts: what an int8 scale is taken from."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from stronglens.engine.errors import BackendError
from stronglens.engine.machine import usable_cores

Floats = NDArray[np.float32]

BATCH = 4
"""cutouts whose values are held at once: of ResNeXt50 at 224 pixels, 45 MB each"""
SHIFT = 16
"""low bits of a float32 that its bin ignores; those left, exponent and 7 bits of mantissa, part
the values of any net into bins 0.8 % wide, so that one pass over the cutouts is enough"""
BINS = 1 << (31 - SHIFT)


class Histogram:
    """Counts of |value|, in bins of equal relative width, 256 kB whatever was counted."""

    def __init__(self) -> None:
        self.peak = 0.0
        """the largest"""
        self.counts = np.zeros(BINS, np.int64)

    def add(self, values: Floats) -> None:
        """Count an array of any shape.

        Raises:
            BackendError: some values are not finite.
        """
        magnitude = np.abs(values).ravel()
        peak = float(magnitude.max())
        if not np.isfinite(peak):
            raise BackendError("int8: the net's inner values on training cutouts are not finite")
        self.peak = max(self.peak, peak)
        self.counts += np.bincount(magnitude.view(np.uint32) >> SHIFT, minlength=BINS)

    def limit(self, percent: float) -> float:
        """Return what at least `percent` of the values are within; of 100, the largest value."""
        reached = np.cumsum(self.counts)
        last = int(np.searchsorted(reached, reached[-1] * (percent / 100)))
        beyond = np.array([min(last, BINS - 1) + 1], np.uint32) << SHIFT
        return min(float(beyond.view(np.float32)[0]), self.peak)


def measure(content: bytes, names: Sequence[str], x_NHW: Floats) -> dict[str, Histogram]:
    """Return a histogram of each tensor of a float32 ONNX graph over cutouts x_NHW.

    Args:
        content: the graph; takes x (B, H, W).
        names: of float32 tensors inside it.
        x_NHW: prepared cutouts.

    Raises:
        BackendError: some values are not finite.
    """
    session = open_inner(content, names)
    found = {name: Histogram() for name in names}
    for start in range(0, len(x_NHW), BATCH):
        # no name holds the values, so they are freed before the next
        for histogram, each in zip(
            found.values(),
            session.run(list(names), {"x": x_NHW[start : start + BATCH]}),
            strict=True,
        ):
            histogram.add(each)
    return found


def open_inner(content: bytes, names: Sequence[str]) -> Any:
    """Return an ONNX Runtime session of a graph that gives tensors inside it, and no others."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.log_severity_level = 3  # not that the head is left out here
    return onnxruntime.InferenceSession(
        _with_outputs(content, names), options, providers=["CPUExecutionProvider"]
    )


def _with_outputs(content: bytes, names: Sequence[str]) -> bytes:
    model = onnx.load_from_string(content)
    del model.graph.output[:]
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    opened: bytes = model.SerializeToString()
    return opened
