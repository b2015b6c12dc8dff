"""From a bundle to a TensorRT backend: what is built, kept, used again and refused."""

import io
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_model
from fake_machine import PARITY

from stronglens.engine.backends import open_backend, tensorrt_open
from stronglens.engine.backends.tensorrt_open import load_tensorrt
from stronglens.engine.config import EngineConfig
from stronglens.engine.errors import BackendError, BundleError
from stronglens.engine.golden import replay
from stronglens.engine.pipeline import classify

pytest_plugins = ["gpu_fixtures"]


def test_the_first_run_builds_checks_and_keeps_and_the_next_does_not(machine, bundle, cache, rng):
    x_BHW = rng.random((300, tiny_model.SIZE, tiny_model.SIZE), np.float32)
    backend = machine.open(bundle)
    replay(bundle, backend)
    np.testing.assert_allclose(backend.run(x_BHW), tiny_model.twin(x_BHW), atol=1e-5)
    building, built = machine.said
    assert building == (
        "building the TensorRT plan for float16 on Fake 1: takes minutes, "
        "once for this GPU, model and TensorRT"
    )
    assert re.match(r"built and checked in \d+ s \(max \|Δp\| ", built)
    assert built.endswith(f"convolutions: 2 in half, 1 in float32); kept in {cache}")
    assert machine.builds == 1
    backend.close()
    again = machine.open(bundle)
    np.testing.assert_allclose(again.run(x_BHW), tiny_model.twin(x_BHW), atol=1e-5)
    assert (machine.builds, machine.said) == (0, [])
    assert again.label == backend.label
    assert "float16, batches of 512 (it passed the parity check)" in again.label


def test_another_gpu_tensorrt_precision_or_graph_is_another_plan(one, bundle, tmp_path):
    one.open(bundle).close()
    for precision in ("float32", "int8"):
        one.open(bundle, precision=precision).close()
        assert one.builds == 1
    one.gpu.name = "Fake 2"
    one.open(bundle).close()
    assert one.builds == 1
    one.trt.__version__ = "11.4.1"
    one.open(bundle).close()
    assert one.builds == 1
    other = tiny_model.make_bundle(
        tmp_path / "other",
        parity=PARITY,
        files={"model.fp16.onnx": tiny_model.graph(nan_above=9)},
    )
    one.open(other).close()
    assert one.builds == 1
    one.open(bundle).close()
    assert one.builds == 0


def test_what_was_measured_makes_the_next_build_short(one, bundle):
    for precision, given in (("float16", b""), ("float32", b"measured")):
        one.open(bundle, precision=precision).close()
        assert ("IBuilderConfig.create_timing_cache", (given,)) in one.trt.log


def test_a_plan_that_does_not_load_is_built_again(one, bundle):
    one.open(bundle).close()
    whole = one.trt.Runtime.deserialize_cuda_engine
    calls = []

    def once(self, plan):
        calls.append(plan)
        return self._say("no such kernel") if len(calls) == 1 else whole(self, plan)

    one.trt.Runtime.deserialize_cuda_engine = once
    one.open(bundle).close()
    assert one.builds == 1
    assert one.said[0].startswith("the plan that was kept does not load: TensorRT refuses the plan")
    assert one.said[0].endswith("no such kernel")


def test_a_damaged_plan_is_built_again(one, bundle, cache):
    one.open(bundle).close()
    for file in cache.glob("plan-*"):
        file.write_bytes(file.read_bytes()[:-1])
    one.open(bundle).close()
    assert one.builds == 1


def test_a_cache_that_is_open_to_others_stops_the_run(one, bundle, cache):
    one.open(bundle).close()
    cache.chmod(0o777)
    with pytest.raises(BackendError, match="open to others"):
        one.open(bundle)


def test_without_a_cache_it_runs_and_says_so(one, bundle, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    one.open(bundle).close()
    assert "could not be kept, the next run will build it again" in one.said[-1]


def test_a_gpu_too_small_for_the_usual_batch(one, bundle):
    one.gpu.largest_build = 40
    backend = one.open(bundle)
    assert (backend.size, one.builds) == (32, 3)
    assert "OutOfMemory" in one.said[1]
    assert "trying half of 128 cutouts at once" in one.said[1]
    backend.close()
    assert one.open(bundle).size == 32
    assert one.builds == 0
    one.gpu.largest_build = 0
    with pytest.raises(BackendError, match="OutOfMemory"):
        one.open(bundle, precision="float32")


def test_a_batch_size_that_was_asked_for(one, bundle):
    backend = one.open(bundle, batch_size=20)
    assert (backend.size, backend.batch_size) == (20, 20)
    backend.close()
    assert one.open(bundle, batch_size=1000).size == 128
    assert one.builds == 0, "the plan does not depend on it"


def test_the_precision(one, bundle, tmp_path):
    plain = tiny_model.make_bundle(tmp_path / "plain")
    backend = one.open(plain)
    assert backend.precision == "float32"
    assert "(the bundle has no float16 that passed)" in backend.label
    with pytest.raises(BundleError, match="has no float16 graph"):
        one.open(plain, precision="float16")
    with pytest.raises(BackendError, match="bfloat16 does not run on tensorrt: choose float32, "):
        one.open(plain, precision="bfloat16")


def test_a_catalogue_with_device_tensorrt(one, bundle, tmp_path, rng):
    for i in range(5):
        np.save(tmp_path / f"{i}.npy", rng.random((tiny_model.SIZE, tiny_model.SIZE)))
    config = EngineConfig(device="tensorrt", precision="float32")
    options = {"model": bundle.path, "config": config, "out": tmp_path / "preds.csv"}
    said = io.StringIO()
    report = classify([tmp_path / "*.npy"], stderr=said, **options)
    building, built, chosen = said.getvalue().splitlines()
    assert building.startswith("building the TensorRT plan for float32 on Fake 1: takes minutes")
    assert built.startswith("built and checked in ")
    assert chosen.startswith(report.label)
    assert report.label.startswith("TensorRT 11.4.0.106 on Fake 1, float32, batches of 512")
    assert report.ok == 5
    assert (one.gpu.memory, one.gpu.held, one.gpu.locked) == ({}, set(), {})
    said = io.StringIO()
    classify([tmp_path / "*.npy"], stderr=said, **options)
    assert said.getvalue().startswith(report.label)


def test_auto_does_not_compile_for_minutes(one, bundle):
    assert open_backend(bundle, device="auto").device != "tensorrt"


def test_what_is_missing_is_named(one, bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(BackendError, match=r"needs cuda-python: pip install 'stronglens\[tens"):
        one.open(bundle)
    monkeypatch.setattr(tensorrt_open, "count_gpus", lambda: 0)
    with pytest.raises(BackendError, match=r"no NVIDIA GPU.*--device cpu"):
        one.open(bundle)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendError, match=r"tensorrt is not installed: pip install 'stronglens\["):
        one.open(bundle)


@pytest.mark.parametrize("version", ["10.12.0.36", "8.6.1", "12.0.0"])
def test_a_tensorrt_that_was_never_tried_is_refused(monkeypatch, version):
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__=version))
    with pytest.raises(BackendError, match=f"tensorrt {version} is installed, needed is 10.13"):
        load_tensorrt()


def test_a_tensorrt_whose_libraries_are_missing(monkeypatch, tmp_path):
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.11: not found')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(BackendError, match=r"does not load \(libnvinfer.so.11"):
        load_tensorrt()
