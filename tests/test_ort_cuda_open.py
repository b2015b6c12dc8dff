"""ONNX Runtime is opened on a fake GPU: what is chosen, what fits, what is said where it fails."""

import csv
import io
import threading

import fake_ort
import numpy as np
import onnxruntime
import pytest
import tiny_model
from fake_machine import open_cuda
from tiny_model import X_BYTES

from stronglens.engine.backends import open_backend, ort
from stronglens.engine.backends.ort import CUDA_OPTIONS, SLICES
from stronglens.engine.config import EngineConfig
from stronglens.engine.errors import BackendError
from stronglens.engine.pipeline import classify

pytest_plugins = ["gpu_fixtures"]

SLICE = SLICES["cuda"]
SIDE = tiny_model.SIZE
BATCH = 4 * SLICE


def test_the_options_of_cuda(ort_gpu, bundle):
    backend = open_backend(bundle, device="cuda")
    assert (backend.device, backend.precision, backend.batch_size) == ("cuda", "float16", BATCH)
    assert backend.label == (
        "ONNX Runtime on cuda (Fake 0), float16, batches of 256 (it passed the parity check)"
    )
    open_backend(bundle, device="cuda", precision="float32", batch_size=10)
    assert ort_gpu.sessions == [(SLICE, CUDA_OPTIONS), (10, CUDA_OPTIONS)]
    assert CUDA_OPTIONS["use_tf32"] == "0"


def test_auto_takes_the_gpu_unless_the_precision_is_the_cpus(ort_gpu, bundle):
    assert open_backend(bundle).device == "cuda"
    assert open_backend(bundle, precision="float32").device == "cuda"
    with pytest.raises(BackendError, match="int8 does not run on cuda with ONNX Runtime"):
        open_backend(bundle, device="cuda", precision="int8")


# A cutout takes 2,800 bytes while it is computed and 576 from the start, in each of two lanes.
@pytest.mark.parametrize(("kilobytes", "fits"), [(700, 64), (400, 32), (200, 16), (7, 1)])
def test_a_batch_that_does_not_fit_is_halved(monkeypatch, bundle, rng, kilobytes, fits):
    gpu = fake_ort.FakeGpu(kilobytes * 1000, bytes_per_cutout=2_800).install(monkeypatch)
    gpu.meeting = threading.Barrier(2)  # each needs memory at once
    backend = open_cuda(bundle, why="because")
    gpu.meeting = None
    assert backend.batch_size == 4 * fits
    words = f"(because; 64 at once do not fit the GPU's memory, {fits} do)"
    assert (words in backend.label) == (fits < 64)
    x_BHW = rng.random((50, SIDE, SIDE), np.float32)
    np.testing.assert_allclose(backend.run(x_BHW), tiny_model.twin(x_BHW), atol=1e-5)
    assert gpu.used == 2 * fits * X_BYTES, "what was tried before is still held"


def test_a_batch_size_that_was_asked_for_is_not_changed(monkeypatch, bundle):
    fake_ort.FakeGpu(100_000, bytes_per_cutout=2_800).install(monkeypatch)
    words = (
        r"failed: 40 cutouts at once do not fit the memory of cuda, try --batch-size 20 \(Failed"
    )
    with pytest.raises(BackendError, match=words):
        open_cuda(bundle, batch_size=40)


def test_a_gpu_without_room_for_one_cutout(monkeypatch, bundle):
    fake_ort.FakeGpu(500).install(monkeypatch)
    with pytest.raises(BackendError, match=r"no memory: 1 cutouts at once .* a device with more"):
        open_cuda(bundle)


def test_memory_that_runs_out_later(ort_gpu, bundle):
    backend = open_cuda(bundle)
    ort_gpu.bytes_per_cutout = ort_gpu.capacity
    with pytest.raises(BackendError, match="try --batch-size 32"):
        backend.run(np.zeros((BATCH, SIDE, SIDE), np.float32))


def raising(message):
    def session(*args, **kwargs):
        raise RuntimeError(message)

    return session


TOO_OLD = (
    "/onnxruntime_src/cuda_call.cc:154 std::conditional_t<THRW, void> onnxruntime::CudaCall(…) "
    "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=-1 ; "
    "hostname=there ; file=cuda_execution_provider.cc ; line=361 ; expr=cudaSetDevice(id);"
)


def test_what_cuda_says_is_said_once_and_with_a_remedy(ort_gpu, bundle, monkeypatch, capfd):
    monkeypatch.setattr(onnxruntime, "InferenceSession", raising(TOO_OLD))
    with pytest.raises(BackendError) as caught:
        open_backend(bundle, device="cuda")
    assert str(caught.value).endswith(
        "model.fp16.onnx: CUDA failure 35: CUDA driver version is insufficient for CUDA runtime "
        "version: update the NVIDIA driver, or use --device cpu"
    )
    fallen_back = open_backend(bundle)
    assert fallen_back.device == "cpu"
    assert "there is a GPU, but ONNX Runtime cannot load" in fallen_back.label
    assert capfd.readouterr() == ("", "")


def test_a_session_that_goes_on_on_the_cpu_is_refused(ort_gpu, bundle, monkeypatch):
    class OnlyTheCpu(onnxruntime.InferenceSession):
        def get_providers(self):
            return [fake_ort.CPU]

    monkeypatch.setattr(onnxruntime, "InferenceSession", OnlyTheCpu)
    with pytest.raises(BackendError, match="could not load CUDA: it needs the CUDA 13 and cuDNN 9"):
        open_backend(bundle, device="cuda")
    assert open_backend(bundle).device == "cpu"


def test_the_library_that_is_missing_is_named(tmp_path, monkeypatch):
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "libonnxruntime_providers_cuda.so").write_bytes(b"no library")
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "__init__.py"))
    assert "libonnxruntime_providers_cuda.so" in ort._missing_library()


def test_a_runtime_without_cuda_and_a_machine_without_a_gpu(ort_gpu, bundle, monkeypatch):
    ort_gpu.install(monkeypatch, gpus=0)
    with pytest.raises(BackendError, match=r"no NVIDIA GPU.*--device cpu"):
        open_backend(bundle, device="cuda")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [fake_ort.CPU])
    with pytest.raises(BackendError, match=r"built for the CPU only.*onnxruntime-gpu"):
        open_backend(bundle, device="cuda")
    assert open_backend(bundle).device == "cpu"


@pytest.mark.parametrize("spoil", [lambda prob: prob[:, ::-1], lambda prob: prob * np.nan])
def test_a_gpu_that_answers_wrongly_stops_the_run_before_any_row(
    ort_gpu, bundle, tmp_path, rng, spoil
):
    for i in range(5):
        np.save(tmp_path / f"{i}.npy", rng.random((SIDE, SIDE)))
    out = tmp_path / "out" / "preds.csv"
    out.parent.mkdir()
    out.write_text("of an earlier run")
    ort_gpu.spoil = spoil
    said = io.StringIO()
    with pytest.raises(BackendError, match=r"probabilities are off by .* choose another"):
        classify([tmp_path / "*.npy"], model=bundle.path, out=out, stderr=said)
    assert [file.read_text() for file in out.parent.iterdir()] == ["of an earlier run"]
    assert said.getvalue() == ""
    ort_gpu.spoil = None
    config = EngineConfig(device="cuda")
    report = classify([tmp_path / "*.npy"], model=bundle.path, out=out, config=config, stderr=said)
    assert "ONNX Runtime on cuda (Fake 0), float16" in report.label
    with out.open(newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["ok"] * 5
