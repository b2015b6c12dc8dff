"""The TensorRT runner, on strict fakes of TensorRT and of CUDA's runtime."""

import inspect

import fake_cuda
import fake_tensorrt
import numpy as np
import pytest
import tiny_model
from planted import planted

from stronglens.engine.backends import cuda as cuda_module
from stronglens.engine.backends import tensorrt, tensorrt_lane
from stronglens.engine.backends.cuda import Cuda, OutOfMemoryError, load_cuda
from stronglens.engine.backends.tensorrt import LANES, TensorRtBackend
from stronglens.engine.backends.tensorrt_build import SLICE, build_plan
from stronglens.engine.errors import BackendError
from stronglens.engine.machine import count_gpus

SIDE = tiny_model.SIZE
X_BYTES = 4 * SIDE * SIDE
"""of one cutout"""


@pytest.fixture
def gpu():
    gpu = fake_cuda.FakeCuda()
    yield gpu
    for stream in gpu.streams.values():  # what a planted mistake left
        stream.work.clear()


@pytest.fixture(params=fake_tensorrt.VERSIONS)
def trt(request, gpu):
    return fake_tensorrt.load(request.param, gpu)


@pytest.fixture
def plan(trt):
    return build_plan(trt, tiny_model.graph()).plan


def opened(trt, plan, module=tensorrt, **options):
    return module.TensorRtBackend(trt, Cuda(trt.gpu), plan, **options)


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
    return LANES * size * (X_BYTES + 2 * 12 + fake_tensorrt.SCRATCH)


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


@pytest.mark.parametrize(
    ("call", "returned", "words"),
    [
        ("Runtime.deserialize_cuda_engine", None, "refuses the plan, of another version or GPU"),
        ("ICudaEngine.create_execution_context", None, "cannot run the plan"),
        ("IExecutionContext.set_input_shape", False, "refuses 128 cutouts at once"),
        ("IExecutionContext.set_tensor_address", False, "refuses the memory for x"),
        ("IExecutionContext.execute_async_v3", False, "could not start"),
    ],
)
def test_what_tensorrt_refuses_is_an_error_in_its_words(trt, gpu, plan, call, returned, words):
    trt.fail = {call: (returned, "Error Code 7: the reason")}
    with pytest.raises(BackendError, match=f"TensorRT {words}: Error Code 7: the reason"):
        opened(trt, plan)
    assert (gpu.memory, gpu.held) == ({}, set())


def test_shapes_that_stay_unknown(trt, gpu, plan):
    trt.fail = {"IExecutionContext.infer_shapes": (["prob"], "")}
    with pytest.raises(BackendError, match="shapes are unknown: prob"):
        opened(trt, plan)


@pytest.mark.parametrize("which", ["version", "GPU", "file"])
def test_a_plan_of_another_place_is_refused(trt, gpu, plan, which):
    if which == "version":
        trt.__version__ += "0"
    elif which == "GPU":
        gpu.name = "Fake 2"
    else:
        plan = plan[100:]
    with pytest.raises(
        BackendError, match=r"of another version or GPU: (The engine|Serialization)"
    ):
        opened(trt, plan)


def test_memory_that_runs_out_inside_tensorrt(trt, plan):
    trt.fail = {"Runtime.deserialize_cuda_engine": (None, "Cuda Runtime (out of memory)")}
    with pytest.raises(OutOfMemoryError, match="out of memory"):
        opened(trt, plan)


@pytest.mark.parametrize(
    "function", ["cudaMemcpyAsync", "cudaGraphLaunch", "cudaEventRecord", "cudaEventSynchronize"]
)
def test_a_gpu_that_falls_off_the_bus(trt, gpu, plan, function):
    backend = opened(trt, plan)
    gpu.fail[function] = fake_cuda.cudaError_t.cudaErrorECCUncorrectable
    with pytest.raises(BackendError) as caught:
        backend.run(np.zeros((4 * SLICE, SIDE, SIDE), np.float32))
    assert str(caught.value).startswith(f"{function} failed: words on cudaErrorECCUncorrectable")
    assert "run the command again" in str(caught.value)
    assert gpu.idle, "it may still read the caller's memory"
    every = [name for name in vars(fake_cuda.FakeCuda) if not name.startswith("cudaGet")]
    gpu.fail = dict.fromkeys(every, gpu.fail[function])
    backend.close()


def test_an_old_driver_says_what_to_do(gpu):
    gpu.fail["cudaSetDevice"] = fake_cuda.cudaError_t.cudaErrorInsufficientDriver
    with pytest.raises(BackendError, match=r"cudaSetDevice failed: .*: update the NVIDIA driver"):
        Cuda(gpu).cudaSetDevice(0)
    assert gpu.error == 0


def test_cutouts_of_another_size_or_type_are_refused(trt, plan):
    backend = opened(trt, plan)
    for wrong in (np.zeros((2, 5, 5), np.float32), np.zeros((2, SIDE, SIDE))):
        with pytest.raises(BackendError, match=r"the model takes float32 \(B, \*\(12, 12\)\)"):
            backend.run(wrong)


def test_what_the_inspector_says(trt, plan):
    trt.information = {"Layers": ["conv1"]}
    assert opened(trt, plan).inspect() == '{"Layers": ["conv1"]}'


MISTAKES = {
    "a result that is read too early": ("self._cuda.cudaEventSynchronize(self._done)", "pass"),
    "an event that nothing is before": ("cuda.cudaEventRecord(self._done, self._stream)", "pass"),
    "the default stream": (
        "elif not self._context.execute_async_v3(int(self._stream))",
        "elif not self._context.execute_async_v3(0)",
    ),
    "a graph of nothing": ("execute_async_v3(int(self._stream))\n", "infer_shapes() == []\n"),
    "no scratch memory": ("context.set_device_memory(self._allocate(scratch), scratch)", "pass"),
    "too little memory": ("4 * math.prod(shape)", "2 * math.prod(shape)"),
    "rows that hold anything": ("cuda.cudaMemsetAsync(", "max("),
    "memory of TensorRT's choice": ("USER_MANAGED", "STATIC"),
    "a stream as an object": (
        "elif not self._context.execute_async_v3(int(self._stream))",
        "elif not self._context.execute_async_v3(self._stream)",
    ),
    "a copy the wrong way": ("to.cudaMemcpyHostToDevice", "to.cudaMemcpyDeviceToHost"),
    "the wrong rows": ("self._busy = x_SHW, start ", "self._busy = x_SHW, 0 "),
    "memory that is not given back": ("self._held.close()", "pass"),
    "memory the driver must copy first": ("pinned.array((size", "np.zeros((size"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_caught(trt, gpu, plan, rng, mistake):
    made = planted(tensorrt_lane, *MISTAKES[mistake])
    made_backend = planted(tensorrt, "LANES = 2\n", "LANES = 2\n")
    made_backend.Lane = made.Lane
    if "execute_async_v3(" in MISTAKES[mistake][0] and "elif" in MISTAKES[mistake][0]:
        gpu.fail["cudaStreamBeginCapture"] = fake_cuda.cudaError_t.cudaErrorInvalidValue
    x_BHW = rng.random((3 * SLICE + 5, SIDE, SIDE), np.float32)

    def use():
        backend = opened(trt, plan, made_backend)
        np.testing.assert_allclose(backend.run(x_BHW), tiny_model.twin(x_BHW), atol=1e-5)
        backend.close()
        assert not gpu.memory

    with pytest.raises((AssertionError, AttributeError, TypeError, BackendError, KeyError)):
        use()


def functions_of(module):
    return [name for name in vars(module) if name.startswith("cuda") and name[4].isupper()]


def test_the_fake_takes_what_the_real_one_takes():
    runtime = pytest.importorskip("cuda.bindings.runtime")
    for name in functions_of(fake_cuda.FakeCuda):
        ours, theirs = getattr(fake_cuda.FakeCuda, name), getattr(runtime, name)
        if isinstance(ours, int):
            assert ours == int(theirs), name
        elif isinstance(ours, type):
            assert {m.name: m.value for m in ours} == {
                m.name: int(getattr(theirs, m.name)) for m in ours
            }, name
        else:
            mine = list(inspect.signature(ours).parameters)[1:]
            assert mine == list(inspect.signature(theirs).parameters), name


@pytest.mark.skipif(count_gpus() > 0, reason="there is a GPU, which would take them seriously")
def test_the_real_runtime_takes_our_arguments(trt, gpu, plan):
    """Without a driver every call fails, after its arguments were read."""
    runtime = pytest.importorskip("cuda.bindings.runtime")
    backend = opened(trt, plan)
    backend.run(np.zeros((1, SIDE, SIDE), np.float32))
    backend.close()
    kinds = {
        fake_cuda.Stream: lambda _: runtime.cudaStream_t(),
        fake_cuda.Event: lambda _: runtime.cudaEvent_t(),
        fake_cuda.cudaMemcpyKind: lambda v: runtime.cudaMemcpyKind(int(v)),
        fake_cuda.cudaStreamCaptureMode: lambda v: runtime.cudaStreamCaptureMode(int(v)),
        int: lambda v: v,
    }
    tried = set()
    for name, args in gpu.calls:
        if name in tried or "Graph" in name:  # a graph is None without a driver
            continue
        tried.add(name)
        status, *values = getattr(runtime, name)(*(kinds[type(arg)](arg) for arg in args))
        assert status != runtime.cudaError_t.cudaSuccess
        assert len(values) == len(fake_cuda.RETURNS.get(name, ())), name
    assert len(tried) > 12


@pytest.mark.skipif(count_gpus() > 0, reason="there is a GPU")
def test_the_real_runtime_without_a_driver_says_what_to_do():
    pytest.importorskip("cuda.bindings.runtime")
    with pytest.raises(BackendError, match="driver"):
        load_cuda()


def test_without_cuda_python(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(BackendError, match=r"pip install 'stronglens\[tensorrt\]'"):
        cuda_module.load_cuda()


def test_a_backend_has_what_is_asked_of_it(trt, plan):
    backend = opened(trt, plan, precision="float16", gpu="Fake 1", why="as asked")
    assert isinstance(backend, TensorRtBackend)
    assert (backend.device, backend.precision, backend.batch_size) == ("tensorrt", "float16", 512)
    version = trt.__version__
    assert backend.label == f"TensorRT {version} on Fake 1, float16, batches of 512 (as asked)"
