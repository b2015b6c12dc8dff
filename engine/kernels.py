"""Compiled loops over the pixels of one cutout. Each has a slow twin in tests/naive.py.

All take flat C-contiguous arrays in native byte order, keep their arithmetic in float64 and
write float32. None allocates more than it says, and all release the GIL.

The loops are written so that LLVM turns them into vector instructions. It does not for the
least and the greatest of floats, where NaN makes the order of comparisons matter; so the pixels
are compared as keys: int64 in the order of the floats whose bits they are.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from stronglens.engine.batches import Flag

Integer = int | np.integer[Any]
Integers = NDArray[np.integer[Any]]

# No fastmath: its `nnan` and `ninf` flags let LLVM delete the very checks made here.
# No parallel: the feed runs these in its own threads, where numba's default workqueue layer
# would abort the process. No cache: it is not safe between processes (numba issue 4807).
# The numpy error model, since the python one tests every division and stops vectorisation.
compiled = njit(nogil=True, error_model="numpy")

OK, EMPTY, CONSTANT = int(Flag.OK), int(Flag.EMPTY), int(Flag.CONSTANT)

FLOAT32_MAX = float(np.finfo(np.float32).max)
SMALLEST_NORMAL = float(np.finfo(np.float64).tiny)
LOG_2 = 0.6931471805599453
# multiplied with, since no division is turned into a product that may differ from it
THIRD, FIFTH, SIXTH, SEVENTH, NINTH, ELEVENTH = 1 / 3, 1 / 5, 1 / 6, 1 / 7, 1 / 9, 1 / 11
MAD_TO_SIGMA = 1.482602218505602
"""1 / Φ⁻¹(3/4): makes the median absolute deviation estimate a Gaussian's sigma"""
MEAN_DEVIATION_TO_SIGMA = 1.2533141373155001
"""sqrt(π/2): the same for the mean absolute deviation"""

MAGNITUDE = np.int64(0x7FFFFFFFFFFFFFFF)
MISSING = MAGNITUDE
"""the key of a pixel that is not finite: above all others"""
SQRT_HALF = np.int64(0x3FE6A09E667F3BCD)
"""bits of sqrt(1/2)"""
LEAST_WORD, GREATEST_WORD = np.int32(-(2**31)), np.int32(2**31 - 1)
SAMPLE, MARGIN = 512, 32
"""of the words, to look for the middle; its ranks are off by 11 (1 sigma) at most"""
FEW = 16
"""keys that are looked at one by one"""
BLOCK = 256


# ---------------------------------------------------------------- keys


@compiled
def key_of(v: float) -> Integer:
    """Return an int64 that sorts as the float64 does; -0.0 comes just before 0.0."""
    bits = np.float64(v).view(np.int64)
    return bits ^ ((bits >> np.int64(63)) & MAGNITUDE)


@compiled
def value_of(key: Integer) -> Any:
    """Return the float64 that a key stands for."""
    return np.int64(key ^ ((key >> np.int64(63)) & MAGNITUDE)).view(np.float64)


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


# ---------------------------------------------------------------- the middle of many


@compiled
def _count_up_to(keys_P: Integers, limit: Integer) -> Integer:
    n = np.int32(0)
    for i in range(keys_P.size):
        n += np.int32(keys_P[i] <= limit)
    return n


@compiled
def _nth(keys_P: Integers, rank: Integer) -> Integer:
    """Return the key of a rank; 0 is the least."""
    low: Integer = keys_P[0]
    high: Integer = low
    for i in range(keys_P.size):
        low, high = min(low, keys_P[i]), max(high, keys_P[i])
    while low < high:
        middle = (low & high) + ((low ^ high) >> np.int64(1))  # their mean, without overflow
        if _count_up_to(keys_P, middle) > rank:
            high = middle
        else:
            low = middle + np.int64(1)
    return low


@compiled
def _within(
    keys_P: Integers, words_P: Integers, low: Integer, high: Integer, count: Integer
) -> Integers:
    """Return the `count` keys whose words are in [low, high], skipping blocks without any."""
    found = np.empty(count, np.int64)
    n = 0
    for start in range(0, words_P.size, BLOCK):
        block = words_P[start : start + BLOCK]  # counted from 0, it needs no checks, and vectorises
        inside = np.int32(0)
        for i in range(block.size):
            inside += np.int32((block[i] >= low) & (block[i] <= high))
        if inside:
            for i in range(block.size):
                if low <= block[i] <= high:
                    found[n] = keys_P[start + i]
                    n += 1
    return found


@compiled
def _bracket(words_P: Integers, rank: Integer) -> tuple[Integer, Integer, Integer, Integer]:
    """Return (low, high, below, inside): the word of a rank is in [low, high].

    `below` words are less than low, `inside` are in the bracket. A sample says where to look;
    counting says whether it was right, and where it was not, that end stays open.
    """
    step = max(words_P.size // SAMPLE, 1)
    sample_S = np.empty(words_P.size // step, np.int64)
    for i in range(sample_S.size):
        sample_S[i] = words_P[i * step]
    near = rank * sample_S.size // words_P.size
    low: Integer = LEAST_WORD
    high: Integer = GREATEST_WORD
    below: Integer = np.int64(0)
    up_to: Integer = words_P.size
    guess = np.int32(_nth(sample_S, max(near - MARGIN, 0)))
    count = _count_up_to(words_P, guess)
    if count <= rank and guess < GREATEST_WORD:
        low, below = np.int32(guess + np.int32(1)), count
    guess = np.int32(_nth(sample_S, min(near + MARGIN, sample_S.size - 1)))
    count = _count_up_to(words_P, guess)
    if count > rank:
        high, up_to = guess, count
    return low, high, below, up_to - below


@compiled
def middle_keys(keys_P: Integers, words_P: Integers, n_finite: Integer) -> tuple[Integer, Integer]:
    """Return the two keys in the middle of the n_finite least ones; equal where that is odd.

    Bisection, counting how many keys lie below: a count is a vector loop, over the upper
    halves of the keys until few are left.

    Args:
        keys_P: int64; those beyond the n_finite least are MISSING.
        words_P: their upper halves, int32.
        n_finite: at least 1.
    """
    rank = (n_finite - 1) // 2
    low, high, below, inside = _bracket(words_P, rank)
    while low < high and inside > FEW:
        middle = np.int32((np.int64(low) + np.int64(high)) >> np.int64(1))
        count = _count_up_to(words_P, middle)
        if count > rank:
            high, inside = middle, count - below
        else:
            low, inside, below = np.int32(middle + 1), inside - (count - below), count
    close_M = _within(keys_P, words_P, low, high, inside)
    first = _nth(close_M, rank - below)
    if n_finite % 2 or below + _count_up_to(close_M, first) > rank + 1:
        return first, first
    second = MISSING
    for i in range(keys_P.size):
        second = min(second, keys_P[i] if keys_P[i] > first else MISSING)
    return first, second


@compiled
def _median(keys_P: Integers, words_P: Integers, n_finite: Integer) -> float:
    first, second = middle_keys(keys_P, words_P, n_finite)
    a: float = value_of(first)
    b: float = value_of(second)
    return a + (b - a) / 2


# ---------------------------------------------------------------- scaling


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
        x = np.float32((v * s - shift) / width)
        out_P[i] = x if np.isfinite(v) else np.float32(0.0)


@compiled
def robust_scale(
    raw_P: NDArray[np.float64], n_finite: Integer, low: float, high: float
) -> tuple[float, float, float]:
    """Return (s, s·median, s·sigma) over the finite pixels; needs low < high.

    s is 1, or 1/4 where differences would overflow float64. sigma is 1.4826·MAD, or, where
    more than half of the pixels are equal (noise-free simulations), the mean absolute
    deviation scaled alike; it is never 0. Allocates 12 bytes a pixel.
    """
    s = 1.0 if np.isfinite(high - low) else 0.25
    keys_P, words_P = np.empty(raw_P.size, np.int64), np.empty(raw_P.size, np.int32)
    median = deviation = 0.0
    for turn in range(2):  # one call of _median: it is much to compile
        for i in range(raw_P.size):
            v = np.float64(raw_P[i])
            w = abs(v * s - median) if turn else v * s
            key = key_of(w) if np.isfinite(v) else MISSING
            keys_P[i], words_P[i] = key, np.int32(key >> np.int64(32))
        found = _median(keys_P, words_P, n_finite)
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
    raw_P: NDArray[np.float64], s: float, center: float, unit: float, out_P: NDArray[np.float32]
) -> None:
    """Write asinh((s·v - center) / unit), and 0 for NaN and ±inf."""
    per_unit = 1.0 / max(unit, SMALLEST_NORMAL)
    for i in range(raw_P.size):
        v = np.float64(raw_P[i])
        # the quotient of a huge value and a tiny unit overflows; asinh(1e300) is 691
        q = min(max((v * s - center) * per_unit, -1e300), 1e300)
        x = np.float32(_arcsinh(q))
        out_P[i] = x if np.isfinite(v) else np.float32(0.0)


# ---------------------------------------------------------------- one cutout, by mode


@compiled
def _scalable(n_finite: Integer, low: float, high: float) -> int:
    return EMPTY if n_finite == 0 else CONSTANT if low == high else OK


@compiled
def prepare_none(
    raw_P: NDArray[np.float64], softening: float, out_P: NDArray[np.float32]
) -> tuple[Integer, int]:
    """Fill what is missing; return how many pixels are finite, and the flag OK, EMPTY or CONSTANT.

    `softening` is not used: the modes are called alike.
    """
    n_finite, low, high = finite_range(raw_P)
    found = _scalable(n_finite, low, high)
    if found == OK:
        fill_nonfinite(raw_P, out_P)
    else:
        out_P[:] = 0.0
    return n_finite, found


@compiled
def prepare_minmax(
    raw_P: NDArray[np.float64], softening: float, out_P: NDArray[np.float32]
) -> tuple[Integer, int]:
    """Scale to [0, 1]; returns as `prepare_none`."""
    n_finite, low, high = finite_range(raw_P)
    found = _scalable(n_finite, low, high)
    if found == OK:
        scale_to_unit(raw_P, low, high, out_P)
    else:
        out_P[:] = 0.0
    return n_finite, found


@compiled
def prepare_asinh(
    raw_P: NDArray[np.float64], softening: float, out_P: NDArray[np.float32]
) -> tuple[Integer, int]:
    """Stretch by the noise; `softening` in units of sigma; returns as `prepare_none`."""
    n_finite, low, high = finite_range(raw_P)
    found = _scalable(n_finite, low, high)
    if found == OK:
        s, median, sigma = robust_scale(raw_P, n_finite, low, high)
        asinh_stretch(raw_P, s, median, softening * sigma, out_P)
    else:
        out_P[:] = 0.0
    return n_finite, found
