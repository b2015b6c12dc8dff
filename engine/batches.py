"""What travels through the engine, in order: Batch, then Scores; and the flags of a row.

Shape letters, here and in every name that ends in them:
    B cutouts in a batch, N cutouts in a data set, C bands, H rows, W columns,
    K classes, D features
"""

from dataclasses import dataclass
from enum import IntFlag

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


def reason(flags: int) -> str:
    """Return the reason a row gives for its rejection: one lower-case word, "" where accepted."""
    rejecting = Flag(int(flags)) & REJECTED  # a numpy integer makes no new combination
    return next((flag.name.lower() for flag in rejecting if flag.name), "")


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
