"""Compiled loops over the pixels of one cutout. Each has a slow twin in tests/naive.py.

All take flat C-contiguous arrays in native byte order, and write float32. None allocates more
than it says, and all release the GIL.

The loops are written so that LLVM turns them into vector instructions.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.asinh import (
    asinh_stretch,
    integer_scale,
    robust_scale,
    single_scale,
    single_stretch,
)
from stronglens.engine.batches import Flag
from stronglens.engine.compiled import Integer, Integers, compiled

OK, EMPTY, CONSTANT = int(Flag.OK), int(Flag.EMPTY), int(Flag.CONSTANT)
SATURATED = int(Flag.SATURATED)
FEWEST_SATURATED, SATURATED_SHARE = 8, 1000
"""pixels that hold the greatest value: at least so many, and one in so many"""

FLOAT32_MAX = float(np.finfo(np.float32).max)
MAGNITUDE = np.int64(0x7FFFFFFFFFFFFFFF)


def _range_of(floating: Any, integer: Any) -> Any:
    """Return `finite_range` for pixels as such floats, and integers of as many bits."""
    sign = integer(8 * floating().itemsize - 1)
    magnitude = np.iinfo(integer).max
    infinity, zero = floating(np.inf), integer(0)

    @compiled
    def key_of(v: Any) -> Any:
        """Return an integer that sorts as the float does; -0.0 comes just before 0.0."""
        bits = floating(v).view(integer)
        return integer(bits ^ integer(integer(bits >> sign) & magnitude))

    @compiled
    def value_of(key: Any) -> Any:
        sorted_bits = integer(key ^ integer(integer(key >> sign) & magnitude))
        return np.float64(sorted_bits.view(floating))

    @compiled
    def finite_range(raw_P: NDArray[Any]) -> tuple[Integer, float, float]:
        n_finite = zero
        low, high = key_of(infinity), key_of(-infinity)
        least, greatest = low, high
        for i in range(raw_P.size):
            v = floating(raw_P[i])
            key, finite = key_of(v), np.isfinite(v)
            n_finite = integer(n_finite + integer(finite))
            low = min(low, key if finite else least)
            high = max(high, key if finite else greatest)
        return np.int64(n_finite), value_of(low), value_of(high)

    return finite_range


finite_range = _range_of(np.float64, np.int64)
"""Returns how many pixels are finite, the least and the greatest of them (inf, -inf if none).

LLVM does not make vector instructions of the least and the greatest of floats, where NaN makes
the order of comparisons matter; so they are compared as keys."""
single_range = _range_of(np.float32, np.int32)
"""the same, for float32"""


@compiled
def integer_range(raw_P: Integers) -> tuple[Integer, float, float]:
    """Return what `finite_range` does, of at least one integer."""
    low, high = raw_P[0], raw_P[0]
    for i in range(raw_P.size):
        low, high = min(low, raw_P[i]), max(high, raw_P[i])
    return raw_P.size, np.float64(low), np.float64(high)


# ---------------------------------------------------------------- scaling


@compiled
def fill_nonfinite(raw_P: NDArray[Any], high: float, out_P: NDArray[np.float32]) -> Integer:
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
    raw_P: NDArray[Any], low: float, high: float, out_P: NDArray[np.float32]
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


# ---------------------------------------------------------------- one cutout, by mode


@compiled
def _none(
    raw_P: NDArray[Any],
    n_finite: Integer,
    low: float,
    high: float,
    softening: float,
    out_P: NDArray[np.float32],
) -> Integer:
    return fill_nonfinite(raw_P, high, out_P)


@compiled
def _minmax(
    raw_P: NDArray[Any],
    n_finite: Integer,
    low: float,
    high: float,
    softening: float,
    out_P: NDArray[np.float32],
) -> Integer:
    return scale_to_unit(raw_P, low, high, out_P)


def _asinh(scale: Any, stretch: Any) -> Any:
    """Return the stretch of a mode, given how median and sigma are found, and used."""

    @compiled
    def stretch_asinh(
        raw_P: NDArray[Any],
        n_finite: Integer,
        low: float,
        high: float,
        softening: float,
        out_P: NDArray[np.float32],
    ) -> Any:
        s, median, sigma = scale(raw_P, n_finite, low, high)
        return stretch(raw_P, s, median, softening * sigma, low, high, out_P)

    return stretch_asinh


def _preparing(range_of: Any, stretch: Any) -> Any:
    """Return a kernel that prepares one cutout with `stretch`, which needs low < high.

    It returns how many pixels are finite, and a flag: EMPTY or CONSTANT where there is nothing
    to stretch and 0 is written, SATURATED where many pixels hold the greatest value, else OK.
    """

    @compiled
    def prepare(
        raw_P: NDArray[Any], softening: float, out_P: NDArray[np.float32]
    ) -> tuple[Integer, int]:
        n_finite, low, high = range_of(raw_P)
        if n_finite == 0 or low == high:
            out_P[:] = 0.0
            return n_finite, CONSTANT if n_finite else EMPTY
        n_high = stretch(raw_P, n_finite, low, high, softening, out_P)
        saturated = n_high >= FEWEST_SATURATED and n_high * SATURATED_SHARE >= n_finite
        return n_finite, SATURATED if saturated else OK

    return prepare


def _kernels(range_of: Any, asinh: Any) -> dict[str, Any]:
    stretches = {"none": _none, "minmax": _minmax, "asinh": asinh}
    return {mode: _preparing(range_of, stretch) for mode, stretch in stretches.items()}


_SHORT = _kernels(integer_range, _asinh(integer_scale, single_stretch))
_SINGLE = _kernels(single_range, _asinh(single_scale, single_stretch))
_OTHER = _kernels(finite_range, _asinh(robust_scale, asinh_stretch))


def kernel(mode: str, dtype: np.dtype[Any]) -> Any:
    """Return what prepares pixels of a dtype: a function (raw_P, softening, out_P).

    `mode` is one of `PreprocessSpec`.
    """
    short = dtype.kind in "iu" and dtype.itemsize <= 2
    return (_SHORT if short else _SINGLE if dtype == np.float32 else _OTHER)[mode]
