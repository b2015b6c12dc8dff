"""TensorRT: a plan, run in two lanes, each with a stream and memory of its own.

While one lane computes, the other's cutouts are copied to the GPU:

    lane 0   copy ─ compute ─ copy          copy ─ compute ─ copy
    lane 1          copy ───── compute ─ copy          copy ───── …

A lane's work is in order by its stream, and lanes share nothing but the plan's weights, so
nothing has to be kept in step between them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.backends.cuda import Cuda, OutOfMemoryError, PageLocks
from stronglens.engine.backends.pinned import PinnedMemory
from stronglens.engine.backends.tensorrt_lane import Lane
from stronglens.engine.backends.tensorrt_log import explained, failure, log_of
from stronglens.engine.config import AUTO
from stronglens.engine.errors import BackendError

LANES = 2
SLICES_IN_A_BATCH = 4

Floats = NDArray[np.float32]


class TensorRtBackend:
    """A plan on the first GPU; see `Backend`."""

    device = "tensorrt"

    def __init__(
        self,
        trt: Any,
        cuda: Cuda,
        plan: bytes,
        *,
        precision: str = "float32",
        batch_size: int = AUTO,
        gpu: str = "GPU",
        why: str = "",
    ) -> None:
        """Load a plan and try it, so that its memory is settled.

        Args:
            trt: the module tensorrt, of the very version that built the plan.
            cuda: from `load_cuda`.
            plan: from `build_plan`, on this GPU; machine code, never a stranger's.
            precision: for the label; it is in the plan.
            batch_size: cutouts in the batches to come; 0: chosen here, by what fits.
            gpu: its name, for the label.
            why: the reason for these choices, for the label.

        Raises:
            BackendError: TensorRT refuses the plan, or the batch size that was asked for does
                not fit the GPU's memory.
        """
        self.precision = precision
        self._trt, self._cuda = trt, cuda
        self._lanes: list[Lane] = []
        with explained(trt, "TensorRT refuses the plan"):
            self._runtime = trt.Runtime(log_of(trt))  # must outlive the engine
            self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise failure(trt, "TensorRT refuses the plan, of another version or GPU")
        self._usual = int(self._engine.get_tensor_profile_shape("x", 0)[1][0])
        self._pinned = PinnedMemory(PageLocks(cuda))
        wanted = min(self._usual, batch_size or self._usual)
        self.size = self._open(wanted, may_shrink=not batch_size)
        self.batch_size = batch_size or SLICES_IN_A_BATCH * self.size
        if self.size < wanted:
            why += f"; {wanted} at once do not fit the GPU's memory, {self.size} do"
        self.label = (
            f"TensorRT {trt.__version__} on {gpu}, {precision}, "
            f"batches of {self.batch_size} ({why})"
        )

    def _open(self, size: int, *, may_shrink: bool) -> int:
        """Make the lanes and return how many cutouts each takes: `size`, or what fits."""
        while True:
            try:
                for _ in range(LANES):
                    self._lanes.append(
                        Lane(self._trt, self._cuda, self._engine, size, self._pinned)
                    )
                trial_BHW = np.zeros((LANES * size, *self._lanes[0].side_HW), np.float32)
                self.run(trial_BHW)  # what a graph records must have run before
                for lane in self._lanes:
                    lane.record()
                self.run(trial_BHW)
                return size
            except OutOfMemoryError as err:
                self._close_lanes()
                if size == 1 or not may_shrink:
                    remedy = f"--batch-size {size // 2}" if size > 1 else "a GPU with more"
                    raise OutOfMemoryError(
                        f"{size} cutouts at once do not fit the GPU's memory, try {remedy} ({err})"
                    ) from err
            except BaseException:
                self._close_lanes()
                raise
            size //= 2

    def inspect(self) -> str:
        """Return what TensorRT tells of the plan's layers, as JSON."""
        inspector = self._engine.create_engine_inspector()
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def buffer(self, shape_BHW: tuple[int, int, int]) -> Floats:
        """Return memory that the GPU fetches by itself."""
        return self._pinned.array(shape_BHW)

    def run(self, x_BHW: Floats) -> Floats:
        """Return the probabilities (B, K); the lanes take the slices of the batch in turn."""
        first = self._lanes[0]
        if x_BHW.shape[1:] != first.side_HW or x_BHW.dtype != np.float32:
            found = f"{x_BHW.dtype} of shape {x_BHW.shape}"
            raise BackendError(f"the model takes float32 (B, *{first.side_HW}), found {found}")
        prob_BK = np.empty((len(x_BHW), first.num_classes), np.float32)
        try:
            for turn, start in enumerate(range(0, len(x_BHW), first.size)):
                lane = self._lanes[turn % LANES]
                lane.collect(prob_BK)
                lane.start(x_BHW, start)
            for lane in self._lanes:
                lane.collect(prob_BK)
        except BaseException:
            for lane in self._lanes:  # they read the caller's memory
                lane.drain()
            raise
        return prob_BK

    def close(self) -> None:
        """Free the GPU's memory. Safe to call twice."""
        self._close_lanes()
        self._engine = self._runtime = None
        self._pinned.close()

    def _close_lanes(self) -> None:
        while self._lanes:
            self._lanes.pop().close()
