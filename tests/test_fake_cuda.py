"""The fake of CUDA's runtime takes what the real one takes."""

import inspect

import fake_cuda
import numpy as np
import pytest
import tiny_model
from fake_machine import opened

from stronglens.engine.backends.cuda import load_cuda
from stronglens.engine.errors import BackendError
from stronglens.engine.machine import count_gpus

pytest_plugins = ["gpu_fixtures"]

SIDE = tiny_model.SIZE


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
