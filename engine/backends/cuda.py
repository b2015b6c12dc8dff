"""CUDA's runtime through cuda-python, each call checked: the one module that names it."""

from collections.abc import Callable
from typing import Any

from stronglens.engine.errors import BackendError

REMEDIES = {
    "cudaErrorInsufficientDriver": "update the NVIDIA driver, or use --device cpu",
    "cudaErrorNoDevice": "no NVIDIA GPU was found, use --device cpu",
    "cudaErrorSystemDriverMismatch": "update the NVIDIA driver, or use --device cpu",
}
LOST = (
    "run the command again; if it fails again, `dmesg | grep Xid` tells what befell the GPU, "
    "and --device cpu does without"
)
"""for everything else: mostly a GPU that gave up, which no later call in this process can use"""


class OutOfMemoryError(BackendError):
    """What was to be put on the GPU does not fit its memory."""


class Cuda:
    """The runtime's functions and names: a call returns what it gives, or raises.

    `cudaMalloc(n)` returns the address where cuda-python returns a status and the address.
    """

    def __init__(self, runtime: Any) -> None:
        """Take the module `cuda.bindings.runtime`, or one like it."""
        self._runtime = runtime

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._runtime, name)
        return found if isinstance(found, type) or not callable(found) else self._checked(found)

    def _checked(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            status, *given = function(*args)
            if status != self._runtime.cudaError_t.cudaSuccess:
                raise self._explained(function.__name__, status)
            return given[0] if given else None

        return call

    def _explained(self, function: str, status: Any) -> BackendError:
        runtime = self._runtime
        runtime.cudaGetLastError()  # or the next launch would be blamed for it
        name = runtime.cudaGetErrorName(status)[1].decode()
        words = f"{function} failed: {runtime.cudaGetErrorString(status)[1].decode()} ({name})"
        if name == "cudaErrorMemoryAllocation":
            return OutOfMemoryError(words)
        return BackendError(f"{words}: {REMEDIES.get(name, LOST)}")


class PageLocks:
    """What `PinnedMemory` calls, answering as the C library does: with a number."""

    def __init__(self, cuda: Cuda) -> None:
        """Take the checked runtime."""
        self._runtime = cuda._runtime

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        """Lock pages."""
        return int(self._runtime.cudaHostRegister(address, size, flags)[0])

    def cudaHostUnregister(self, address: int) -> int:
        """Unlock them."""
        return int(self._runtime.cudaHostUnregister(address)[0])

    def cudaGetLastError(self) -> int:
        """Return the last error and forget it."""
        return int(self._runtime.cudaGetLastError()[0])


def load_cuda() -> Cuda:
    """Return CUDA's runtime, on the first GPU.

    Raises:
        BackendError: it is not installed, there is no GPU, or the driver is too old.
    """
    try:
        from cuda.bindings import runtime
    except ModuleNotFoundError as missing:
        raise BackendError(
            "tensorrt needs cuda-python: pip install 'stronglens[tensorrt]'"
        ) from missing
    cuda = Cuda(runtime)
    cuda.cudaSetDevice(0)
    return cuda
