"""A bundle's graph → a plan for this GPU, kept or built → a backend."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stronglens.engine.backends.cuda import Cuda, OutOfMemoryError, load_cuda
from stronglens.engine.backends.plans import keep, recall
from stronglens.engine.backends.tensorrt import TensorRtBackend
from stronglens.engine.backends.tensorrt_build import BATCH, Built, build_plan
from stronglens.engine.backends.tensorrt_check import check_plan
from stronglens.engine.bundle import GRAPHS, Bundle
from stronglens.engine.config import AUTO
from stronglens.engine.errors import BackendError
from stronglens.engine.machine import count_gpus, gpu_name

OLDEST, TOO_NEW = (10, 13), (12,)
INSTALL = "pip install 'stronglens[tensorrt]'"
GPU = 0
"""the first that CUDA_VISIBLE_DEVICES leaves"""
PRECISIONS = ("float32", "float16", "int8")
"""those that a graph can hold; bfloat16 is a rounding of the float32 graph on a CPU"""

Say = Callable[[str], None]
Profile = tuple[int, int, int]


def open_tensorrt(
    bundle: Bundle,
    *,
    precision: str = "auto",
    batch_size: int = AUTO,
    say: Say,
    check: Callable[[], None] = lambda: None,
) -> TensorRtBackend:
    """Load the plan for this GPU; build, check and keep it where there is none yet.

    Args:
        bundle: from `load_bundle`.
        precision: auto, float32, float16 or int8. auto: float16 where it passed the export's
            parity check, else float32.
        batch_size: cutouts in the batches to come; 0: what fits.
        say: gets a line before what takes minutes, and one after it.
        check: called meanwhile; what it raises stops it.

    Raises:
        BackendError: TensorRT, cuda-python or a GPU is missing; the plan cannot be built, or
            does not say what the graph says on the CPU.
        BundleError: the bundle lacks the graph.
    """
    precision, why = choose_precision(precision, set(bundle.manifest.parity))
    bundle.graph(precision)  # before the minutes
    trt, cuda = load_tensorrt(), load_gpu()
    return Target(trt, cuda, bundle, precision, why).open(batch_size, say, check)


def describe_tensorrt(bundle: Bundle) -> str:
    """Return what `open_tensorrt` would run, and whether it would have to build it first.

    Raises:
        BackendError: it could not.
    """
    precision, why = choose_precision("auto", set(bundle.manifest.parity))
    target = Target(load_tensorrt(), load_gpu(), bundle, precision, why)
    plan = "its plan is kept" if target.is_kept() else "the first run builds the plan, for minutes"
    return f"{precision} ({why}); {plan}"


def choose_precision(precision: str, passed: set[str]) -> tuple[str, str]:
    """Return the precision and why.

    Raises:
        BackendError: no graph can hold it.
    """
    if precision == "auto":
        if "float16" in passed:
            return "float16", "it passed the parity check"
        return "float32", "the bundle has no float16 that passed"
    if precision not in PRECISIONS:
        choices = ", ".join(PRECISIONS)
        raise BackendError(f"{precision} does not run on tensorrt: choose {choices}")
    return precision, f"{precision} as asked"


def load_tensorrt() -> Any:
    """Return the module tensorrt.

    Raises:
        BackendError: it is missing, broken, or of a version that was never tried.
    """
    try:
        import tensorrt
    except ModuleNotFoundError as missing:
        raise BackendError(f"{missing.name} is not installed: {INSTALL}") from missing
    except (ImportError, OSError) as err:
        raise BackendError(f"tensorrt is installed but does not load ({err}): {INSTALL}") from err
    version = tuple(int(part) for part in tensorrt.__version__.split(".")[:2])
    if not OLDEST <= version < TOO_NEW:
        raise BackendError(
            f"tensorrt {tensorrt.__version__} is installed, needed is 10.13 or newer, "
            f"below 12: {INSTALL}"
        )
    return tensorrt


def load_gpu() -> Cuda:
    """Return CUDA on the first GPU.

    Raises:
        BackendError: there is none, or cuda-python is missing.
    """
    if not count_gpus():
        raise BackendError("no NVIDIA GPU, or no driver for it, was found: use --device cpu")
    return load_cuda()


class Target:
    """A graph of a bundle, this GPU and this TensorRT: what a plan is for."""

    def __init__(self, trt: Any, cuda: Cuda, bundle: Bundle, precision: str, why: str) -> None:
        """Take what was loaded and chosen; nothing is built."""
        self._trt, self._cuda, self._bundle = trt, cuda, bundle
        self._precision, self._why = precision, why
        self._gpu = gpu_name(GPU)
        attributes = cuda.cudaDeviceAttr
        major, minor = (
            cuda.cudaDeviceGetAttribute(attribute, GPU)
            for attribute in (
                attributes.cudaDevAttrComputeCapabilityMajor,
                attributes.cudaDevAttrComputeCapabilityMinor,
            )
        )
        self._machine = {
            "tensorrt": trt.__version__,
            "gpu": self._gpu,
            "compute_capability": f"{major}.{minor}",
        }

    def is_kept(self) -> bool:
        """Return whether there is a plan."""
        return any(recall(self._key(profile)) for profile in _profiles())

    def open(self, batch_size: int, say: Say, check: Callable[[], None]) -> TensorRtBackend:
        """Return the backend, of a plan that was kept or a new one."""
        for profile in _profiles():
            if plan := recall(self._key(profile)):
                try:
                    return self._load(plan, batch_size)
                except OutOfMemoryError:
                    raise
                except BackendError as err:
                    say(f"the plan that was kept does not load: {err}")
        return self._build(batch_size, say, check)

    def _build(self, batch_size: int, say: Say, check: Callable[[], None]) -> TensorRtBackend:
        say(
            f"building the TensorRT plan for {self._precision} on {self._gpu}: takes minutes, "
            "once for this GPU, model and TensorRT"
        )
        begin = time.perf_counter()
        profile, built = self._compile(say, check)
        backend = self._load(built.plan, batch_size)
        try:
            figures = check_plan(backend, self._bundle)
        except BaseException:
            backend.close()
            raise
        seconds = time.perf_counter() - begin
        kept = _keep([(self._key(profile), built.plan), (self._timing_key(), built.timing)])
        say(f"built and checked in {seconds:.0f} s ({figures}); {kept}")
        return backend

    def _compile(self, say: Say, check: Callable[[], None]) -> tuple[Profile, Built]:
        """Build for the usual number of cutouts at once, or for as many as fit."""
        graph = self._bundle.graph(self._precision).read_bytes()
        timing = recall(self._timing_key()) or b""
        for profile in _profiles():
            try:
                built = build_plan(self._trt, graph, batch=profile, timing=timing, check=check)
                return profile, built
            except OutOfMemoryError as err:
                if profile[-1] == 1:
                    raise
                say(f"{err}: trying half of {profile[-1]} cutouts at once")
        raise AssertionError("there is always a profile")

    def _load(self, plan: bytes, batch_size: int) -> TensorRtBackend:
        return TensorRtBackend(
            self._trt,
            self._cuda,
            plan,
            precision=self._precision,
            batch_size=batch_size,
            gpu=self._gpu,
            why=self._why,
        )

    def _timing_key(self) -> dict[str, Any]:
        return {"kind": "timing", **self._machine}

    def _key(self, profile: Profile) -> dict[str, Any]:
        return {
            "kind": "plan",
            **self._machine,
            "onnx_sha256": self._bundle.manifest.files[GRAPHS[self._precision]],
            "precision": self._precision,
            "profile": profile,
        }


def _profiles() -> Iterator[Profile]:
    """Yield the usual profile, then ones for GPUs that are too small for it."""
    least, usual, _ = BATCH
    while usual >= least:
        yield least, usual, usual
        usual //= 2


def _keep(built: list[tuple[dict[str, Any], bytes]]) -> str:
    """Keep what was built, if possible; return where, or why not."""
    folder: Path | None = None
    try:
        for key, content in built:
            folder = keep(key, content)
    except OSError as err:
        return f"it could not be kept, the next run will build it again: {err}"
    return f"kept in {folder}"
