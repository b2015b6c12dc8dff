"""Compiled loops over the pixels of one cutout. Each has a slow twin in tests/naive.py.

All take flat C-contiguous arrays in native byte order, keep their arithmetic in float64 and
write float32. None allocates more than it says, and all release the GIL.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

# No fastmath: its `nnan` and `ninf` flags let LLVM delete the very checks made here.
# No parallel: the feed runs these in its own threads, where numba's default workqueue layer
# would abort the process. No cache: it is not safe between processes (numba issue 4807).
# The numpy error model, since the python one tests every division and stops vectorisation.
compiled = njit(nogil=True, error_model="numpy")

FLOAT32_MAX = float(np.finfo(np.float32).max)
SMALLEST_NORMAL = float(np.finfo(np.float64).tiny)
MAD_TO_SIGMA = 1.482602218505602
"""1 / Φ⁻¹(3/4): makes the median absolute deviation estimate a Gaussian's sigma"""
MEAN_DEVIATION_TO_SIGMA = 1.2533141373155001
"""sqrt(π/2): the same for the mean absolute deviation"""


@compiled
def finite_range(raw_P: NDArray[np.float64]) -> tuple[int, float, float]:
    """Return how many pixels are finite, the least and the greatest of them (inf, -inf if none)."""
    n_finite = 0
    low, high = np.inf, -np.inf
    for i in range(raw_P.size):
        v = np.float64(raw_P[i])
        if np.isfinite(v):
            n_finite += 1
            low = min(low, v)
            high = max(high, v)
    return n_finite, low, high


@compiled
def fill_nonfinite(raw_P: NDArray[np.float64], out_P: NDArray[np.float32]) -> None:
    """Copy to float32 with 0 for NaN and ±inf; what float32 cannot hold becomes its extreme."""
    for i in range(raw_P.size):
        v = np.float64(raw_P[i])
        clipped = min(max(v, -FLOAT32_MAX), FLOAT32_MAX)
        out_P[i] = np.float32(clipped if np.isfinite(v) else 0.0)


@compiled
def scale_to_unit(
    raw_P: NDArray[np.float64], low: float, high: float, out_P: NDArray[np.float32]
) -> None:
    """Write (v - low) / (high - low), in [0, 1], and 0 for NaN and ±inf; needs low < high."""
    s = 1.0 if np.isfinite(high - low) else 0.25
    shift, width = low * s, high * s - low * s
    for i in range(raw_P.size):
        v = np.float64(raw_P[i])
        out_P[i] = np.float32((v * s - shift) / width if np.isfinite(v) else 0.0)


@compiled
def robust_scale(
    raw_P: NDArray[np.float64], n_finite: int, low: float, high: float
) -> tuple[float, float, float]:
    """Return (s, s·median, s·sigma) over the finite pixels; needs low < high.

    s is 1, or 1/4 where differences would overflow float64. sigma is 1.4826·MAD, or, where
    more than half of the pixels are equal (noise-free simulations), the mean absolute
    deviation scaled alike; it is never 0. Allocates n_finite float64.
    """
    s = 1.0 if np.isfinite(high - low) else 0.25
    values = np.empty(n_finite)
    n = 0
    for i in range(raw_P.size):
        v = np.float64(raw_P[i])
        if np.isfinite(v):
            values[n] = v * s
            n += 1
    median = np.median(values)
    for i in range(n):
        values[i] = abs(values[i] - median)
    sigma = MAD_TO_SIGMA * np.median(values)
    if sigma == 0.0:
        sigma = MEAN_DEVIATION_TO_SIGMA * (values / n).sum()
    return s, median, sigma


@compiled
def asinh_stretch(
    raw_P: NDArray[np.float64], s: float, center: float, unit: float, out_P: NDArray[np.float32]
) -> None:
    """Write asinh((s·v - center) / unit), and 0 for NaN and ±inf."""
    unit = max(unit, SMALLEST_NORMAL)
    for i in range(raw_P.size):
        v = np.float64(raw_P[i])
        if np.isfinite(v):
            # the quotient of a huge value and a tiny unit overflows; asinh(1e300) is 691
            q = min(max((v * s - center) / unit, -1e300), 1e300)
            out_P[i] = np.float32(np.arcsinh(q))
        else:
            out_P[i] = np.float32(0.0)
