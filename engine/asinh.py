"""The robust asinh stretch: median and noise of a cutout, and asinh of many pixels at once.

Flux spans decades between faint arcs and the cores of galaxies: asinh is linear near the sky and
logarithmic far above it (Lupton, Gunn & Szalay 1999, AJ 118, 1406). The median and the median
absolute deviation are those of the values as stored; only the asinh itself is computed in float32,
as which its result is kept.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.compiled import Integer, Integers, compiled, fused
from stronglens.engine.median import (
    ENLARGED,
    ORDINARY,
    SMALL,
    middle_integers,
    middle_values,
    places,
    single_places,
)

HUGE = 1e300
"""what larger quotients become: float64 cannot hold all of them, and asinh(1e300) is 691"""
SMALLEST_NORMAL = float(np.finfo(np.float64).tiny)
MAD_TO_SIGMA = 1.482602218505602
"""1 / Φ⁻¹(3/4): makes the median absolute deviation estimate a Gaussian's sigma"""
MEAN_DEVIATION_TO_SIGMA = 1.2533141373155001
"""sqrt(π/2): the same for the mean absolute deviation"""
ZERO, ONE, HALF, LARGE = map(np.float32, (0, 1, 0.5, 1e6))
LOG_2 = np.float32(0.6931471805599453)
# multiplied with, since no division is turned into a product that may differ from it
THIRD, FIFTH, SEVENTH, NINTH = map(np.float32, (1 / 3, 1 / 5, 1 / 7, 1 / 9))
NEAR_1, NEAR_2, NEAR_3, NEAR_4, NEAR_5 = map(
    np.float32, (-0.16666664, 0.07499594, -0.04450873, 0.0287977, -0.01431654)
)
"""of asinh(x) / x - 1 in powers of x², up to x = 1/2"""
SQRT_HALF = np.int32(0x3F3504F3)
"""bits of sqrt(1/2)"""


def _scale(first_places: Any) -> Any:
    """Return `robust_scale`, given how `middle_values` starts."""

    @compiled
    def robust_scale(
        raw_P: NDArray[Any], n_finite: Integer, low: float, high: float
    ) -> tuple[float, float, float]:
        s = 1.0 if np.isfinite(high - low) else 0.25
        if high - low < SMALL:
            s = ENLARGED
        words_P = np.empty(raw_P.size, np.int16)
        median, least, greatest = 0.0, low * s, high * s
        for away in (False, True):  # one call of middle_values: it is much to compile
            a, b = middle_values(
                first_places, raw_P, n_finite, s, median, away, least, greatest, words_P
            )
            middle = a + (b - a) / 2
            if not away:
                median, least, greatest = middle, 0.0, max(greatest - middle, middle - least)
        sigma = MAD_TO_SIGMA * middle
        if sigma == 0.0:
            sigma = MEAN_DEVIATION_TO_SIGMA * _mean_deviation(raw_P, n_finite, s, median)
        return s, median, sigma

    return robust_scale


robust_scale = _scale(places)
"""Returns (s, s·median, s·sigma) over the n_finite finite pixels of raw_P, between low < high.

s is a power of two: 1, but 1/4 where differences would overflow float64, and 2^600 where they
would be too small to divide by. sigma is 1.4826·MAD, or, where more than half of the pixels are
equal (noise-free simulations), the mean absolute deviation scaled alike; it is never 0. Allocates
2 bytes a pixel."""
single_scale = _scale(single_places)
"""the same, of float32; sigma is good to 1e-7"""


@compiled
def integer_scale(
    raw_P: Integers, n_finite: Integer, low: float, high: float
) -> tuple[float, float, float]:
    """Return what `robust_scale` does, of integers of up to 16 bits; s is 1."""
    twice: Integer = np.int64(0)
    for away in (False, True):
        a, b = middle_integers(raw_P, np.int64(low), np.int64(high), twice, away)
        if not away:
            twice = a + b
    median, sigma = twice / 2, MAD_TO_SIGMA * (a + b) / 4
    if sigma == 0.0:
        sigma = MEAN_DEVIATION_TO_SIGMA * _mean_deviation(raw_P, n_finite, 1.0, median)
    return 1.0, median, sigma


@compiled
def _mean_deviation(raw_P: NDArray[Any], n_finite: Integer, s: float, median: float) -> float:
    mean = 0.0
    for i in range(raw_P.size):
        mean += abs(raw_P[i] * s - median) / n_finite if np.isfinite(raw_P[i]) else 0.0
    return mean


@fused
def _arcsinh(q: Any) -> Any:
    """Return asinh(q) of a float32 to 3e-7 of it; libm's does not vectorise.

    A polynomial where |q| is small (Chebyshev's, good to 3e-9); elsewhere ln(|q| + sqrt(q² + 1))
    with ln(m·2^e) = e·ln 2 + 2 artanh((m - 1) / (m + 1)), m in [sqrt(1/2), sqrt(2)).
    """
    a = np.float32(abs(q))
    z = a * a
    near = a + a * z * (NEAR_1 + z * (NEAR_2 + z * (NEAR_3 + z * (NEAR_4 + z * NEAR_5))))
    t = a + np.sqrt(z + ONE) if a < LARGE else a + a  # where z may have overflowed
    bits = np.float32(t).view(np.int32)
    exponent = np.int32(np.int32(bits - SQRT_HALF) >> np.int32(23))
    m = np.int32(bits - np.int32(exponent << np.int32(23))).view(np.float32)
    y = (m - ONE) / (m + ONE)
    z = y * y
    series = ONE + z * (THIRD + z * (FIFTH + z * (SEVENTH + z * NINTH)))
    far = np.float32(exponent) * LOG_2 + (y + y) * series
    return np.copysign(near if a < HALF else far, q)


@compiled
def _libm_stretch(
    raw_P: NDArray[Any], s: float, center: float, per_unit: float, out_P: NDArray[np.float32]
) -> None:
    """Stretch one pixel after the other, where quotients are too large for float32."""
    for i in range(raw_P.size):
        v = np.float64(raw_P[i])
        q = min(max((v * s - center) * per_unit, -HUGE), HUGE)
        out_P[i] = np.float32(np.arcsinh(q) if np.isfinite(v) else 0.0)


@compiled
def asinh_stretch(
    raw_P: NDArray[Any],
    s: float,
    center: float,
    unit: float,
    low: float,
    high: float,
    out_P: NDArray[np.float32],
) -> Integer:
    """Write asinh((s·v - center) / unit), and 0 for NaN and ±inf, of pixels in [low, high].

    The quotient is rounded to float32, after float64 arithmetic. Returns how many pixels equal
    `high`.
    """
    per_unit = 1.0 / max(unit, SMALLEST_NORMAL)
    n_high = np.int64(0)
    ordinary = (high * s - low * s) * per_unit < ORDINARY
    for i in range(raw_P.size):
        v = np.float64(raw_P[i])
        out_P[i] = np.float32((v * s - center) * per_unit if np.isfinite(v) else 0.0)
        n_high += np.int64(v == high)
    if not ordinary:
        _libm_stretch(raw_P, s, center, per_unit, out_P)
        return n_high
    for i in range(out_P.size):  # on its own, so that twice as many pixels fit a vector
        out_P[i] = _arcsinh(out_P[i])
    return n_high


@fused
def single_stretch(
    raw_P: NDArray[Any],
    s: float,
    center: float,
    unit: float,
    low: float,
    high: float,
    out_P: NDArray[np.float32],
) -> Integer:
    """Do what `asinh_stretch` does, of pixels that float32 holds exactly, and in float32.

    The center is taken away in two parts: near it the first difference is exact, and what float32
    cannot hold of the center is in the second.
    """
    per_unit = 1.0 / max(unit, SMALLEST_NORMAL)
    if s != 1.0 or (high - low) * per_unit >= ORDINARY or per_unit > ORDINARY:
        return asinh_stretch(raw_P, s, center, unit, low, high, out_P)
    first = np.float32(center)
    second, factor, top = np.float32(center - first), np.float32(per_unit), np.float32(high)
    n_high = np.int32(0)
    for i in range(raw_P.size):
        v = np.float32(raw_P[i])
        q = np.float32(np.float32(np.float32(v - first) - second) * factor)
        out_P[i] = _arcsinh(q if np.isfinite(v) else ZERO)
        n_high = np.int32(n_high + np.int32(v == top))
    return n_high
