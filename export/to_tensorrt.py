"""ONNX → plan, where TensorRT and a GPU are: what lens-export --tensorrt adds to a bundle.

A plan is machine code for one GPU and one TensorRT, so it is kept in the cache of this machine
and not in the bundle. The engine builds and checks it (`stronglens.engine.backends.tensorrt_open`),
because lens-infer must be able to on a machine that the bundle was copied to.
"""

from collections.abc import Callable, Iterator
from contextlib import closing

from stronglens.engine.backends.tensorrt_open import load_gpu, load_tensorrt, open_tensorrt
from stronglens.engine.bundle import GRAPHS, Bundle
from stronglens.engine.errors import BackendError
from stronglens.engine.golden import replay


def require_tensorrt() -> None:
    """Raise BackendError, before the work, where no plan could be built after it."""
    try:
        load_tensorrt()
        load_gpu()
    except BackendError as err:
        raise BackendError(
            f"--tensorrt builds for the GPU of this machine, and cannot: {err}. Or export without "
            "it: lens-infer --device tensorrt builds the plan on the machine that needs it"
        ) from err


def build_plans(bundle: Bundle, say: Callable[[str], None]) -> Iterator[str]:
    """Build and check the plans of a bundle, and replay its golden batch; yield what was done.

    Those of its smaller precisions, else of float32.

    Raises:
        BackendError: TensorRT cannot build one, or it answers otherwise; the bundle stays.
    """
    for precision in precisions(bundle):
        try:
            with closing(open_tensorrt(bundle, precision=precision, say=say)) as backend:
                replay(bundle, backend)
        except BackendError as err:
            raise BackendError(
                f"{bundle.path} is written, but has no TensorRT plan: {err}"
            ) from err
        yield f"{backend.label}: its plan is kept on this machine, for lens-infer --device tensorrt"


def precisions(bundle: Bundle) -> list[str]:
    """Return those that --tensorrt builds plans for."""
    smaller = [name for name in ("float16", "int8") if GRAPHS[name] in bundle.manifest.files]
    return smaller or ["float32"]
