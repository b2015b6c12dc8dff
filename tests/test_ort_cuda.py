"""ONNX Runtime with CUDA, on a GPU that is a fake: what cannot be run here is checked strictly.

The names and values of the options are checked by the real CUDA provider, which needs a driver's
library to load, but no GPU to read its options.
"""

import csv
import gc
import inspect
import io
import json
import os
import shutil
import subprocess
import sys
import threading

import fake_ort
import numpy as np
import onnxruntime
import pytest
import tiny_model

from stronglens.engine.backends import open_backend, ort
from stronglens.engine.backends.ort import CUDA_OPTIONS, LANES, SLICES, OrtBackend
from stronglens.engine.backends.pinned import PinnedMemory, load_cudart
from stronglens.engine.config import EngineConfig
from stronglens.engine.errors import BackendError
from stronglens.engine.pipeline import classify

SLICE = SLICES["cuda"]
SIDE = tiny_model.SIZE
BATCH = 4 * SLICE
X_BYTES = 4 * SIDE * SIDE
"""of one cutout"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    parity = {"float32": {"max_abs_dp": 1e-6}, "float16": {"max_abs_dp": 1e-3}}
    return tiny_model.make_bundle(
        tmp_path_factory.mktemp("bundles") / "tiny",
        parity=parity,
        files={"model.fp16.onnx": tiny_model.graph()},
    )


@pytest.fixture
def cudart():
    return fake_ort.FakeCudart()


@pytest.fixture
def gpu(monkeypatch, cudart):
    return fake_ort.FakeGpu().install(monkeypatch, cudart=cudart)


def open_cuda(bundle, **options):
    return OrtBackend(bundle.graph("float32"), device="cuda", **options)


@pytest.mark.parametrize("n", [1, SLICE - 1, SLICE, SLICE + 1, 2 * SLICE, BATCH, BATCH + 7])
def test_probabilities_are_those_of_the_twin(gpu, bundle, rng, n):
    backend = open_cuda(bundle)
    x_BHW = rng.random((n, SIDE, SIDE), np.float32)
    prob_BK = backend.run(x_BHW)
    np.testing.assert_allclose(prob_BK, tiny_model.twin(x_BHW), atol=1e-5)
    assert set(gpu.slices) == {SLICE}, "one shape, or CUDA searches for kernels again"
    backend.run(rng.random(x_BHW.shape, np.float32))
    np.testing.assert_allclose(prob_BK, tiny_model.twin(x_BHW), atol=1e-5)


def test_a_row_does_not_depend_on_its_batch(gpu, bundle, rng):
    backend = open_cuda(bundle)
    x_BHW = rng.random((BATCH, SIDE, SIDE), np.float32)
    whole_BK = backend.run(x_BHW)
    for start, n in ((0, 1), (60, 15), (127, 80)):
        part_BK = backend.run(x_BHW[start : start + n])
        np.testing.assert_array_equal(part_BK, whole_BK[start : start + n])


def test_cutouts_go_from_pinned_memory_as_they_lie(gpu, cudart, bundle, rng):
    backend = open_cuda(bundle)
    ring = [backend.buffer((BATCH, SIDE, SIDE)) for _ in range(3)]
    for x_BHW in ring:
        x_BHW[:] = rng.random(x_BHW.shape, np.float32)
    gpu.sources.clear()
    for x_BHW in ring:
        backend.run(x_BHW)
    size = SLICE * X_BYTES
    expected = {(x_BHW.ctypes.data + k * size, size) for x_BHW in ring for k in range(4)}
    assert set(gpu.sources) == expected
    assert all(cudart.holds(*source) for source in gpu.sources)


def test_the_last_batch_is_filled_up_and_its_filling_dropped(gpu, bundle, rng):
    backend = open_cuda(bundle)
    x_BHW = backend.buffer((BATCH, SIDE, SIDE))
    x_BHW[:] = rng.random(x_BHW.shape, np.float32)
    gpu.sources.clear()
    prob_BK = backend.run(x_BHW[: SLICE + 3])
    whole, filled = sorted(gpu.sources, key=lambda each: each[0] != x_BHW.ctypes.data)
    assert whole == (x_BHW.ctypes.data, SLICE * X_BYTES)
    assert filled[1] == SLICE * X_BYTES
    assert filled[0] != x_BHW[SLICE].ctypes.data
    np.testing.assert_allclose(prob_BK, tiny_model.twin(x_BHW[: SLICE + 3]), atol=1e-5)


def test_cutouts_that_do_not_lie_side_by_side(gpu, bundle, rng):
    x_BHW = rng.random((2 * BATCH, SIDE, SIDE), np.float32)[::2]
    np.testing.assert_allclose(open_cuda(bundle).run(x_BHW), tiny_model.twin(x_BHW), atol=1e-5)


def test_two_inferences_are_in_flight_at_once(gpu, bundle, rng):
    gpu.meeting = threading.Barrier(LANES["cuda"])  # times out, were there but one
    x_BHW = rng.random((BATCH, SIDE, SIDE), np.float32)
    np.testing.assert_allclose(open_cuda(bundle).run(x_BHW), tiny_model.twin(x_BHW), atol=1e-5)


def test_close_frees_the_gpu_and_unlocks_what_may_still_be_read(gpu, cudart, bundle):
    backend = open_cuda(bundle)
    x_BHW = backend.buffer((BATCH, SIDE, SIDE))
    x_BHW[:] = 1
    assert gpu.used == LANES["cuda"] * SLICE * X_BYTES
    assert cudart.locked
    backend.close()
    assert (gpu.used, cudart.locked) == (0, {})
    assert x_BHW.sum() == x_BHW.size
    backend.close()


def test_pages_are_unlocked_where_nobody_closes(cudart):
    memory = PinnedMemory(cudart)
    memory.array((5, 7, 7))
    assert len(cudart.locked) == 1
    del memory
    gc.collect()
    assert cudart.locked == {}


def test_memory_that_cannot_be_locked_is_used_as_it_is(gpu, cudart, bundle, rng):
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


def test_the_options_of_cuda(gpu, bundle):
    backend = open_backend(bundle, device="cuda")
    assert (backend.device, backend.precision, backend.batch_size) == ("cuda", "float16", BATCH)
    assert backend.label == (
        "ONNX Runtime on cuda (Fake 0), float16, batches of 256 (it passed the parity check)"
    )
    open_backend(bundle, device="cuda", precision="float32", batch_size=10)
    assert gpu.sessions == [(SLICE, CUDA_OPTIONS), (10, CUDA_OPTIONS)]
    assert CUDA_OPTIONS["use_tf32"] == "0"


def test_auto_takes_the_gpu_unless_the_precision_is_the_cpus(gpu, bundle):
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


def test_memory_that_runs_out_later(gpu, bundle):
    backend = open_cuda(bundle)
    gpu.bytes_per_cutout = gpu.capacity
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


def test_what_cuda_says_is_said_once_and_with_a_remedy(gpu, bundle, monkeypatch, capfd):
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


def test_a_session_that_goes_on_on_the_cpu_is_refused(gpu, bundle, monkeypatch):
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


def test_a_runtime_without_cuda_and_a_machine_without_a_gpu(gpu, bundle, monkeypatch):
    gpu.install(monkeypatch, gpus=0)
    with pytest.raises(BackendError, match=r"no NVIDIA GPU.*--device cpu"):
        open_backend(bundle, device="cuda")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [fake_ort.CPU])
    with pytest.raises(BackendError, match=r"built for the CPU only.*onnxruntime-gpu"):
        open_backend(bundle, device="cuda")
    assert open_backend(bundle).device == "cpu"


@pytest.mark.parametrize("spoil", [lambda prob: prob[:, ::-1], lambda prob: prob * np.nan])
def test_a_gpu_that_answers_wrongly_stops_the_run_before_any_row(gpu, bundle, tmp_path, rng, spoil):
    for i in range(5):
        np.save(tmp_path / f"{i}.npy", rng.random((SIDE, SIDE)))
    out = tmp_path / "out" / "preds.csv"
    out.parent.mkdir()
    out.write_text("of an earlier run")
    gpu.spoil = spoil
    said = io.StringIO()
    with pytest.raises(BackendError, match=r"probabilities are off by .* choose another"):
        classify([tmp_path / "*.npy"], model=bundle.path, out=out, stderr=said)
    assert [file.read_text() for file in out.parent.iterdir()] == ["of an earlier run"]
    assert said.getvalue() == ""
    gpu.spoil = None
    config = EngineConfig(device="cuda")
    report = classify([tmp_path / "*.npy"], model=bundle.path, out=out, config=config, stderr=said)
    assert "ONNX Runtime on cuda (Fake 0), float16" in report.label
    with out.open(newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["ok"] * 5


@pytest.mark.parametrize(
    ("fake", "real"),
    [
        (fake_ort.FakeOrtValue, onnxruntime.OrtValue),
        (fake_ort.FakeBinding, onnxruntime.IOBinding),
        (fake_ort.FakeSession, onnxruntime.InferenceSession),
    ],
)
def test_the_fake_takes_what_the_real_one_takes(fake, real):
    names = [name for name in vars(fake) if not name.startswith("_")]
    for name in names + ["__init__"] * (fake is fake_ort.FakeSession):
        if not callable(getattr(fake, name)):
            continue
        ours, theirs = (inspect.signature(getattr(each, name)) for each in (fake, real))
        assert [*ours.parameters] == [*theirs.parameters], name
        for mine, its in zip(ours.parameters.values(), theirs.parameters.values(), strict=True):
            assert (mine.kind, mine.default) == (its.kind, its.default), (name, mine)


PROBE = """
import ctypes, json, sys
ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
import onnxruntime
onnxruntime.preload_dlls()
onnxruntime.set_default_logger_severity(4)
for options in json.loads(sys.argv[3]):
    try:
        providers = [("CUDAExecutionProvider", options), "CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(
            sys.argv[2], providers=providers, enable_fallback=False
        )
        print("cpu" if session.get_providers() == ["CPUExecutionProvider"] else "cuda")
    except RuntimeError as err:
        print(" ".join(str(err).split()))
"""


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler for a library without a driver")
@pytest.mark.skipif(sys.platform != "linux", reason="builds a library for Linux")
def test_the_real_cuda_provider_knows_our_options(bundle, tmp_path):
    """With a libcuda that does nothing it loads, reads its options, and then finds no driver."""
    source, library = tmp_path / "cuda.c", tmp_path / "libcuda.so.1"
    source.write_text("int cuInit(unsigned f) { return 100; } int cuTensorMapEncodeTiled;")
    command = ["cc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library, source]
    subprocess.run(command, check=True)
    # which GPU is the one option that asks the driver while it is read
    options = {name: value for name, value in CUDA_OPTIONS.items() if name != "device_id"}
    wrong = [{"use_tf33": "0"}, {"cudnn_conv_algo_search": "THOROUGH"}]
    found = subprocess.run(
        [
            sys.executable, "-c", PROBE,
            library, bundle.graph("float32"), json.dumps([options, *wrong]),
        ],
        capture_output=True, text=True, check=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    ).stdout.splitlines()  # fmt: skip
    if found == ["cpu"] * 3:
        pytest.skip("CUDA's own libraries are not installed")
    assert "CUDA failure" in found[0]
    assert 'Unknown provider option: "use_tf33"' in found[1]
    assert 'Failed to parse provider option "cudnn_conv_algo_search"' in found[2]


def test_a_real_cudart_without_a_driver_locks_nothing():
    script = (
        "import onnxruntime as o; o.preload_dlls();"
        "from stronglens.engine.backends.pinned import PinnedMemory, load_cudart;"
        "cudart = load_cudart(str(o.cuda_version)); memory = PinnedMemory(cudart);"
        "array = memory.array((2, 3, 3)); array += 1; memory.close();"
        "print(cudart is not None, array.sum())"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    if found.startswith("False"):
        pytest.skip("CUDA's own libraries are not installed")
    assert found.split()[-1] == "18.0"
