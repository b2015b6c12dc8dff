"""Floats as integers that sort alike, and the middle of many of them, in vector loops.

LLVM does not make vector instructions of the least and the greatest of floats, where NaN makes the
order of comparisons matter; so pixels are compared as keys: int64 in the order of the floats whose
bits they are.
"""

from typing import Any

import numpy as np

from stronglens.engine.compiled import Integer, Integers, compiled

MAGNITUDE = np.int64(0x7FFFFFFFFFFFFFFF)
MISSING = MAGNITUDE
"""the key of a pixel that is not finite: above all others"""
LEAST_WORD, GREATEST_WORD = np.int32(-(2**31)), np.int32(2**31 - 1)
SAMPLE, MARGIN = 512, 32
"""of the words, to look for the middle; its ranks are off by 11 (1 sigma) at most"""
FEW = 16
"""keys that are looked at one by one"""
BLOCK = 256


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
def median_of(keys_P: Integers, words_P: Integers, n_finite: Integer) -> float:
    first, second = middle_keys(keys_P, words_P, n_finite)
    a: float = value_of(first)
    b: float = value_of(second)
    return a + (b - a) / 2
