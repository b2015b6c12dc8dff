"""Compiled loops over the pixels of one cutout. Each has a slow twin in tests/naive.py.

All take flat C-contiguous arrays in native byte order, keep their arithmetic in float64 and
write float32. None allocates more than it says, and all release the GIL.

The loops are written so that LLVM turns them into vector instructions. It does not for the
least and the greatest of floats, where NaN makes the order of comparisons matter; so the pixels
are compared as keys (see `median`).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.batches import Flag
from stronglens.engine.compiled import Integer, compiled
from stronglens.engine.median import MISSING, key_of, median_of, value_of

OK, EMPTY, CONSTANT = int(Flag.OK), int(Flag.EMPTY), int(Flag.CONSTANT)
SATURATED = int(Flag.SATURATED)
FEWEST_SATURATED, SATURATED_SHARE = 8, 1000
"""pixels that hold the greatest value: at least so many, and one in so many"""

FLOAT32_MAX = float(np.finfo(np.float32).max)
SMALLEST_NORMAL = float(np.finfo(np.float64).tiny)
SMALL, ENLARGED = 2.0**-900, 2.0**600
"""a range of values below the first means that the values themselves are below 2^-847"""
LOG_2 = 0.6931471805599453
# multiplied with, since no division is turned into a product that may differ from it
THIRD, FIFTH, SIXTH, SEVENTH, NINTH, ELEVENTH = 1 / 3, 1 / 5, 1 / 6, 1 / 7, 1 / 9, 1 / 11
MAD_TO_SIGMA = 1.482602218505602
"""1 / Φ⁻¹(3/4): makes the median absolute deviation estimate a Gaussian's sigma"""
MEAN_DEVIATION_TO_SIGMA = 1.2533141373155001
"""sqrt(π/2): the same for the mean absolute deviation"""
SQRT_HALF = np.int64(0x3FE6A09E667F3BCD)
"""bits of sqrt(1/2)"""


@compiled
def finite_range(raw_P: NDArray[np.float64]) -> tuple[Integer, float, float]:
    """Return how many pixels are finite, the least and the greatest of them (inf, -inf if none)."""
    n_finite = np.int64(0)
    low, high = key_of(np.inf), key_of(-np.inf)
    least, greatest = low, high
    for i in range(raw_P.size):
        v = np.float64(raw_P[i])
        key = key_of(v)
        finite = np.isfinite(v)
        n_finite += np.int64(finite)
        low = min(low, key if finite else least)
        high = max(high, key if finite else greatest)
    return n_finite, value_of(low), value_of(high)


# ---------------------------------------------------------------- scaling


@compiled
def fill_nonfinite(raw_P: NDArray[np.float64], high: float, out_P: NDArray[np.float32]) -> Integer:
    """Copy to float32 with 0 for NaN and ±inf; what float32 cannot hold becomes its extreme.

    Returns how many pixels equal `high`.
    """
    n_high = np.int64(0)
    for i in range(raw_P.size):
        v = np.float64(raw_P[i])
        clipped = min(max(v, -FLOAT32_MAX), FLOAT32_MAX)
        out_P[i] = np.float32(clipped if np.isfinite(v) else 0.0)
        n_high += np.int64(v == high)
    return n_high


@compiled
def scale_to_unit(
    raw_P: NDArray[np.float64], low: float, high: float, out_P: NDArray[np.float32]
) -> Integer:
    """Write (v - low) / (high - low), in [0, 1], and 0 for NaN and ±inf; needs low < high.

    Returns how many pixels equal `high`.
    """
    s = 1.0 if np.isfinite(high - low) else 0.25
    shift, width = low * s, high * s - low * s
    n_high = np.int64(0)
    for i in range(raw_P.size):
        v = np.float64(raw_P[i])
        x = np.float32((v * s - shift) / width)
        out_P[i] = x if np.isfinite(v) else np.float32(0.0)
        n_high += np.int64(v == high)
    return n_high


@compiled
def robust_scale(
    raw_P: NDArray[np.float64], n_finite: Integer, low: float, high: float
) -> tuple[float, float, float]:
    """Return (s, s·median, s·sigma) over the finite pixels; needs low < high.

    s is a power of two: 1, but 1/4 where differences would overflow float64, and 2^600 where they
    would be too small to divide by. sigma is 1.4826·MAD, or, where more than half of the pixels
    are equal (noise-free simulations), the mean absolute deviation scaled alike; it is never 0.
    Allocates 12 bytes a pixel.
    """
    s = 1.0 if np.isfinite(high - low) else 0.25
    if high - low < SMALL:
        s = ENLARGED
    keys_P, words_P = np.empty(raw_P.size, np.int64), np.empty(raw_P.size, np.int32)
    median = deviation = 0.0
    for turn in range(2):  # one call of median_of: it is much to compile
        for i in range(raw_P.size):
            v = np.float64(raw_P[i])
            w = abs(v * s - median) if turn else v * s
            key = key_of(w) if np.isfinite(v) else MISSING
            keys_P[i], words_P[i] = key, np.int32(key >> np.int64(32))
        found = median_of(keys_P, words_P, n_finite)
        median, deviation = (median, found) if turn else (found, 0.0)
    sigma = MAD_TO_SIGMA * deviation
    if sigma == 0.0:
        mean = 0.0
        for i in range(raw_P.size):
            mean += value_of(keys_P[i]) / n_finite if keys_P[i] != MISSING else 0.0
        sigma = MEAN_DEVIATION_TO_SIGMA * mean
    return s, median, sigma


@compiled
def _arcsinh(x: float) -> Any:
    """Return asinh(x) to 1e-9 of it, for |x| ≤ 1e300; libm's does not vectorise.

    ln(|x| + sqrt(x² + 1)) with ln(m·2^e) = e·ln 2 + 2 artanh((m - 1) / (m + 1)), m in
    [sqrt(1/2), sqrt(2)); and the first terms of its own series where |x| is small.
    """
    a = abs(x)
    square = a * a
    t = a + np.sqrt(square + 1.0)
    t = t if a < 1e8 else a + a  # square may have overflowed
    bits = np.float64(t).view(np.int64)
    exponent = (bits - SQRT_HALF) >> np.int64(52)
    m = np.int64(bits - (exponent << np.int64(52))).view(np.float64)
    y = (m - 1.0) / (m + 1.0)
    z = y * y
    zz = z * z
    series = (1.0 + z * THIRD) + zz * ((FIFTH + z * SEVENTH) + zz * (NINTH + z * ELEVENTH))
    big = 2.0 * y * series + np.float64(exponent) * LOG_2
    return np.copysign(big if a > 1e-4 else a * (1.0 - square * SIXTH), x)


@compiled
def asinh_stretch(
    raw_P: NDArray[np.float64],
    s: float,
    center: float,
    unit: float,
    high: float,
    out_P: NDArray[np.float32],
) -> Integer:
    """Write asinh((s·v - center) / unit), and 0 for NaN and ±inf.

    Returns how many pixels equal `high`.
    """
    per_unit = 1.0 / max(unit, SMALLEST_NORMAL)
    n_high = np.int64(0)
    for i in range(raw_P.size):
        v = np.float64(raw_P[i])
        # the quotient of a huge value and a tiny unit overflows; asinh(1e300) is 691
        q = min(max((v * s - center) * per_unit, -1e300), 1e300)
        x = np.float32(_arcsinh(q))
        out_P[i] = x if np.isfinite(v) else np.float32(0.0)
        n_high += np.int64(v == high)
    return n_high


# ---------------------------------------------------------------- one cutout, by mode


@compiled
def _none(
    raw_P: NDArray[np.float64],
    n_finite: Integer,
    low: float,
    high: float,
    softening: float,
    out_P: NDArray[np.float32],
) -> Integer:
    return fill_nonfinite(raw_P, high, out_P)


@compiled
def _minmax(
    raw_P: NDArray[np.float64],
    n_finite: Integer,
    low: float,
    high: float,
    softening: float,
    out_P: NDArray[np.float32],
) -> Integer:
    return scale_to_unit(raw_P, low, high, out_P)


@compiled
def _asinh(
    raw_P: NDArray[np.float64],
    n_finite: Integer,
    low: float,
    high: float,
    softening: float,
    out_P: NDArray[np.float32],
) -> Integer:
    s, median, sigma = robust_scale(raw_P, n_finite, low, high)
    return asinh_stretch(raw_P, s, median, softening * sigma, high, out_P)


def _preparing(stretch: Any) -> Any:
    """Return a kernel that prepares one cutout with `stretch`, which needs low < high.

    It returns how many pixels are finite, and a flag: EMPTY or CONSTANT where there is nothing
    to stretch and 0 is written, SATURATED where many pixels hold the greatest value, else OK.
    """

    @compiled
    def prepare(
        raw_P: NDArray[np.float64], softening: float, out_P: NDArray[np.float32]
    ) -> tuple[Integer, int]:
        n_finite, low, high = finite_range(raw_P)
        if n_finite == 0 or low == high:
            out_P[:] = 0.0
            return n_finite, CONSTANT if n_finite else EMPTY
        n_high = stretch(raw_P, n_finite, low, high, softening, out_P)
        saturated = n_high >= FEWEST_SATURATED and n_high * SATURATED_SHARE >= n_finite
        return n_finite, SATURATED if saturated else OK

    return prepare


PREPARE = {"none": _preparing(_none), "minmax": _preparing(_minmax), "asinh": _preparing(_asinh)}
"""The modes of `PreprocessSpec`"""
