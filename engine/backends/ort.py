"""ONNX Runtime: CUDA, and the CPU where OpenVINO is not installed."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.config import AUTO
from stronglens.engine.errors import BackendError
from stronglens.engine.machine import count_gpus

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
BATCH_SIZES = {"cuda": 128, "cpu": 32}
SILENT = 4
"""severity of log lines: what fails is raised, and said once"""


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
        why: str = "",
    ) -> None:
        """Load `graph`.

        Args:
            graph: ONNX with an input x (B, H, W) and an output prob (B, K), both float32; its
                precision is in the graph.
            device: cpu or cuda.
            precision: for the label, and float32 on cuda then means no TF32.
            threads: on the CPU; 0: all cores.
            batch_size: the fixed number of cutouts of every inference; 0: chosen here.
            why: the reason for these choices, for the label.

        Raises:
            BackendError: the device is not there, or the graph cannot be loaded.
        """
        self.device, self.precision = device, precision
        self.batch_size = batch_size or BATCH_SIZES[device]
        self._session: Any = _session(graph, device, precision, threads)
        plural = "s" if threads > 1 else ""
        with_threads = f" {threads or 'all'} thread{plural}," if device == "cpu" else ""
        self.label = (
            f"ONNX Runtime on {device}, {precision},{with_threads} "
            f"batches of {self.batch_size} ({why})"
        )

    def buffer(self, shape_BHW: tuple[int, int, int]) -> NDArray[np.float32]:
        """Return plain memory."""
        return np.empty(shape_BHW, np.float32)

    def run(self, x_BHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the probabilities (B, K)."""
        parts = [
            self._run_full(x_BHW[start : start + self.batch_size])
            for start in range(0, len(x_BHW), self.batch_size)
        ]
        return np.concatenate(parts)

    def _run_full(self, x_BHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run exactly `batch_size` cutouts: on CUDA each new shape costs a search for kernels."""
        n = len(x_BHW)
        if n < self.batch_size:
            x_BHW = np.concatenate(
                [x_BHW, np.zeros((self.batch_size - n, *x_BHW.shape[1:]), np.float32)]
            )
        try:
            (prob_BK,) = self._session.run(["prob"], {"x": x_BHW})
        except Exception as err:  # the runtime has a dozen classes without a common base
            raise BackendError(f"ONNX Runtime failed: {err}") from err
        result: NDArray[np.float32] = prob_BK[:n].astype(np.float32, copy=True)
        return result

    def close(self) -> None:
        """Free the model."""
        self._session = None


def _session(graph: Path, device: str, precision: str, threads: int) -> Any:
    import onnxruntime

    onnxruntime.set_default_logger_severity(SILENT)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    options.intra_op_num_threads = threads
    providers: list[Any] = [CPU]
    if device == "cuda":
        _require_cuda()
        providers = [(CUDA, {"use_tf32": "0" if precision == "float32" else "1"}), CPU]
    try:
        session = onnxruntime.InferenceSession(str(graph), options, providers=providers)
    except Exception as err:  # as above
        raise BackendError(f"ONNX Runtime cannot load {graph}: {err}") from err
    # Where CUDA's libraries do not load, it would go on silently on the CPU.
    if device == "cuda" and session.get_providers()[0] != CUDA:
        raise BackendError(
            "ONNX Runtime found the GPU but could not load CUDA: it needs the CUDA 13 and "
            "cuDNN 9 libraries (pip install nvidia-cudnn-cu13) and a driver that is new enough"
        )
    return session


def _require_cuda() -> None:
    import onnxruntime

    if CUDA not in onnxruntime.get_available_providers():
        raise BackendError(
            "this ONNX Runtime is built for the CPU only: "
            "pip uninstall onnxruntime, then pip install onnxruntime-gpu"
        )
    if not count_gpus():
        raise BackendError("no NVIDIA GPU, or no driver for it, was found: use --device cpu")
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
