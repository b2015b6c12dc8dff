"""What travels through the engine, in order: Batch, Scores, Rows; and the flags of a row.

Shape letters, here and in every name that ends in them:
    B cutouts in a batch, N cutouts in a data set, C bands, H rows, W columns,
    K classes, D features
"""

from dataclasses import dataclass
from enum import IntFlag
from typing import Literal

import numpy as np
from numpy.typing import NDArray


class Flag(IntFlag):
    """What is to be known about a cutout; bits combine with `|`, and mean the same everywhere."""

    OK = 0
    NONFINITE = 1 << 0
    """some pixels were NaN, infinite or outside the frame, and were filled"""
    MISSING = 1 << 1
    """there is no such file"""
    UNREADABLE = 1 << 2
    """the file is there but the system would not read it"""
    MALFORMED = 1 << 3
    """the file is not what its name says: truncated, wrong header, bytes left over"""
    DTYPE = 1 << 4
    """the pixels are not real numbers"""
    SHAPE = 1 << 5
    """not one image H×W or 1×H×W, or not of the size the model takes"""
    EMPTY = 1 << 6
    """no finite pixel"""
    CONSTANT = 1 << 7
    """all finite pixels are equal"""
    UNSCORED = 1 << 8
    """the model did not return finite probabilities"""
    SATURATED = 1 << 9
    """many pixels, at least 1 in 1000 and 8 in all, hold the very greatest value"""
    MOSTLY_MISSING = 1 << 10
    """more than half of the pixels were filled"""


REJECTED = (
    Flag.MISSING
    | Flag.UNREADABLE
    | Flag.MALFORMED
    | Flag.DTYPE
    | Flag.SHAPE
    | Flag.EMPTY
    | Flag.CONSTANT
    | Flag.UNSCORED
)
"""Any of these bits: the row has no probabilities."""

FLAGGED = Flag.SATURATED | Flag.MOSTLY_MISSING
"""Any of these bits and none of REJECTED: the row has probabilities, but look twice."""


def reason(flags: int) -> str:
    """Return the reason a row gives for its rejection: one lower-case word, "" where accepted."""
    rejecting = Flag(int(flags)) & REJECTED  # a numpy integer makes no new combination
    return next((flag.name.lower() for flag in rejecting if flag.name), "")


def status(flags: int) -> Literal["ok", "flagged", "rejected"]:
    """Return what a row says of itself in one word."""
    return "rejected" if flags & REJECTED else "flagged" if flags & FLAGGED else "ok"


def flag_words(flags: int) -> str:
    """Return the name of every bit, lower case, with a bar between; "" where there is none."""
    return "|".join(flag.name.lower() for flag in Flag(int(flags)) if flag.name)


@dataclass(slots=True)
class Batch:
    """Prepared cutouts, ready for a backend.

    A batch made by the feed lives in a buffer that is used again: it is valid until the
    next one is asked for.
    """

    ids: list[str]
    x_BHW: NDArray[np.float32]
    """finite, C-contiguous; zeros where the cutout is rejected"""
    flags_B: NDArray[np.uint16]
    nan_frac_B: NDArray[np.float32]
    """share of the H×W pixels that were filled; NaN where nothing could be read"""


@dataclass(slots=True)
class Scores:
    """One row per cutout of a batch; owned by whoever holds it."""

    ids: list[str]
    prob_BK: NDArray[np.float32]
    """rows sum to 1, or are all NaN where nothing could be scored"""
    flags_B: NDArray[np.uint16]
    nan_frac_B: NDArray[np.float32]
    encoding_BD: NDArray[np.float32] | None = None
    """where the model gives encodings and they were asked for; NaN where the row is rejected"""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the user's catalogue, carried through to the output."""

    name: str
    kind: Literal["int", "float", "text"]
    """what all its values are; empty ones are allowed in each"""


@dataclass(slots=True)
class Rows:
    """What an output holds, a row a cutout."""

    ids: list[str]
    """names that are not UTF-8 hold surrogate escapes"""
    prob_BK: NDArray[np.float32]
    """NaN where the row is rejected"""
    flags_B: NDArray[np.uint16]
    nan_frac_B: NDArray[np.float32]
    """NaN where nothing could be read"""
    carried: list[list[str]]
    """the values of the catalogue's columns as text, one list a row, "" for none; [] where the
    run has no such columns"""
