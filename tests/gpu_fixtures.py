"""Fixtures of the tests on fake GPUs, which name this module in their `pytest_plugins`."""

import fake_cuda
import fake_ort
import fake_tensorrt
import pytest
import tiny_model
from fake_machine import PARITY, Machine

from stronglens.engine.backends.tensorrt_build import build_plan


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


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_model.make_bundle(
        tmp_path_factory.mktemp("bundles") / "tiny",
        parity=PARITY,
        files={"model.fp16.onnx": tiny_model.graph(), "model.int8.onnx": tiny_model.graph()},
    )


@pytest.fixture(params=fake_tensorrt.VERSIONS)
def machine(request, monkeypatch, cache):
    return Machine(monkeypatch, request.param)


@pytest.fixture
def one(monkeypatch, cache):
    return Machine(monkeypatch)


@pytest.fixture
def cudart():
    return fake_ort.FakeCudart()


@pytest.fixture
def ort_gpu(monkeypatch, cudart):
    return fake_ort.FakeGpu().install(monkeypatch, cudart=cudart)
