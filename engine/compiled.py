"""How every kernel is compiled, and the types they share."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Integer = int | np.integer[Any]
Integers = NDArray[np.integer[Any]]

# No fastmath: its `nnan` and `ninf` flags let LLVM delete the very checks made here.
# No parallel: the feed runs these in its own threads, where numba's default workqueue layer
# would abort the process. No cache: it is not safe between processes (numba issue 4807).
# The numpy error model, since the python one tests every division and stops vectorisation.
compiled = njit(nogil=True, error_model="numpy")
fused = njit(nogil=True, error_model="numpy", fastmath={"contract"})
"""the same, where a product and a sum may become one instruction, which rounds once, not twice"""
