"""ONNX Runtime with CUDA, on a GPU that is a fake: what goes to it, and what comes back."""

import gc
import threading

import numpy as np
import pytest
import tiny_model
from fake_machine import open_cuda
from tiny_model import X_BYTES

from stronglens.engine.backends.ort import LANES, SLICES
from stronglens.engine.backends.pinned import PinnedMemory, load_cudart

pytest_plugins = ["gpu_fixtures"]

SLICE = SLICES["cuda"]
SIDE = tiny_model.SIZE
BATCH = 4 * SLICE


@pytest.mark.parametrize("n", [1, SLICE - 1, SLICE, SLICE + 1, 2 * SLICE, BATCH, BATCH + 7])
def test_probabilities_are_those_of_the_twin(ort_gpu, bundle, rng, n):
    backend = open_cuda(bundle)
    x_BHW = rng.random((n, SIDE, SIDE), np.float32)
    prob_BK = backend.run(x_BHW)
    np.testing.assert_allclose(prob_BK, tiny_model.twin(x_BHW), atol=1e-5)
    assert set(ort_gpu.slices) == {SLICE}, "one shape, or CUDA searches for kernels again"
    backend.run(rng.random(x_BHW.shape, np.float32))
    np.testing.assert_allclose(prob_BK, tiny_model.twin(x_BHW), atol=1e-5)


def test_a_row_does_not_depend_on_its_batch(ort_gpu, bundle, rng):
    backend = open_cuda(bundle)
    x_BHW = rng.random((BATCH, SIDE, SIDE), np.float32)
    whole_BK = backend.run(x_BHW)
    for start, n in ((0, 1), (60, 15), (127, 80)):
        part_BK = backend.run(x_BHW[start : start + n])
        np.testing.assert_array_equal(part_BK, whole_BK[start : start + n])


def test_cutouts_go_from_pinned_memory_as_they_lie(ort_gpu, cudart, bundle, rng):
    backend = open_cuda(bundle)
    ring = [backend.buffer((BATCH, SIDE, SIDE)) for _ in range(3)]
    for x_BHW in ring:
        x_BHW[:] = rng.random(x_BHW.shape, np.float32)
    ort_gpu.sources.clear()
    for x_BHW in ring:
        backend.run(x_BHW)
    size = SLICE * X_BYTES
    expected = {(x_BHW.ctypes.data + k * size, size) for x_BHW in ring for k in range(4)}
    assert set(ort_gpu.sources) == expected
    assert all(cudart.holds(*source) for source in ort_gpu.sources)


def test_the_last_batch_is_filled_up_and_its_filling_dropped(ort_gpu, bundle, rng):
    backend = open_cuda(bundle)
    x_BHW = backend.buffer((BATCH, SIDE, SIDE))
    x_BHW[:] = rng.random(x_BHW.shape, np.float32)
    ort_gpu.sources.clear()
    prob_BK = backend.run(x_BHW[: SLICE + 3])
    whole, filled = sorted(ort_gpu.sources, key=lambda each: each[0] != x_BHW.ctypes.data)
    assert whole == (x_BHW.ctypes.data, SLICE * X_BYTES)
    assert filled[1] == SLICE * X_BYTES
    assert filled[0] != x_BHW[SLICE].ctypes.data
    np.testing.assert_allclose(prob_BK, tiny_model.twin(x_BHW[: SLICE + 3]), atol=1e-5)


def test_cutouts_that_do_not_lie_side_by_side(ort_gpu, bundle, rng):
    x_BHW = rng.random((2 * BATCH, SIDE, SIDE), np.float32)[::2]
    np.testing.assert_allclose(open_cuda(bundle).run(x_BHW), tiny_model.twin(x_BHW), atol=1e-5)


def test_two_inferences_are_in_flight_at_once(ort_gpu, bundle, rng):
    ort_gpu.meeting = threading.Barrier(LANES["cuda"])  # times out, were there but one
    x_BHW = rng.random((BATCH, SIDE, SIDE), np.float32)
    np.testing.assert_allclose(open_cuda(bundle).run(x_BHW), tiny_model.twin(x_BHW), atol=1e-5)


def test_close_frees_the_gpu_and_unlocks_what_may_still_be_read(ort_gpu, cudart, bundle):
    backend = open_cuda(bundle)
    x_BHW = backend.buffer((BATCH, SIDE, SIDE))
    x_BHW[:] = 1
    assert ort_gpu.used == LANES["cuda"] * SLICE * X_BYTES
    assert cudart.locked
    backend.close()
    assert (ort_gpu.used, cudart.locked) == (0, {})
    assert x_BHW.sum() == x_BHW.size
    backend.close()


def test_pages_are_unlocked_where_nobody_closes(cudart):
    memory = PinnedMemory(cudart)
    memory.array((5, 7, 7))
    assert len(cudart.locked) == 1
    del memory
    gc.collect()
    assert cudart.locked == {}


def test_memory_that_cannot_be_locked_is_used_as_it_is(ort_gpu, cudart, bundle, rng):
    cudart.refuse = True
    backend = open_cuda(bundle)
    x_BHW = backend.buffer((BATCH, SIDE, SIDE))
    assert cudart.error == 0, "a later launch would report it"
    x_BHW[:] = rng.random(x_BHW.shape, np.float32)
    np.testing.assert_allclose(backend.run(x_BHW), tiny_model.twin(x_BHW), atol=1e-5)
    backend.close()


def test_arrays_of_plain_memory():
    memory = PinnedMemory(load_cudart("0.0"))
    array = memory.array((3, 4, 5))
    array += 1
    assert (array.shape, array.dtype, array.sum()) == ((3, 4, 5), np.float32, 60)
    memory.close()
