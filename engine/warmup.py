"""Compile what a run will need while its model loads."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from threading import Thread

import numpy as np

from stronglens.engine.batches import Batch
from stronglens.engine.feed import JOIN_SECONDS
from stronglens.engine.fill import Filler
from stronglens.engine.preprocess import PreprocessSpec
from stronglens.engine.sources import Cutout


@contextmanager
def warming_up(source: Iterable[Cutout], spec: PreprocessSpec) -> Iterator[None]:
    """Compile, beside the block, the kernels that the first cutout of `source` needs.

    Loading a model holds no Python lock, and compiling takes a second or two. Nothing depends
    on it: what is not compiled in time is compiled by the feed, which also says what is wrong
    with the cutout.
    """
    thread = Thread(target=_fill_first, args=(source, spec), name="warm-up", daemon=True)
    thread.start()
    try:
        yield
    finally:  # not for ever: a read may hang
        thread.join(JOIN_SECONDS)


def _fill_first(source: Iterable[Cutout], spec: PreprocessSpec) -> None:
    """Fill a row that nobody reads."""
    x_BHW = np.empty((1, spec.size, spec.size), np.float32)
    row = Batch([], x_BHW, np.zeros(1, np.uint16), np.zeros(1, np.float32))
    with suppress(Exception):
        Filler(spec).fill(list(islice(source, 1)), row, 0)
