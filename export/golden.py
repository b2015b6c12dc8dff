"""The golden batch: cutouts whose answers travel with the bundle, real ones and nasty ones."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.batches import REJECTED
from stronglens.engine.bundle import Golden
from stronglens.engine.errors import InputError
from stronglens.engine.preprocess import PreprocessSpec, prepare
from stronglens.export.cutouts import Sample, read_raw, spread

COUNT = 16
"""real cutouts, even over the classes"""

Score = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def make_golden(sample: Sample, spec: PreprocessSpec, score: Score) -> Golden:
    """Return real cutouts of `sample` and nasty ones made of them, prepared and scored.

    Args:
        sample: the run's own cutouts; their files are read again, to be kept as stored.
        spec: the run's.
        score: torch in float32, x_BHW -> prob_BK.
    """
    real = read_raw([sample.paths[i] for i in spread(sample.y_N, COUNT)])
    raw_NHW = stack(real)
    raw_NHW = np.array([*raw_NHW, *nasty(raw_NHW[0])], raw_NHW.dtype)
    x_NHW = np.empty((len(raw_NHW), spec.size, spec.size), np.float32)
    usable = [
        not prepare(raw, spec, x)[0] & REJECTED for raw, x in zip(raw_NHW, x_NHW, strict=True)
    ]
    x_NHW = x_NHW[usable]
    return Golden(raw_NHW[usable], x_NHW, score(x_NHW))


def stack(cutouts: list[NDArray[Any]]) -> NDArray[Any]:
    """Return the cutouts of the commonest shape as one array, of their dtype if it is shared.

    Otherwise float32, which every catalogue's dtype converts to.
    """
    if not cutouts:
        raise InputError("no cutout of the run's data could be read again for the golden batch")
    shape = Counter(cutout.shape for cutout in cutouts).most_common(1)[0][0]
    same = [cutout for cutout in cutouts if cutout.shape == shape]
    dtypes = {cutout.dtype for cutout in same}
    # np.stack would turn foreign byte order to this machine's
    return np.array(same, dtypes.pop() if len(dtypes) == 1 else np.float32)


def nasty(raw_HW: NDArray[Any]) -> NDArray[Any]:
    """Return variants of one cutout that `prepare` accepts but a careless rewrite would not.

    A single bright pixel on a flat sky, and a mirrored cutout; for floats also scattered NaN,
    a border of NaN, and infinities of both signs.
    """
    flat_HW = np.full_like(raw_HW, raw_HW.min())
    flat_HW[raw_HW.shape[0] // 2, raw_HW.shape[1] // 2] = raw_HW.max()
    variants = [flat_HW, raw_HW[::-1, ::-1]]
    if raw_HW.dtype.kind == "f":
        variants += [_scattered_nan(raw_HW), _nan_border(raw_HW), _infinities(raw_HW)]
    return np.array(variants, raw_HW.dtype)


def _scattered_nan(raw_HW: NDArray[Any]) -> NDArray[Any]:
    out_HW = raw_HW.copy()
    out_HW.flat[::7] = np.nan
    return out_HW


def _nan_border(raw_HW: NDArray[Any]) -> NDArray[Any]:
    out_HW = np.full_like(raw_HW, np.nan)
    rows, columns = (max(1, n // 10) for n in raw_HW.shape)
    out_HW[rows:-rows, columns:-columns] = raw_HW[rows:-rows, columns:-columns]
    return out_HW


def _infinities(raw_HW: NDArray[Any]) -> NDArray[Any]:
    out_HW = raw_HW.copy()
    out_HW[0, 0], out_HW[-1, -1] = np.inf, -np.inf
    return out_HW
