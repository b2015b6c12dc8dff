"""The cutouts that artefacts are compared on: few, even over classes, read by the engine."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.batches import REJECTED
from stronglens.engine.errors import CutoutError, InputError
from stronglens.engine.feed import feed
from stronglens.engine.preprocess import PreprocessSpec
from stronglens.engine.sources import open_files
from stronglens.training.listing import Labelled, Listing

CALIBRATION = 256
"""training cutouts that int8's scales are taken from"""
FEWEST = 32
"""with fewer of them a scale says little"""


@dataclass(frozen=True, slots=True)
class Sample:
    """Prepared cutouts of a run's data set, all usable."""

    paths: list[str]
    x_NHW: NDArray[np.float32]
    y_N: NDArray[np.int64]
    origin: dict[str, int]
    """how many were taken from each split"""


def take_sample(listing: Listing, spec: PreprocessSpec, count: int) -> Sample:
    """Return at most `count` prepared cutouts, even over the classes.

    Validation cutouts first. Where there are fewer than `count`, training cutouts join them:
    arithmetic is compared here, not skill, and one swapped pair among 22 cutouts would already
    move a ROC AUC by 0.01.

    Raises:
        InputError: a class has no usable cutout among them.
    """
    val = _pick(listing.val, count)
    train = _pick(listing.train, count - len(val))
    x_NHW, usable = _prepare([*val, *train], spec)
    chosen = [each for each, ok in zip([*val, *train], usable, strict=True) if ok]
    y_N = np.array([each.label for each in chosen], np.int64)
    if missing := [name for k, name in enumerate(listing.classes) if k not in y_N]:
        raise InputError(f"no usable cutout of {', '.join(missing)} to compare the graphs on")
    n_val = sum(usable[: len(val)])
    origin = {"val": n_val, "train": len(chosen) - n_val}
    return Sample([each.path for each in chosen], x_NHW, y_N, origin)


def take_calibration(
    listing: Listing, spec: PreprocessSpec, compared: Sample
) -> NDArray[np.float32]:
    """Return prepared training cutouts, even over the classes, to take int8's scales from.

    None of those that the graphs are compared on, unless fewer than FEWEST others are usable.

    Raises:
        InputError: no training cutout is usable.
    """
    if not listing.train:
        raise InputError("int8 is calibrated on training cutouts, and the data set has none")
    seen = set(compared.paths)
    others = [each for each in listing.train if each.path not in seen]
    for labelled, enough in ((others, FEWEST), (listing.train, 1)):
        chosen = _pick(labelled, CALIBRATION)
        x_NHW, usable = _prepare(chosen, spec) if chosen else (np.empty((0, 0, 0), "f4"), [])
        if sum(usable) >= enough:
            return x_NHW
    raise InputError(f"none of {len(usable)} training cutouts is usable to calibrate int8")


def read_raw(paths: Sequence[str]) -> list[NDArray[Any]]:
    """Return cutouts as stored, H×W; those that cannot be read are left out."""
    found = []
    for cutout in open_files(paths):
        try:
            raw = cutout.read()
        except CutoutError:
            continue
        found.append(raw[0] if raw.ndim == 3 else raw)
    return found


def spread(y_N: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return sorted row numbers, at most `count`: even over the classes, even within each.

    A class with too few gives all it has, and the others share the rest.
    """
    members = sorted((np.flatnonzero(y_N == k) for k in np.unique(y_N)), key=len)
    chosen = [np.zeros(0, np.int64)]
    for i, rows in enumerate(members):
        left = max(count, 0) - sum(map(len, chosen))
        quota = min(len(rows), math.ceil(left / (len(members) - i)))
        chosen.append(rows[np.arange(quota) * len(rows) // max(quota, 1)])
    return np.sort(np.concatenate(chosen))


def _pick(labelled: Sequence[Labelled], count: int) -> list[Labelled]:
    labels_N = np.array([each.label for each in labelled], np.int64)
    return [labelled[i] for i in spread(labels_N, count)]


def _prepare(
    labelled: Sequence[Labelled], spec: PreprocessSpec
) -> tuple[NDArray[np.float32], list[bool]]:
    """Return the prepared pixels of the usable cutouts, and which are usable."""
    source = open_files([each.path for each in labelled])
    rows: list[NDArray[np.float32]] = []
    usable: list[bool] = []
    for batch in feed(source, spec, batch_size=64, workers=1):
        ok_B = (batch.flags_B & REJECTED) == 0
        rows.append(batch.x_BHW[ok_B])  # a copy: the batch's memory is used again
        usable += ok_B.tolist()
    return np.concatenate(rows), usable
