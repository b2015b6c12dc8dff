"""The two pixels in the middle of all, found by counting (see `counting`) where a sample says.

Integers of up to 16 bits are counted as they are. Other pixels are counted as words, their places
in a range around the middle, and of the few in the place that is found the values are looked at.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.compiled import Integer, Integers, compiled
from stronglens.engine.counting import bracket

SAMPLE, CLOSE = 128, 2
"""pixels that are looked at first, and by how many of them a rank among them may be off"""
MARGIN, WIDE = 8, 32
"""ranks of the sample, beside its middle, between which the middle of all is first searched, and
must be nearly always: a rank of the sample is off by 6 (1 sigma) at most"""
FEW, BLOCK = 24, 128
"""words that are looked at one by one, and how many are searched for them at once"""

TOP = (1 << 15) - 3
"""word of the greatest value of a range; 0 is that of the least"""
BELOW, ABOVE, MISSING = -1, TOP + 1, TOP + 2
"""words of values outside of it, and of those that are not finite"""
SMALL, ENLARGED = 2.0**-900, 2.0**600
"""below the first, ranges are enlarged, since a quotient by them might overflow"""
ORDINARY = 1e37
"""ranges and factors up to here are safe in float32"""


@compiled
def _value(raw: float, s: float, center: float, away: bool) -> float:
    v = np.float64(raw) * s
    return abs(v - center) if away else v


@compiled
def _sample(raw_P: NDArray[Any], s: float, center: float, away: bool) -> NDArray[np.float64]:
    """Return the finite ones among some values."""
    step = max(raw_P.size // SAMPLE, 1)
    sample_S = np.empty(raw_P.size // step, np.float64)
    n: Integer = 0
    for i in range(sample_S.size):
        raw = raw_P[i * step]
        sample_S[n] = _value(raw, s, center, away)
        n += np.int64(np.isfinite(raw))
    return sample_S[:n]


@compiled
def _quantile(sample_S: NDArray[np.float64], rank: Integer, low: float, high: float) -> float:
    """Return what has about so many of the sample up to it; it is in [low, high], as they are."""
    for _ in range(SAMPLE):
        middle = low + (high - low) / 2
        count = 0
        for i in range(sample_S.size):
            count += sample_S[i] <= middle
        if count > rank + CLOSE:
            high = middle
        elif count < rank - CLOSE:
            low = middle
        else:
            break
    return middle


@compiled
def middle_integers(
    raw_P: Integers, low: Integer, high: Integer, twice: Integer, away: bool
) -> tuple[Integer, Integer]:
    """Return the two integers in the middle, equal where their number is odd.

    Of |2v - twice| if `away`, else of the pixels v themselves.

    Args:
        raw_P: of up to 16 bits.
        low, high: the least and the greatest of them, int64.
    """
    unit = 2 if away else 1
    sample_S = _sample(raw_P, 1.0, twice / 2, away)
    least, greatest = (0, max(2 * high - twice, twice - 2 * low)) if away else (low, high)
    middle = sample_S.size // 2
    first, second, _, _ = bracket(
        raw_P,
        raw_P.size,
        ((raw_P.size - 1) // 2, raw_P.size // 2),
        (low, high),
        (
            np.int64(unit * _quantile(sample_S, middle - MARGIN, least / unit, greatest / unit)),
            np.int64(unit * _quantile(sample_S, middle + MARGIN, least / unit, greatest / unit)),
        ),
        twice,
        away,
        np.int64(0),
    )
    return first, second


@compiled
def places(
    raw_P: NDArray[Any],
    s: float,
    center: float,
    away: bool,
    low: float,
    high: float,
    words_P: Integers,
) -> None:
    """Write each value's place between low and high, as a word; their order stays."""
    enlarge = 1.0 if high - low >= SMALL else ENLARGED
    scale = TOP / ((high - low) * enlarge)
    for i in range(raw_P.size):
        place = (_value(raw_P[i], s, center, away) - low) * enlarge * scale
        word = np.int16(min(max(place, np.float64(BELOW)), np.float64(ABOVE)))
        words_P[i] = word if np.isfinite(raw_P[i]) else np.int16(MISSING)


@compiled
def single_places(
    raw_P: NDArray[np.float32],
    s: float,
    center: float,
    away: bool,
    low: float,
    high: float,
    words_P: Integers,
) -> None:
    """Do what `places` does, of float32 and in float32; values alike to 1e-7 may change places.

    The center is taken away in two parts: near it the first difference is exact, and what float32
    cannot hold of the center is in the second.
    """
    scale = TOP / (high - low)
    if s != 1.0 or high - low > ORDINARY or scale > ORDINARY:
        places(raw_P, s, center, away, low, high, words_P)
        return
    first, base, factor = np.float32(center), np.float32(low), np.float32(scale)
    second = np.float32(center - first)
    least, greatest = np.float32(BELOW), np.float32(ABOVE)
    for i in range(raw_P.size):
        v = raw_P[i]
        x = np.float32(abs(np.float32(v - first) - second)) if away else v
        place = np.float32(np.float32(x - base) * factor)
        word = np.int16(min(max(place, least), greatest))
        words_P[i] = word if np.isfinite(v) else np.int16(MISSING)


@compiled
def _with_words(
    raw_P: NDArray[Any],
    s: float,
    center: float,
    away: bool,
    words_P: Integers,
    low: Integer,
    high: Integer,
    count: Integer,
) -> Any:
    """Return the `count` values whose words are in [low, high], skipping blocks without any."""
    least, greatest = np.int16(low), np.int16(high)
    found = np.empty(count, np.float64)
    n = 0
    for start in range(0, words_P.size, BLOCK):
        block = words_P[start : start + BLOCK]  # counted from 0, it needs no checks, and vectorises
        inside = np.int16(0)
        for i in range(block.size):
            inside = np.int16(inside + np.int16((block[i] >= least) & (block[i] <= greatest)))
        if inside:
            for i in range(block.size):
                if least <= block[i] <= greatest:
                    found[n] = _value(raw_P[start + i], s, center, away)
                    n += 1
    return found


@compiled
def _sort(few_N: NDArray[np.float64]) -> None:
    for i in range(1, few_N.size):
        for j in range(i, 0, -1):
            if few_N[j] < few_N[j - 1]:
                few_N[j], few_N[j - 1] = few_N[j - 1], few_N[j]


@compiled
def middle_values(
    first_places: Any,
    raw_P: NDArray[Any],
    n_finite: Integer,
    s: float,
    center: float,
    away: bool,
    low: float,
    high: float,
    words_P: Integers,
) -> tuple[float, float]:
    """Return the two values in the middle, equal where their number is odd.

    Of |s·v - center| if `away`, else of s·v, over the finite pixels v.

    Args:
        first_places: `places`, or what does the same in less time; values that are then found
            in one place are parted by `places`.
        n_finite: how many they are, at least 1.
        low, high: the least and the greatest value; their difference is finite, and not 0.
        words_P: int16, overwritten.
    """
    rank, last = (n_finite - 1) // 2, n_finite // 2
    ends, guesses = (BELOW, ABOVE), (TOP // 4, TOP - TOP // 4)
    sample_S = _sample(raw_P, s, center, away)
    first_low = _quantile(sample_S, sample_S.size // 2 - WIDE, low, high)
    first_high = _quantile(sample_S, sample_S.size // 2 + WIDE, low, high)
    if first_low < first_high:
        low, high = first_low, first_high
    first_places(raw_P, s, center, away, low, high, words_P)
    while True:
        first, second, below, inside = bracket(
            words_P, n_finite, (rank, last), ends, guesses, np.int64(0), False, np.int64(FEW)
        )
        if inside > FEW and first < second:  # the rank's word, up to which it is the greatest
            up_to = rank + 1 - below
            lower = _with_words(raw_P, s, center, away, words_P, first, first, up_to)
            upper = _with_words(raw_P, s, center, away, words_P, second, second, inside - up_to)
            return float(lower.max()), float(upper.min())
        found = _with_words(raw_P, s, center, away, words_P, first, second, inside)
        if inside <= FEW:
            _sort(found)
            return found[rank - below], found[last - below]
        low, high = found.min(), found.max()  # many in one place: look at that place closer
        if low == high:
            return low, low
        places(raw_P, s, center, away, low, high, words_P)
