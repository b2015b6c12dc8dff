"""The fake of ONNX Runtime on CUDA takes what the real one takes."""

import inspect
import json
import os
import shutil
import subprocess
import sys

import fake_ort
import onnxruntime
import pytest

from stronglens.engine.backends.ort import CUDA_OPTIONS

pytest_plugins = ["gpu_fixtures"]


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
