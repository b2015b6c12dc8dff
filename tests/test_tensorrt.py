"""The TensorRT runner, on strict fakes of TensorRT and of CUDA's runtime."""

import fake_cuda
import numpy as np
import pytest
import tiny_model
from fake_machine import opened
from fake_tensorrt_run import SCRATCH
from tiny_model import X_BYTES

from stronglens.engine.backends.cuda import OutOfMemoryError
from stronglens.engine.backends.tensorrt import LANES, TensorRtBackend
from stronglens.engine.backends.tensorrt_build import SLICE

pytest_plugins = ["gpu_fixtures"]

SIDE = tiny_model.SIZE


@pytest.mark.parametrize("n", [1, SLICE - 1, SLICE, SLICE + 1, 2 * SLICE, 5 * SLICE, 3 * SLICE + 7])
def test_probabilities_are_those_of_the_twin(trt, plan, rng, n):
    backend = opened(trt, plan)
    x_BHW = rng.random((n, SIDE, SIDE), np.float32)
    prob_BK = backend.run(x_BHW)
    np.testing.assert_allclose(prob_BK, tiny_model.twin(x_BHW), atol=1e-5)
    backend.run(rng.random((SLICE, SIDE, SIDE), np.float32))
    np.testing.assert_allclose(prob_BK, tiny_model.twin(x_BHW), atol=1e-5)


def test_no_cutouts_at_all(trt, plan):
    assert opened(trt, plan).run(np.zeros((0, SIDE, SIDE), np.float32)).shape == (0, 3)


def test_a_row_does_not_depend_on_its_batch(trt, plan, rng):
    backend = opened(trt, plan)
    x_BHW = rng.random((3 * SLICE, SIDE, SIDE), np.float32)
    whole_BK = backend.run(x_BHW)
    for start, n in ((0, 1), (SLICE - 3, 20), (5, 2 * SLICE + 1)):
        part_BK = backend.run(x_BHW[start : start + n])
        np.testing.assert_array_equal(part_BK, whole_BK[start : start + n])


def test_cutouts_that_do_not_lie_side_by_side(trt, plan, rng):
    x_BHW = rng.random((2 * SLICE, SIDE, SIDE), np.float32)[::2]
    np.testing.assert_allclose(opened(trt, plan).run(x_BHW), tiny_model.twin(x_BHW), atol=1e-5)


def test_cutouts_go_from_pinned_memory_as_they_lie(trt, gpu, plan):
    backend = opened(trt, plan)
    x_BHW = backend.buffer((4 * SLICE, SIDE, SIDE))
    gpu.calls.clear()
    backend.run(x_BHW)
    to_device = fake_cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
    copies = [args for name, args in gpu.calls if name == "cudaMemcpyAsync"]
    sources = [(src, count) for _, src, count, kind, _ in copies if kind == to_device]
    size = SLICE * X_BYTES
    assert sources == [(x_BHW.ctypes.data + k * size, size) for k in range(4)]
    assert all(gpu.in_locked(*source) for source in sources)
    backend.close()


def test_one_lane_uploads_while_the_other_computes(trt, gpu, plan):
    backend = opened(trt, plan)
    gpu.events.clear()
    backend.run(np.zeros((4 * SLICE, SIDE, SIDE), np.float32))
    names = {id(lane._stream): f"lane {i}" for i, lane in enumerate(backend._lanes)}
    steps = ("upload", "compute", "download", "wait")
    found = [f"{names[id(s)]} {what}" for what, s in gpu.events if what in steps]
    first, second = ([f"lane {i} {what}" for what in steps[:3]] for i in range(2))
    # each lane has work in it whenever the host waits for the other
    assert found == [
        *first, *second, "lane 0 wait", *first, "lane 1 wait", *second, "lane 0 wait", "lane 1 wait"
    ]  # fmt: skip


def test_the_inference_is_recorded_once(trt, gpu, plan):
    backend = opened(trt, plan)
    gpu.calls.clear()
    trt.log.clear()
    backend.run(np.zeros((3 * SLICE, SIDE, SIDE), np.float32))
    assert [name for name, _ in gpu.calls].count("cudaGraphLaunch") == 3
    assert not [call for call, _ in trt.log if call == "IExecutionContext.execute_async_v3"]


@pytest.mark.parametrize("function", ["cudaStreamEndCapture", "cudaGraphInstantiate"])
def test_a_plan_that_cannot_be_recorded_runs_all_the_same(trt, gpu, plan, rng, function):
    gpu.fail[function] = fake_cuda.cudaError_t.cudaErrorStreamCaptureUnsupported
    if function == "cudaStreamEndCapture":  # as the real one: the stream leaves the mode
        gpu.fail["cudaStreamBeginCapture"] = gpu.fail.pop(function)
        gpu.fail[function] = gpu.fail["cudaStreamBeginCapture"]
    backend = opened(trt, plan)
    assert gpu.error == 0, "a later launch would be blamed for it"
    x_BHW = rng.random((3 * SLICE, SIDE, SIDE), np.float32)
    np.testing.assert_allclose(backend.run(x_BHW), tiny_model.twin(x_BHW), atol=1e-5)


def test_close_gives_everything_back(trt, gpu, plan):
    backend = opened(trt, plan)
    backend.buffer((SLICE, SIDE, SIDE))[:] = 1
    assert gpu.memory
    assert gpu.held
    assert gpu.locked
    backend.close()
    assert (gpu.memory, gpu.held, gpu.locked, gpu.faults) == ({}, set(), {}, [])
    backend.close()


def test_memory_stays_what_it_was(trt, gpu, plan):
    backend = opened(trt, plan)
    before = set(gpu.memory), set(gpu.held), set(gpu.locked)
    for _ in range(20):
        backend.run(np.zeros((300, SIDE, SIDE), np.float32))
    assert (set(gpu.memory), set(gpu.held), set(gpu.locked)) == before


def needed(size):
    """The GPU's memory for two lanes of `size` cutouts: x, prob, encoding and scratch."""
    return LANES * size * (X_BYTES + 2 * 12 + SCRATCH)


@pytest.mark.parametrize("fits", [128, 64, 16, 1])
def test_a_batch_that_does_not_fit_is_halved(trt, gpu, plan, rng, fits):
    gpu.capacity = needed(fits) + 100
    backend = opened(trt, plan, why="because")
    assert (backend.size, backend.batch_size) == (fits, 4 * fits)
    words = f"(because; 128 at once do not fit the GPU's memory, {fits} do)"
    assert (words in backend.label) == (fits < 128)
    x_BHW = rng.random((50, SIDE, SIDE), np.float32)
    np.testing.assert_allclose(backend.run(x_BHW), tiny_model.twin(x_BHW), atol=1e-5)
    assert sum(map(len, gpu.memory.values())) == needed(fits), "what was tried first is still held"


def test_a_batch_size_that_was_asked_for_is_not_changed(trt, gpu, plan):
    gpu.capacity = needed(30)
    with pytest.raises(OutOfMemoryError, match=r"40 cutouts at once .* try --batch-size 20 "):
        opened(trt, plan, batch_size=40)
    assert not gpu.memory
    assert opened(trt, plan, batch_size=30).batch_size == 30


def test_a_gpu_without_room_for_one_cutout(trt, gpu, plan):
    gpu.capacity = 500
    with pytest.raises(OutOfMemoryError, match=r"1 cutouts at once .* a GPU with more"):
        opened(trt, plan)


def test_what_the_inspector_says(trt, plan):
    trt.information = {"Layers": ["conv1"]}
    assert opened(trt, plan).inspect() == '{"Layers": ["conv1"]}'


def test_a_backend_has_what_is_asked_of_it(trt, plan):
    backend = opened(trt, plan, precision="float16", gpu="Fake 1", why="as asked")
    assert isinstance(backend, TensorRtBackend)
    assert (backend.device, backend.precision, backend.batch_size) == ("tensorrt", "float16", 512)
    version = trt.__version__
    assert backend.label == f"TensorRT {version} on Fake 1, float16, batches of 512 (as asked)"
