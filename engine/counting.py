"""Where a rank lies among many small integers, found by counting how many are below a guess.

A count is a loop that LLVM turns into vector instructions, which sorting and partitioning are not:
over one cutout in the cache it takes a quarter of a microsecond. Interpolation makes the guesses,
and bisection where that is slow.
"""

import numpy as np

from stronglens.engine.compiled import Integer, Integers, compiled

SPREAD = 0.5
"""by how many deviations a guess aims beside the middle, so that the next is on its other side"""
GUESSES = 8
"""before bisection takes over, which no distribution makes slow"""
CHUNK = 1 << 14
"""words that an int16 can count, so that as many fit a vector as words do"""


@compiled
def _not_above(words_P: Integers, limit: Integer) -> Integer:
    """Return how many words are not above a limit that their own type can hold."""
    total: Integer = 0
    greatest = words_P.dtype.type(limit)
    for start in range(0, words_P.size, CHUNK):
        chunk = words_P[start : start + CHUNK]
        n = np.int16(0)
        for i in range(chunk.size):
            n = np.int16(n + np.int16(chunk[i] <= greatest))
        total += n
    return total


@compiled
def _between(words_P: Integers, low: Integer, high: Integer) -> Integer:
    """Return how many words are in [low, high], which their own type can hold."""
    total: Integer = 0
    least, greatest = words_P.dtype.type(low), words_P.dtype.type(high)
    for start in range(0, words_P.size, CHUNK):
        chunk = words_P[start : start + CHUNK]
        n = np.int16(0)
        for i in range(chunk.size):
            n = np.int16(n + np.int16((chunk[i] >= least) & (chunk[i] <= greatest)))
        total += n
    return total


@compiled
def _up_to(
    words_P: Integers, limit: Integer, least: Integer, greatest: Integer, twice: Integer, away: bool
) -> Integer:
    """Return how many words are in [least, limit], none being less; or, if `away`, how many w have
    |2w - twice| up to the limit."""
    if not away:
        return _not_above(words_P, limit) if limit >= least else 0
    low, high = (twice - limit + 1) >> 1, (twice + limit) >> 1
    return _between(words_P, max(low, least), min(high, greatest)) if low <= high else 0


@compiled
def _distance(word: Integer, twice: Integer, away: bool) -> Integer:
    return abs(2 * np.int64(word) - twice) if away else np.int64(word)


@compiled
def _beside(
    words_P: Integers, limit: Integer, low: Integer, high: Integer, twice: Integer, away: bool
) -> tuple[Integer, Integer]:
    """Return the greatest distance up to the limit and the least beyond, both in [low, high]."""
    first, second = low, high
    for i in range(words_P.size):
        d = _distance(words_P[i], twice, away)
        first = max(first, d if d <= limit else low)
        second = min(second, d if d > limit else high)
    return first, second


@compiled
def bracket(
    words_P: Integers,
    n_words: Integer,
    ranks: tuple[Integer, Integer],
    ends: tuple[Integer, Integer],
    guesses: tuple[Integer, Integer],
    twice: Integer,
    away: bool,
    few: Integer,
) -> tuple[Integer, Integer, Integer, Integer]:
    """Return (low, high, below, inside): what has the ranks is in [low, high].

    Of the words, or, if `away`, of their distances |2w - twice|, `below` are less than low and
    `inside` are in the bracket. Either low and high are what has the ranks, or `inside` is not
    above `few`; with few = 0 it is always the former.

    Args:
        words_P: integers of up to 16 bits.
        n_words: how many of them count.
        ranks: one rank twice, or two that follow each other; 0 is the least.
        ends: the least and the greatest of these; others must be above.
        guesses: between which the ranks are expected.
    """
    rank, last = ranks
    least, greatest = ends
    low: Integer = least
    high: Integer = greatest
    if away:
        low, high = np.int64(0), max(twice - 2 * least, 2 * greatest - twice)
    below: Integer = np.int64(0)
    up_to: Integer = np.int64(n_words)
    turn = 0
    while low < high and up_to - below > few:
        guess = (low + high) >> 1
        if turn < 2:
            guess = guesses[turn]
        elif turn < GUESSES:
            inside = up_to - below
            aim = rank - below + (1 if turn % 2 else -1) * SPREAD * np.sqrt(inside)
            guess = low + int(min(max(aim / inside, 0.0), 1.0) * (high - low))
        guess = min(max(guess, low), high - 1)
        count = _up_to(words_P, guess, least, greatest, twice, away)
        if count <= rank:
            low, below = guess + 1, count
        elif count > last:
            high, up_to = guess, count
        else:  # it parts the two
            low, high = _beside(words_P, guess, low, high, twice, away)
            below = _up_to(words_P, low - 1, least, greatest, twice, away)
            up_to = _up_to(words_P, high, least, greatest, twice, away)
            break
        turn += 1
    return low, high, below, up_to - below
