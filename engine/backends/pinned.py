"""Page-locked host memory: a GPU fetches it by itself, at the bus's speed.

From ordinary memory the driver first copies every piece to a small locked buffer of its own.
"""

import ctypes
import math
import mmap
import sys
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

PORTABLE = 1
"""cudaHostRegisterPortable: locked for every user of the GPU in this process"""


def load_cudart(cuda: str) -> Any | None:
    """Return CUDA's runtime library, None where it cannot be loaded.

    Args:
        cuda: its version, such as 13.0. A library of that version that is in the process
            already, because what runs the model needs it, is the one that is returned.
    """
    major = cuda.partition(".")[0]
    name = f"cudart64_{major}.dll" if sys.platform == "win32" else f"libcudart.so.{major}"
    try:
        cudart: Any = ctypes.CDLL(name)
    except OSError:
        return None
    cudart.cudaHostRegister.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint)
    cudart.cudaHostUnregister.argtypes = (ctypes.c_void_p,)
    return cudart


class PinnedMemory:
    """Arrays in locked pages, until `close`; after that they stay, in ordinary memory.

    Locking is a matter of speed only: where it fails, arrays are ordinary from the start.
    """

    def __init__(self, cudart: Any | None) -> None:
        """Take what `load_cudart` returned."""
        self._cudart = cudart
        # Kept alive here: pages that are freed while they are locked would be used again
        # under the same address, and the GPU would go on reading the old ones.
        self._locked: list[NDArray[np.float32]] = []
        self._unlock = weakref.finalize(self, _unlock, cudart, self._locked)

    def array(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return zeros in pages of their own, locked if possible."""
        size = 4 * math.prod(shape)
        whole = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        room = np.zeros(whole + mmap.PAGESIZE, np.uint8)
        start = -room.ctypes.data % mmap.PAGESIZE
        array = room[start : start + size].view(np.float32).reshape(shape)
        if self._cudart is not None and self._unlock.alive:
            if self._cudart.cudaHostRegister(array.ctypes.data, whole, PORTABLE) == 0:
                self._locked.append(array)
            else:
                # else the next kernel launched by this thread would be blamed for it
                self._cudart.cudaGetLastError()
        return array

    def close(self) -> None:
        """Unlock everything. Safe to call twice."""
        self._unlock()


def _unlock(cudart: Any, locked: list[NDArray[np.float32]]) -> None:
    while locked:
        cudart.cudaHostUnregister(locked.pop().ctypes.data)
