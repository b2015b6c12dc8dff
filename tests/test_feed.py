"""The feed: order, independence of its settings, errors passed on, threads that end."""

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from stronglens.engine.batches import REJECTED, Flag
from stronglens.engine.clock import StageClock
from stronglens.engine.errors import CutoutError
from stronglens.engine.feed import feed
from stronglens.engine.preprocess import PreprocessSpec, prepare

SPEC = PreprocessSpec(size=6)


@dataclass
class Held:
    """A cutout in memory, or the exception that reading it raises."""

    id: str
    content: Any
    readers: set[str] = field(default_factory=set)

    def read(self):
        self.readers.add(threading.current_thread().name)
        if isinstance(self.content, BaseException):
            raise self.content
        return self.content


def cutouts(rng, n=100):
    """Good ones, and every fifth bad in one way or another."""
    bad = [
        CutoutError(Flag.MISSING),
        np.full((6, 6), np.nan),
        np.zeros((5, 5)),
        np.ones((6, 6)),
        np.zeros((6, 6), complex),
    ]
    good = iter(rng.normal(size=(n, 6, 6)))
    return [Held(f"{i}", bad[i // 5 % 5] if i % 5 == 0 else next(good)) for i in range(n)]


def rows(source, **settings):
    """Every row that a feed gives, copied out of the ring."""
    ids, x, flags, nan_frac = [], [], [], []
    for batch in feed(source, SPEC, **settings):
        ids += batch.ids
        x.append(batch.x_BHW.copy())
        flags.append(batch.flags_B.copy())
        nan_frac.append(batch.nan_frac_B.copy())
    return ids, np.concatenate(x), np.concatenate(flags), np.concatenate(nan_frac)


@pytest.mark.parametrize(
    ("batch_size", "workers", "ahead"), [(1, 1, 1), (7, 3, 2), (32, 2, 1), (64, 8, 4), (500, 2, 2)]
)
def test_rows_are_those_of_prepare_whatever_the_settings(rng, batch_size, workers, ahead):
    source = cutouts(rng)
    ids, x_NHW, flags_N, nan_frac_N = rows(
        source, batch_size=batch_size, workers=workers, ahead=ahead
    )
    assert ids == [cutout.id for cutout in source]
    expected_HW = np.empty((6, 6), np.float32)
    for i, cutout in enumerate(source):
        try:
            flags, nan_frac = prepare(cutout.read(), SPEC, expected_HW)
        except CutoutError as err:
            flags, nan_frac = err.flag, np.nan
            expected_HW[:] = 0
        np.testing.assert_array_equal(x_NHW[i], expected_HW)
        assert flags_N[i] == flags
        np.testing.assert_array_equal(nan_frac_N[i], np.float32(nan_frac))


def test_a_used_buffer_leaves_nothing_behind(rng):
    good = [Held("good", rng.normal(size=(6, 6))) for _ in range(8)]
    bad = [Held("bad", CutoutError(Flag.UNREADABLE)) for _ in range(8)]
    _, x_NHW, flags_N, _ = rows([*good, *bad] * 4, batch_size=8, workers=2, ahead=1)
    for b in np.flatnonzero(flags_N & REJECTED):
        assert not x_NHW[b].any()


def test_the_ring_is_made_once_and_used_again(rng):
    made = []

    def buffer(shape_BHW):
        made.append(np.empty(shape_BHW, np.float32))
        return made[-1]

    seen = {
        batch.x_BHW.__array_interface__["data"][0]
        for batch in feed(cutouts(rng), SPEC, batch_size=10, workers=2, ahead=2, buffer=buffer)
    }
    assert seen == {array.__array_interface__["data"][0] for array in made}
    assert [array.shape for array in made] == [(10, 6, 6)] * 3


def test_no_more_is_taken_than_the_ring_holds(rng):
    taken = []
    source = (taken.append(cutout.id) or cutout for cutout in cutouts(rng))
    batches = feed(source, SPEC, batch_size=10, workers=2, ahead=2)
    next(batches)
    assert len(taken) == 30
    batches.close()


def test_an_empty_source_gives_nothing():
    assert list(feed([], SPEC, batch_size=4, workers=2)) == []


@pytest.mark.parametrize("error", [MemoryError("no room"), ZeroDivisionError(), SystemExit(3)])
def test_an_error_in_a_thread_is_raised_after_the_batches_before_it(rng, error):
    source = cutouts(rng)
    source[57] = Held("57", error)
    before = threading.active_count()
    batches = feed(source, SPEC, batch_size=10, workers=3)
    got = []
    with pytest.raises(type(error)):
        got.extend(list(batch.ids) for batch in batches)
    assert len(got) <= 5
    assert threading.active_count() == before


def test_batches_before_an_error_come_first(rng):
    source = cutouts(rng, 30)
    source[25] = Held("25", ZeroDivisionError())
    batches = feed(source, SPEC, batch_size=10, workers=2)
    assert next(batches).ids == [str(i) for i in range(10)]
    assert next(batches).ids == [str(i) for i in range(10, 20)]
    with pytest.raises(ZeroDivisionError):
        next(batches)


def test_an_error_of_the_source_is_raised(rng):
    def source():
        yield from cutouts(rng, 5)
        raise OSError("listing failed")

    with pytest.raises(OSError, match="listing failed"):
        list(feed(source(), SPEC, batch_size=2, workers=2))


def test_closing_early_ends_the_threads(rng):
    before = threading.active_count()
    batches = feed(cutouts(rng), SPEC, batch_size=10, workers=4)
    next(batches)
    assert threading.active_count() == before + 4
    batches.close()
    assert threading.active_count() == before


def test_it_is_threads_that_read(rng):
    source = cutouts(rng)
    clock = StageClock()
    for _ in feed(source, SPEC, batch_size=10, workers=2, clock=clock):
        pass
    names = set().union(*(cutout.readers for cutout in source))
    assert names <= {"feed-0", "feed-1"}
    assert clock.seconds["read"] > 0
    assert clock.seconds["prepare"] > 0
