"""Both runtimes against the net's twin; what is chosen, and what is refused."""

import sys

import numpy as np
import pytest
import tiny_model

from stronglens.engine import backends, machine
from stronglens.engine.backends import choose_cpu_precision, open_backend
from stronglens.engine.backends.openvino import SLICE, OpenVinoBackend, native_precisions
from stronglens.engine.backends.ort import OrtBackend
from stronglens.engine.errors import BackendError, BundleError, ConfigError
from stronglens.engine.machine import count_gpus, usable_cores


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_model.make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(
    params=["openvino", "openvino with streams", "ort", "ort with lanes"], scope="module"
)
def backend(request, bundle):
    graph = bundle.graph("float32")
    if request.param.startswith("ort"):
        return OrtBackend(
            graph, threads=1, batch_size=16, lanes=2 if "lanes" in request.param else 1
        )
    return OpenVinoBackend(graph, threads=2 if "streams" in request.param else 1)


@pytest.mark.parametrize("n", [1, 7, SLICE, SLICE + 1, 31, 50, 100])
def test_probabilities_are_those_of_the_twin(backend, rng, n):
    x_BHW = rng.random((n, tiny_model.SIZE, tiny_model.SIZE), np.float32)
    prob_BK = backend.run(x_BHW)
    assert prob_BK.dtype == np.float32
    np.testing.assert_allclose(prob_BK, tiny_model.twin(x_BHW), atol=1e-5)


def test_a_row_does_not_depend_on_its_batch(backend, rng):
    x_BHW = rng.random((40, tiny_model.SIZE, tiny_model.SIZE), np.float32)
    whole_BK = backend.run(x_BHW)
    for start, n in ((0, 1), (1, 7), (8, 15), (23, 17)):
        part_BK = backend.run(x_BHW[start : start + n])
        np.testing.assert_array_equal(part_BK, whole_BK[start : start + n])


def test_the_caller_owns_the_result_and_the_input(backend, rng):
    x_BHW = backend.buffer((20, tiny_model.SIZE, tiny_model.SIZE))
    x_BHW[:] = rng.random(x_BHW.shape)
    before_BHW = x_BHW.copy()
    first_BK = backend.run(x_BHW)
    kept_BK = first_BK.copy()
    np.testing.assert_array_equal(x_BHW, before_BHW)
    x_BHW[:] = 0
    backend.run(x_BHW)
    np.testing.assert_array_equal(first_BK, kept_BK)


def test_cutouts_of_another_size_are_refused(backend):
    with pytest.raises(BackendError):
        backend.run(np.zeros((2, 5, 5), np.float32))


def test_closing_twice(bundle):
    for made in (OpenVinoBackend(bundle.graph("float32")), OrtBackend(bundle.graph("float32"))):
        made.close()
        made.close()


@pytest.mark.parametrize("runtime", [OpenVinoBackend, OrtBackend])
def test_a_damaged_graph_is_an_error(tmp_path, runtime):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(BackendError, match="cannot load"):
        runtime(path)


def test_every_option_changes_something(bundle):
    made = open_backend(bundle, device="cpu", precision="float32", threads=1, batch_size=5)
    assert (made.batch_size, made.device, made.precision) == (5, "cpu", "float32")
    assert "1 thread, batches of 5" in made.label
    auto = open_backend(bundle, device="cpu")
    assert auto.batch_size >= 32
    assert f"{usable_cores()} thread" in auto.label


VNNI, BFLOAT16 = {"avx2", "avx512_vnni"}, {"float32", "bfloat16", "int8"}


@pytest.mark.parametrize(
    ("native", "passed", "flags", "chosen", "why"),
    [
        ({"float32"}, {"float32", "bfloat16"}, VNNI, "float32", "no bfloat16 arithmetic"),
        (BFLOAT16, {"float32"}, VNNI, "float32", "not passed the export"),
        (BFLOAT16, {"float32", "bfloat16"}, VNNI, "bfloat16", "passed"),
        (BFLOAT16, {"float32", "bfloat16", "int8"}, VNNI, "int8", "has instructions for it"),
        (BFLOAT16, {"float32", "bfloat16", "int8"}, set(), "bfloat16", "passed"),
        (BFLOAT16, {"float32", "int8"}, {"avx2"}, "float32", "not passed the export"),
        ({"float32", "float16", "int8"}, {"float16"}, VNNI, "float32", "no bfloat16"),
    ],
)
def test_the_precision_of_a_cpu(native, passed, flags, chosen, why):
    precision, reason = choose_cpu_precision(native, passed, flags)
    assert precision == chosen
    assert why in reason


def test_the_precisions_of_this_cpu():
    native = native_precisions()
    assert "float32" in native
    assert native <= {"float32", "bfloat16", "float16", "int8"}


@pytest.mark.skipif("bfloat16" not in native_precisions(), reason="this CPU has no bfloat16")
def test_bfloat16_is_used_where_it_is_chosen_and_only_there(bundle, rng, tmp_path):
    x_BHW = rng.random((64, tiny_model.SIZE, tiny_model.SIZE), np.float32)
    expected_BK = tiny_model.twin(x_BHW)
    parity = {"float32": {"max_abs_dp": 1e-6}, "bfloat16": {"max_abs_dp": 1e-2}}
    checked = tiny_model.make_bundle(tmp_path / "checked", parity=parity)
    found = {
        "asked": open_backend(bundle, device="cpu", precision="bfloat16"),
        "auto": open_backend(checked, device="cpu"),
        "float32": open_backend(checked, device="cpu", precision="float32"),
    }
    off = {name: np.abs(made.run(x_BHW) - expected_BK).max() for name, made in found.items()}
    assert off["float32"] < 1e-5 < off["auto"] < 0.05
    assert off["asked"] == off["auto"]


def test_what_this_cpu_lacks_is_refused(bundle, monkeypatch):
    monkeypatch.setattr(
        "stronglens.engine.backends.openvino.native_precisions", lambda: {"float32", "int8"}
    )
    for precision in ("bfloat16", "float16"):
        with pytest.raises(BackendError, match=f"this CPU does not compute in {precision}"):
            open_backend(bundle, device="cpu", precision=precision)
    with pytest.raises(BundleError, match="has no int8 graph"):
        open_backend(bundle, device="cpu", precision="int8")


def test_two_hardware_threads_are_one_core(tmp_path, monkeypatch):
    for cpu in range(4):
        (tmp_path / str(cpu)).write_text(f"{cpu % 2},{cpu % 2 + 2}\n")
    monkeypatch.setattr(machine, "TOPOLOGY", f"{tmp_path}/{{}}")
    monkeypatch.setattr(machine, "_container_cores", lambda: 0)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3, 9})
    assert usable_cores() == 3
    monkeypatch.setattr(machine, "_container_cores", lambda: 2)
    assert usable_cores() == 2


def test_unknown_names_are_refused(bundle):
    with pytest.raises(ConfigError, match="device 'tpu': choose auto, cpu, cuda"):
        open_backend(bundle, device="tpu")
    with pytest.raises(ConfigError, match="precision 'fp16': choose"):
        open_backend(bundle, precision="fp16")


@pytest.mark.skipif(count_gpus() > 0, reason="there is a GPU")
def test_cuda_asked_for_by_name_is_an_error_without_a_gpu(bundle):
    with pytest.raises(BackendError, match=r"no NVIDIA GPU|built for the CPU only"):
        open_backend(bundle, device="cuda")


def test_a_gpu_that_cannot_be_used(bundle, monkeypatch):
    """A driver that counts a GPU, and a runtime that goes on silently on the CPU."""
    monkeypatch.setattr(backends, "count_gpus", lambda: 1)
    monkeypatch.setattr("stronglens.engine.backends.ort.count_gpus", lambda: 1)
    ort = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(
        ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)

    class OnlyTheCpu:
        def __init__(self, *args, **kwargs): ...
        def get_providers(self):
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(ort, "InferenceSession", OnlyTheCpu)
    with pytest.raises(BackendError, match="could not load CUDA"):
        open_backend(bundle, device="cuda")
    fallen_back = open_backend(bundle)
    assert fallen_back.device == "cpu"
    assert "there is a GPU, but ONNX Runtime found the GPU" in fallen_back.label


def test_without_openvino_onnx_runtime_takes_over(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    made = open_backend(bundle, device="cpu")
    assert made.label.startswith("ONNX Runtime on cpu, float32")
    assert "OpenVINO, which is faster, is not installed" in made.label
    with pytest.raises(BackendError, match="pip install openvino"):
        open_backend(bundle, device="cpu", precision="bfloat16")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match="no runtime is installed: pip install openvino"):
        open_backend(bundle, device="cpu")
