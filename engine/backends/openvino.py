"""OpenVINO on the CPU: by far the fastest runtime there."""

import sys
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.config import AUTO
from stronglens.engine.errors import BackendError
from stronglens.engine.machine import cpu_flags

SLICE = 4
"""Cutouts that one inference takes. Shapes are then fixed, so a cutout's probabilities do not
depend on the batch size; 1 to 32 ran equally fast within a tenth, 4 the fastest in int8
(benchmarks/results/backends.md)."""
THREADS_PER_MODEL = 4
"""of an int8 graph, which is loaded once for each so many threads, one load after the other, with
one stream each. Where OpenVINO 2026.4 prepared an int8 graph for two streams, it prepared them
side by side, and 8 of 200 were spoilt: every probability wrong, until it was loaded anew. With
one stream none of 200 was, nor one of 240 in float32 and bfloat16 with two."""
HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "int8": "f32"}


def load_openvino() -> Any:
    """Import OpenVINO without its telemetry, and return it.

    Its import otherwise reports itself to Google Analytics from a forked process, writes files
    in the home folder, and holds up the exit where the network does not answer.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # None: absent
    import openvino

    return openvino


def native_precisions() -> set[str]:
    """Return the precisions that this CPU computes in, rather than emulates."""
    ov = load_openvino()
    names = {"FP32": "float32", "BF16": "bfloat16", "FP16": "float16", "INT8": "int8"}
    found = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    native = {names[name] for name in found if name in names}
    # OpenVINO also offers bfloat16 where AVX-512 has to emulate it
    flags = cpu_flags()
    if flags is not None and not flags & {"avx512_bf16", "amx_bf16"}:
        native.discard("bfloat16")
    return native


class OpenVinoBackend:
    """A graph compiled for the CPU; see `Backend`."""

    hint: str
    """what OpenVINO was told to compute in where the graph leaves it open"""

    def __init__(
        self,
        graph: Path,
        *,
        precision: str = "float32",
        threads: int = 1,
        batch_size: int = AUTO,
        between: str = "",
        outputs: tuple[str, ...] = ("prob",),
        why: str = "",
    ) -> None:
        """Compile `graph`.

        Args:
            graph: ONNX with an input x (B, H, W) and an output prob (B, K), both float32.
            precision: what to compute in.
            threads: in all.
            batch_size: cutouts in the batches to come; 0: chosen here.
            between: what to compute in between the int8 layers of an int8 graph; "": float32.
            outputs: of the graph, each (B, any) float32; `run` puts them side by side.
            why: the reason for these choices, for the label.

        Raises:
            BackendError: OpenVINO cannot read or compile it.
        """
        ov = load_openvino()
        self.device, self.precision = "cpu", precision
        self.hint = HINTS[between or precision]
        alone = precision == "int8"
        models = max(1, threads // THREADS_PER_MODEL) if alone else 1
        config = {
            # as many streams as OpenVINO finds best for the net and the processor
            **({"NUM_STREAMS": "1"} if alone else {"PERFORMANCE_HINT": "THROUGHPUT"}),
            "INFERENCE_PRECISION_HINT": self.hint,
            "INFERENCE_NUM_THREADS": threads // models,
            # the cores may be shared: with the feed, with other containers that count from core 0
            "ENABLE_CPU_PINNING": False,
        }
        try:
            core = ov.Core()
            model = _with_outputs(core.read_model(graph), outputs)
            # No CACHE_DIR: it saves 0.03 s of 0.2 s, for 90 MB of the user's disk a model.
            compiled = [core.compile_model(model, "CPU", config) for _ in range(models)]
            # 0: as many requests as streams
            self._queues: list[Any] = [ov.AsyncInferQueue(each, 0) for each in compiled]
        except RuntimeError as err:
            raise BackendError(f"OpenVINO cannot load {graph}: {err}") from err
        self._tensor = ov.Tensor
        self._side_HW = tuple(model.input(0).shape)[1:]
        ends = accumulate((each.shape[1] for each in model.outputs), initial=0)
        self._columns = [slice(*each) for each in pairwise(ends)]
        streams = sum(map(len, self._queues))
        self.batch_size = batch_size or max(64, 4 * SLICE * streams)
        cpu = core.get_property("CPU", "FULL_DEVICE_NAME").strip()
        plural = "s" if threads > 1 else ""
        kind = precision + (f" with {between} between" if between else "")
        self.label = (
            f"OpenVINO on cpu ({cpu}), {kind}, {threads} thread{plural}, "
            f"batches of {self.batch_size} ({why})"
        )

    def buffer(self, shape_BHW: tuple[int, int, int]) -> NDArray[np.float32]:
        """Return plain memory: OpenVINO reads it in place."""
        return np.empty(shape_BHW, np.float32)

    def run(self, x_BHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the outputs, (B, K) where it is prob; slices of the batch run side by side."""
        if x_BHW.shape[1:] != self._side_HW or x_BHW.dtype != np.float32:
            found = f"{x_BHW.dtype} of shape {x_BHW.shape}"
            raise BackendError(f"the model takes float32 (B, *{self._side_HW}), found {found}")
        out_BK = np.empty((len(x_BHW), self._columns[-1].stop), np.float32)

        def collect(request: Any, start: int) -> None:
            part_BK = out_BK[start : start + SLICE]
            for i, columns in enumerate(self._columns):
                part_BK[:, columns] = request.get_output_tensor(i).data[: len(part_BK)]

        for queue in self._queues:
            queue.set_callback(collect)
        # Held to the end: a shared tensor does not keep its memory alive.
        slices = [_full(x_BHW, start) for start in range(0, len(x_BHW), SLICE)]
        try:
            try:
                for i, part_BHW in enumerate(slices):
                    queue = self._queues[i % len(self._queues)]
                    queue.start_async(self._tensor(part_BHW, shared_memory=True), i * SLICE)
            finally:  # whatever happens: requests still read the slices
                for queue in self._queues:
                    queue.wait_all()
        except RuntimeError as err:
            raise BackendError(f"OpenVINO failed: {err}") from err
        return out_BK

    def close(self) -> None:
        """Free the model."""
        self._queues = []


def _with_outputs(model: Any, outputs: tuple[str, ...]) -> Any:
    """Return the model with its shapes fixed and without any other output."""
    ov = load_openvino()
    small = ov.Model([model.output(name) for name in outputs], model.get_parameters(), "served")
    small.reshape([SLICE, *list(small.input(0).partial_shape)[1:]])
    return small


def _full(x_BHW: NDArray[np.float32], start: int) -> NDArray[np.float32]:
    """Return SLICE cutouts from `start` on; those beyond the batch are 0."""
    part_BHW = np.ascontiguousarray(x_BHW[start : start + SLICE])
    if len(part_BHW) == SLICE:
        return part_BHW
    full_BHW = np.zeros((SLICE, *x_BHW.shape[1:]), np.float32)
    full_BHW[: len(part_BHW)] = part_BHW
    return full_BHW
