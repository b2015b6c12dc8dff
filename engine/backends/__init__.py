"""Where prepared cutouts become probabilities: one module per runtime, nothing else names one."""

from collections.abc import Callable, Collection
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.bundle import Bundle
from stronglens.engine.config import AUTO, DEVICES, PRECISIONS
from stronglens.engine.errors import BackendError, ConfigError
from stronglens.engine.machine import count_gpus, cpu_flags, usable_cores

INT8_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""Instruction sets with which int8 ran 1.3 to 1.7 times as fast as bfloat16, by how much of the net
is int8. Without them it is used only when asked for: x86's older byte products may saturate, and
no ARM was measured."""


class Backend(Protocol):
    """A loaded model. Not shared between threads."""

    device: str
    """cpu, cuda or tensorrt"""
    precision: str
    """what it computes in"""
    label: str
    """one line: runtime, device, precision, threads, batch, and why these"""
    batch_size: int
    """cutouts it is best given at once; it takes any number"""

    def buffer(self, shape_BHW: tuple[int, int, int]) -> NDArray[np.float32]:
        """Return host memory that the runtime reads fast."""

    def run(self, x_BHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the probabilities (B, K) float32, owned by the caller.

        Where it was opened for encodings, each row goes on with its encoding: (B, K + D).

        Raises:
            BackendError: the runtime failed.
        """

    def close(self) -> None:
        """Free the model. Safe to call twice."""


def open_backend(
    bundle: Bundle,
    *,
    device: str = "auto",
    precision: str = "auto",
    threads: int = AUTO,
    batch_size: int = AUTO,
    encodings: bool = False,
    say: Callable[[str], None] = lambda line: None,
    check: Callable[[], None] = lambda: None,
) -> Backend:
    """Load the bundle's model where it runs fastest, or where it was asked to run.

    Nothing is measured: `auto` goes by what the machine has, what the bundle holds, and which
    precisions passed its parity check. It never picks TensorRT, whose first run compiles for
    minutes. A device or precision asked for by name is used, or it is an error.

    Args:
        bundle: from `load_bundle`.
        device: auto, cpu, cuda or tensorrt.
        precision: auto, float32, bfloat16, float16 or int8.
        threads: of the model on the CPU; 0: all cores.
        batch_size: cutouts given at once; 0: what suits the device.
        encodings: whether `run` is to return them too.
        say: gets a line before what takes minutes.
        check: called meanwhile; what it raises stops it.

    Raises:
        ConfigError: no such device or precision, or encodings of a model that gives none.
        BackendError: what was asked for cannot run here; says what to install or choose.
        BundleError: the bundle lacks the graph that was asked for.
    """
    for name, value, choices in (("device", device, DEVICES), ("precision", precision, PRECISIONS)):
        if value not in choices:
            raise ConfigError(f"{name} {value!r}: choose {', '.join(choices)}")
    outputs = ("prob", "encoding") if encodings else ("prob",)
    if encodings and "encoding" not in bundle.manifest.outputs:
        raise ConfigError(f"{bundle.path} gives no encodings: a lens finder's bundle does")
    if device == "tensorrt":
        if encodings:
            raise ConfigError("encodings are not read from TensorRT: choose --device cpu or cuda")
        from stronglens.engine.backends.tensorrt_open import open_tensorrt

        return open_tensorrt(
            bundle, precision=precision, batch_size=batch_size, say=say, check=check
        )
    if device == "cuda":
        return _open_cuda(bundle, precision, batch_size, outputs)
    note = "cpu as asked" if device == "cpu" else "no GPU was found"
    if device == "auto" and precision not in ("bfloat16", "int8") and count_gpus():
        try:
            return _open_cuda(bundle, precision, batch_size, outputs)
        except BackendError as err:
            note = f"there is a GPU, but {err}"
    return _open_cpu(bundle, precision, threads or usable_cores(), batch_size, outputs, note)


def _open_cuda(
    bundle: Bundle, precision: str, batch_size: int, outputs: tuple[str, ...]
) -> Backend:
    why = f"{precision} as asked"
    if precision == "auto":
        passed = "float16" in bundle.manifest.parity
        precision = "float16" if passed else "float32"
        why = "it passed the parity check" if passed else "the bundle has no float16 that passed"
    if precision not in ("float16", "float32"):
        raise BackendError(
            f"{precision} does not run on cuda with ONNX Runtime: choose float16 or float32"
        )
    from stronglens.engine.backends.ort import OrtBackend

    graph = bundle.graph(precision)
    try:
        return OrtBackend(
            graph,
            device="cuda",
            precision=precision,
            batch_size=batch_size,
            outputs=outputs,
            why=why,
        )
    except ModuleNotFoundError as missing:
        raise BackendError("cuda needs onnxruntime: pip install onnxruntime-gpu") from missing


def _open_cpu(
    bundle: Bundle,
    precision: str,
    threads: int,
    batch_size: int,
    outputs: tuple[str, ...],
    note: str,
) -> Backend:
    from stronglens.engine.backends import openvino

    try:
        native = openvino.native_precisions()
    except ModuleNotFoundError:
        return _open_cpu_without_openvino(bundle, precision, threads, batch_size, outputs, note)
    passed = set(bundle.manifest.parity)
    if precision == "auto":
        precision, why = choose_cpu_precision(native, passed, cpu_flags() or set())
        note = f"{why}; {note}"
    elif precision not in native:
        raise BackendError(
            f"this CPU does not compute in {precision}: choose {', '.join(sorted(native))}"
            + (", or a GPU with --device cuda" if precision == "float16" else "")
        )
    else:
        note = f"{precision} as asked; {note}"
    brief = precision == "int8" and "bfloat16" in native & passed
    return openvino.OpenVinoBackend(
        bundle.graph(precision),
        precision=precision,
        threads=threads,
        batch_size=batch_size,
        between="bfloat16" if brief else "",
        outputs=outputs,
        why=note,
    )


def _open_cpu_without_openvino(
    bundle: Bundle,
    precision: str,
    threads: int,
    batch_size: int,
    outputs: tuple[str, ...],
    note: str,
) -> Backend:
    """Fall back on ONNX Runtime: nearly as fast in float32, but it has no bfloat16."""
    if precision not in ("auto", "float32", "int8"):
        raise BackendError(f"{precision} on the CPU needs OpenVINO: pip install openvino")
    from stronglens.engine.backends.ort import OrtBackend

    precision = "float32" if precision == "auto" else precision
    try:
        return OrtBackend(
            bundle.graph(precision),
            device="cpu",
            precision=precision,
            threads=threads,
            batch_size=batch_size,
            outputs=outputs,
            why=f"OpenVINO, which is faster, is not installed; {note}",
        )
    except ModuleNotFoundError as missing:
        raise BackendError("no runtime is installed: pip install openvino") from missing


def choose_cpu_precision(
    native: set[str], passed: set[str], flags: Collection[str]
) -> tuple[str, str]:
    """Return the precision for a CPU and why.

    Args:
        native: precisions that the CPU computes in.
        passed: precisions that passed the bundle's parity check.
        flags: instruction sets of the CPU; none where they are not known.
    """
    if "int8" in native & passed and INT8_FLAGS.intersection(flags):
        return "int8", "this CPU has instructions for it and it passed the parity check"
    if "bfloat16" not in native:
        return "float32", "this CPU has no bfloat16 arithmetic"
    if "bfloat16" not in passed:
        return "float32", "bfloat16 has not passed the export"
    return "bfloat16", "this CPU computes in it and it passed the parity check"
