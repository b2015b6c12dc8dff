"""What TensorRT or the GPU refuses is an error with a reason; a mistake in the runner is caught."""

import sys

import fake_cuda
import numpy as np
import pytest
import tiny_model
from fake_machine import opened
from planted import planted

from stronglens.engine.backends import cuda as cuda_module
from stronglens.engine.backends import tensorrt, tensorrt_lane
from stronglens.engine.backends.cuda import Cuda, OutOfMemoryError
from stronglens.engine.backends.tensorrt_build import SLICE
from stronglens.engine.errors import BackendError

pytest_plugins = ["gpu_fixtures"]

SIDE = tiny_model.SIZE


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


def test_without_cuda_python(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(BackendError, match=r"pip install 'stronglens\[tensorrt\]'"):
        cuda_module.load_cuda()
