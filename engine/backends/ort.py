"""ONNX Runtime: CUDA, and the CPU where OpenVINO is not installed."""

import ctypes
import io
import re
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.backends.pinned import PinnedMemory, load_cudart
from stronglens.engine.config import AUTO
from stronglens.engine.errors import BackendError
from stronglens.engine.machine import count_gpus, gpu_name

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
GPU = 0
"""the first that CUDA_VISIBLE_DEVICES leaves"""

SLICES = {"cuda": 64, "cpu": 8}
"""Cutouts that one inference takes. One shape, always: CUDA searches for kernels only once, and
a cutout's probabilities do not depend on how many come with it."""
SLICES_IN_A_BATCH = 4
LANES = {"cuda": 2, "cpu": 1}
"""Inferences at once. On CUDA one computes while the other's cutouts are copied, which takes as
long as a good part of the arithmetic where they are large."""

CUDA_OPTIONS = {
    "device_id": str(GPU),
    # Paid once, in the trial run. cuDNN's rules of thumb, the alternative, know grouped
    # convolutions least.
    "cudnn_conv_algo_search": "EXHAUSTIVE",
    # On by default, and no float32: it keeps 10 bits of 23. Half precision does not use it.
    "use_tf32": "0",
    # Fixed shapes ask for all their memory at once; doubling would waste up to half.
    "arena_extend_strategy": "kSameAsRequested",
}
"""Left as they are: enable_cuda_graph, because it forbids two runs at once and saves only the
launch of kernels, which at 64 cutouts hides behind those that run; user_compute_stream and
do_copy_in_default_stream, because each run has a stream of its own and the session copies only 64
rows of probabilities; prefer_nhwc, because nobody has measured it on grouped convolutions."""

OUT_OF_MEMORY = re.compile(
    r"out of memory|failed to allocate[\w ]*|\w*alloc_failed|smaller than requested|bad_?alloc",
    re.I,
)
CUDA_FAILURE = re.compile(r"(CUDA|CUDNN|CUBLAS) failure -?\d+: [^;]+", re.I)
"""what matters in a message of many lines"""
SILENT = 4
"""severity of log lines: what fails is raised, and said once"""


class _OutOfMemoryError(BackendError):
    """The cutouts of one inference do not fit."""


class OrtBackend:
    """A session on one device; see `Backend`."""

    def __init__(
        self,
        graph: Path,
        *,
        device: str = "cpu",
        precision: str = "float32",
        threads: int = AUTO,
        batch_size: int = AUTO,
        lanes: int = AUTO,
        outputs: tuple[str, ...] = ("prob",),
        why: str = "",
    ) -> None:
        """Load `graph`; on cuda also try it, so that its memory and its kernels are settled.

        Args:
            graph: ONNX with an input x (batch, H, W) and an output prob (batch, K), both
                float32; its precision is in the graph.
            device: cpu or cuda.
            precision: for the label.
            threads: on the CPU; 0: all cores.
            batch_size: cutouts in the batches to come; 0: chosen here, by what fits.
            lanes: inferences at once; 0: chosen here.
            outputs: of the graph, each (batch, any) float32; `run` puts them side by side.
            why: the reason for these choices, for the label.

        Raises:
            BackendError: the device is not there, the graph cannot be loaded, or the batch size
                that was asked for does not fit the device's memory.
        """
        if device == "cuda":
            _require_cuda()
        self.device, self.precision = device, precision
        self._lanes: list[_Lane] = []
        self._lane_count = lanes or LANES[device]
        self._outputs = outputs
        self._pool = ThreadPoolExecutor(self._lane_count, "ort")
        wanted = min(SLICES[device], batch_size or SLICES[device])
        size = self._open(graph, threads, wanted, may_shrink=not batch_size)
        self._pinned = PinnedMemory(_cudart() if device == "cuda" else None)
        self.batch_size = batch_size or SLICES_IN_A_BATCH * size
        if size < wanted:
            why += f"; {wanted} at once do not fit the GPU's memory, {size} do"
        gpu = f" ({gpu_name(GPU)})" if device == "cuda" else ""
        plural = "s" if threads > 1 else ""
        with_threads = f" {threads or 'all'} thread{plural}," if device == "cpu" else ""
        self.label = (
            f"ONNX Runtime on {device}{gpu}, {precision},{with_threads} "
            f"batches of {self.batch_size} ({why})"
        )

    def _open(self, graph: Path, threads: int, size: int, *, may_shrink: bool) -> int:
        """Make the lanes and return how many cutouts each takes: `size`, or what fits."""
        while True:
            try:
                session = _session(graph, self.device, threads, size)
                self._lanes = [
                    _Lane(session, self.device, size, self._outputs)
                    for _ in range(self._lane_count)
                ]
                if self.device == "cuda":
                    every = self._lane_count * size
                    self.run(np.zeros((every, *self._lanes[0].side_HW), np.float32))
                return size
            except _OutOfMemoryError:
                self._lanes = []
                if size == 1 or not may_shrink:
                    raise
            size //= 2

    def buffer(self, shape_BHW: tuple[int, int, int]) -> NDArray[np.float32]:
        """Return memory that a GPU fetches by itself; plain memory on the CPU."""
        return self._pinned.array(shape_BHW)

    def run(self, x_BHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the outputs, (B, K) where it is prob; the lanes take the slices in turn."""
        side_HW, size = self._lanes[0].side_HW, self._lanes[0].size
        if x_BHW.shape[1:] != side_HW or x_BHW.dtype != np.float32:
            found = f"{x_BHW.dtype} of shape {x_BHW.shape}"
            raise BackendError(f"the model takes float32 (B, *{side_HW}), found {found}")
        out_BK = np.empty((len(x_BHW), self._lanes[0].columns), np.float32)
        work = [
            self._pool.submit(lane.run, x_BHW, out_BK, turn * size, len(self._lanes) * size)
            for turn, lane in enumerate(self._lanes)
        ]
        wait(work)  # for all, also when one fails: they read the caller's memory
        for each in work:
            if (err := each.exception()) is not None:
                raise _explained(err, "ONNX Runtime failed", self.device, size) from err
        return out_BK

    def close(self) -> None:
        """Free the model."""
        self._pool.shutdown()
        self._lanes = []
        self._pinned.close()


class _Lane:
    """One inference at a time, with memory of its own: x on the device, outputs on the host."""

    def __init__(self, session: Any, device: str, size: int, outputs: tuple[str, ...]) -> None:
        import onnxruntime

        shapes = {each.name: each.shape for each in (*session.get_inputs(), *session.get_outputs())}
        self.size = size
        self.side_HW = tuple(shapes["x"][1:])
        self.columns = sum(shapes[name][1] for name in outputs)
        self._session = session
        try:
            self._x = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                (size, *self.side_HW), np.float32, device, GPU
            )
        except Exception as err:  # the runtime has a dozen classes without a common base
            raise _explained(err, "ONNX Runtime has no memory", device, size) from err
        self._out = [np.empty((size, shapes[name][1]), np.float32) for name in outputs]
        self._binding = session.io_binding()
        for name, out_SK in zip(outputs, self._out, strict=True):
            address = out_SK.ctypes.data
            self._binding.bind_output(name, "cpu", 0, np.float32, out_SK.shape, address)

    def run(
        self, x_BHW: NDArray[np.float32], out_BK: NDArray[np.float32], first: int, step: int
    ) -> None:
        """Fill the rows of out_BK for the slices that start at `first`, `first` + `step`, …"""
        for start in range(first, len(x_BHW), step):
            rows = slice(start, start + self.size)
            self._x.update_inplace(_full(x_BHW[rows], self.size))
            # Bound each time: a graph that wanted x elsewhere would get it there by this.
            self._binding.bind_ortvalue_input("x", self._x)
            self._session.run_with_iobinding(self._binding)
            count = len(out_BK[rows])
            np.concatenate([each[:count] for each in self._out], axis=1, out=out_BK[rows])


def _full(part_BHW: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Return `size` cutouts, side by side in memory; those that are missing are 0."""
    if len(part_BHW) == size:
        return np.ascontiguousarray(part_BHW)
    full_BHW = np.zeros((size, *part_BHW.shape[1:]), np.float32)
    full_BHW[: len(part_BHW)] = part_BHW
    return full_BHW


def _session(graph: Path, device: str, threads: int, size: int) -> Any:
    import onnxruntime

    onnxruntime.set_default_logger_severity(SILENT)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    options.intra_op_num_threads = threads
    options.add_free_dimension_override_by_name("batch", size)
    providers: list[Any] = [(CUDA, CUDA_OPTIONS), CPU] if device == "cuda" else [CPU]
    try:
        # Without enable_fallback=False it prints what failed and goes on on the CPU.
        session = onnxruntime.InferenceSession(
            str(graph), options, providers=providers, enable_fallback=False
        )
    except Exception as err:  # as above
        raise _explained(err, f"ONNX Runtime cannot load {graph}", device, size) from err
    # Where CUDA's libraries do not load it goes on on the CPU all the same.
    if device == "cuda" and session.get_providers()[0] != CUDA:
        raise BackendError(
            "ONNX Runtime found the GPU but could not load CUDA: it needs the CUDA 13 and "
            f"cuDNN 9 libraries and a driver that is new enough{_missing_library()}"
        )
    return session


def _explained(err: BaseException, what: str, device: str, size: int) -> BackendError:
    """Return an error that says what to do, where the runtime's own words tell."""
    words = found[0].strip() if (found := CUDA_FAILURE.search(str(err))) else str(err)
    if lack := OUT_OF_MEMORY.search(str(err)):
        remedy = f"--batch-size {size // 2}" if size > 1 else "a device with more"
        return _OutOfMemoryError(
            f"{what}: {size} cutouts at once do not fit the memory of {device}, "
            f"try {remedy} ({lack[0]})"
        )
    if device == "cuda" and found:
        update = "update the NVIDIA driver, or " if "driver" in words else ""
        words += f": {update}use --device cpu"
    return BackendError(f"{what}: {words}")


def _require_cuda() -> None:
    import onnxruntime

    if CUDA not in onnxruntime.get_available_providers():
        raise BackendError(
            "this ONNX Runtime is built for the CPU only: "
            "pip uninstall onnxruntime, then pip install onnxruntime-gpu"
        )
    if not count_gpus():
        raise BackendError("no NVIDIA GPU, or no driver for it, was found: use --device cpu")
    with redirect_stdout(io.StringIO()):  # it prints what it misses; `_missing_library` tells
        onnxruntime.preload_dlls()


def _cudart() -> Any | None:
    """Return CUDA's runtime library, which the session has loaded."""
    import onnxruntime

    return load_cudart(str(onnxruntime.cuda_version))


def _missing_library() -> str:
    """Return why the loader refuses the CUDA provider, "" where it does not."""
    import onnxruntime

    for library in (Path(onnxruntime.__file__).parent / "capi").glob("*providers_cuda.*"):
        try:
            ctypes.CDLL(str(library))
        except OSError as err:
            return f" ({err})"
    return ""
