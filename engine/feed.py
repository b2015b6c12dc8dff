"""Threads that read and prepare cutouts into a ring of batch buffers, in order."""

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from queue import SimpleQueue
from threading import Event, Thread

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.batches import Batch
from stronglens.engine.clock import StageClock
from stronglens.engine.fill import Filler
from stronglens.engine.preprocess import PreprocessSpec
from stronglens.engine.sources import Cutout

SPAN = 16
"""Cutouts that a thread takes at once: enough to hide the hand-over, few enough to share out"""

JOIN_SECONDS = 5.0


def host_buffer(shape_BHW: tuple[int, int, int]) -> NDArray[np.float32]:
    """Return plain memory for a batch."""
    return np.empty(shape_BHW, np.float32)


@dataclass(slots=True)
class Slot:
    """One place of the ring: a batch being filled, and what its threads report."""

    x_BHW: NDArray[np.float32]
    flags_B: NDArray[np.uint16]
    nan_frac_B: NDArray[np.float32]
    cutouts: list[Cutout] = field(default_factory=list)
    spans: int = 0
    """parts of the batch that were handed out"""
    reports: SimpleQueue[BaseException | None] = field(default_factory=SimpleQueue)
    """one entry for each part that is done"""

    def batch(self) -> Batch:
        """Wait until every part is done; raise what a thread raised."""
        for _ in range(self.spans):
            if (error := self.reports.get()) is not None:
                raise error
        n = len(self.cutouts)
        ids = [cutout.id for cutout in self.cutouts]
        return Batch(ids, self.x_BHW[:n], self.flags_B[:n], self.nan_frac_B[:n])


Span = tuple[Slot, int, int]


def feed(
    source: Iterable[Cutout],
    spec: PreprocessSpec,
    *,
    batch_size: int,
    workers: int,
    buffer: Callable[[tuple[int, int, int]], NDArray[np.float32]] = host_buffer,
    ahead: int = 2,
    clock: StageClock | None = None,
) -> Generator[Batch, None, None]:
    """Yield the cutouts of `source`, prepared, in its order; only the last batch may be short.

    A cutout that cannot be used becomes a row of zeros whose flags say why; a row never
    depends on its neighbours, on the batch size or on the number of threads. A batch is valid
    until the next one is asked for. Any other exception of a thread is raised here, after the
    batches before it. Closing the iterator early stops the threads.

    Args:
        source: iterated in the caller's thread, at most `ahead` batches early.
        spec: from the task or the bundle.
        batch_size: cutouts in a batch.
        workers: threads that read and prepare.
        buffer: gives the memory of one batch, (B, H, W) float32; called `ahead` + 1 times.
        ahead: batches that are filled while the caller works on one.
        clock: gets the stages "read" and "prepare", in seconds summed over the threads.
    """
    clock = clock or StageClock()
    cutouts = iter(source)
    work: SimpleQueue[Span | None] = SimpleQueue()
    stop = Event()
    ring = [_slot(batch_size, spec.size, buffer) for _ in range(ahead + 1)]
    threads = [
        Thread(target=_fill_spans, args=(work, spec, stop, clock), name=f"feed-{i}", daemon=True)
        for i in range(workers)
    ]
    for thread in threads:
        thread.start()
    try:
        for slot in ring:
            _hand_out(slot, cutouts, batch_size, work)
        turn = 0
        while (slot := ring[turn % len(ring)]).cutouts:
            yield slot.batch()
            _hand_out(slot, cutouts, batch_size, work)
            turn += 1
    finally:
        stop.set()
        for _ in threads:
            work.put(None)
        for thread in threads:  # not for ever: a read may hang, on a dead network drive say
            thread.join(JOIN_SECONDS)


def _slot(
    batch_size: int, size: int, buffer: Callable[[tuple[int, int, int]], NDArray[np.float32]]
) -> Slot:
    x_BHW = buffer((batch_size, size, size))
    return Slot(x_BHW, np.zeros(batch_size, np.uint16), np.zeros(batch_size, np.float32))


def _hand_out(
    slot: Slot, cutouts: Iterator[Cutout], batch_size: int, work: SimpleQueue[Span | None]
) -> None:
    """Give the next cutouts to the threads; none are left when `slot.cutouts` is empty."""
    slot.cutouts = list(islice(cutouts, batch_size))
    starts = range(0, len(slot.cutouts), SPAN)
    slot.spans = len(starts)
    for start in starts:
        work.put((slot, start, min(start + SPAN, len(slot.cutouts))))


def _fill_spans(
    work: SimpleQueue[Span | None], spec: PreprocessSpec, stop: Event, clock: StageClock
) -> None:
    """Fill spans until None comes: what each thread of the feed runs."""
    filler = Filler(spec)
    while (span := work.get()) is not None and not stop.is_set():
        slot, start, end = span
        before_2 = filler.seconds_2.copy()
        try:
            filler.fill(slot.cutouts[start:end], slot, start)
            reading, preparing = (filler.seconds_2 - before_2).tolist()
            clock.add(read=reading, prepare=preparing)
            slot.reports.put(None)
        except BaseException as error:  # whatever it is, the consumer must hear of it
            slot.reports.put(error)
