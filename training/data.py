"""Data sets on disk → prepared cutouts in memory."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.preprocess import PreprocessSpec


@dataclass(frozen=True, slots=True)
class Split:
    """Labelled cutouts: ids, x_NHW float32 as `prepare` left them, y_N the column of the class."""

    ids: list[str]
    x_NHW: NDArray[np.float32]
    y_N: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DataSet:
    """The two splits, and where they come from."""

    train: Split
    val: Split
    classes: list[str]
    spec: PreprocessSpec
    origin: dict[str, Any]
    """path, simulated, sha256, counts, split, rejected"""
