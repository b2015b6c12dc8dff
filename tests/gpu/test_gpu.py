"""What no CPU can show of ONNX Runtime with CUDA and of TensorRT. See conftest.py."""

import resource
import time

import numpy as np
import pytest

from stronglens.engine.backends import ort, tensorrt
from stronglens.engine.backends.ort import OrtBackend
from stronglens.engine.backends.tensorrt_check import count_convolutions
from stronglens.engine.golden import replay, tolerance

WAYS = [
    ("cuda", "float32"),
    ("cuda", "float16"),
    ("tensorrt", "float32"),
    ("tensorrt", "float16"),
    ("tensorrt", "int8"),
]
MANY = 100_000
MB = 1 << 20

every_way = pytest.mark.parametrize(("device", "precision"), WAYS)


def cutouts(bundle, count, rng):
    """Return cutouts like the golden ones, each another."""
    x_NHW = bundle.golden().x_NHW
    x_BHW = x_NHW[rng.integers(0, len(x_NHW), count)]
    return (x_BHW * rng.uniform(0.5, 1, (count, 1, 1))).astype(np.float32)


def buffered(backend, x_BHW):
    """Return the cutouts in memory that the backend reads fast, as the feed gives them."""
    buffer_BHW = backend.buffer(x_BHW.shape)
    buffer_BHW[:] = x_BHW
    return buffer_BHW


@every_way
def test_parity(opened, bundle, rng, device, precision):
    """With ONNX Runtime on the CPU, within what the engine allows."""
    backend = opened(device, precision)
    replay(bundle, backend)
    x_BHW = cutouts(bundle, 300, rng)
    reference = OrtBackend(bundle.graph(precision))
    worst = np.abs(backend.run(x_BHW) - reference.run(x_BHW)).max()
    print(f"{backend.label}: max |Δp| {worst:.2e}")
    assert worst <= tolerance(bundle, precision)


@every_way
def test_a_row_does_not_depend_on_its_batch(opened, bundle, rng, device, precision):
    backend = opened(device, precision)
    x_BHW = cutouts(bundle, 700, rng)
    whole_BK = backend.run(x_BHW)
    for start, n in ((0, 1), (5, 60), (120, 300), (650, 50)):
        part_BK = backend.run(x_BHW[start : start + n])
        np.testing.assert_array_equal(part_BK, whole_BK[start : start + n])


@pytest.mark.parametrize(("device", "precision"), [way for way in WAYS if way[1] != "int8"])
def test_a_nan_pixel_is_no_score_and_no_neighbours_matter(opened, bundle, rng, device, precision):
    """The engine gives a backend finite pixels only: this is what would show that it did not."""
    backend = opened(device, precision)
    x_BHW = cutouts(bundle, 200, rng)
    before_BK = backend.run(x_BHW)
    bad = [0, 63, 64, 127, 128, 199]
    x_BHW[bad] = np.nan
    after_BK = backend.run(x_BHW)
    assert np.isnan(after_BK[bad]).all()
    good = np.setdiff1d(np.arange(200), bad)
    np.testing.assert_array_equal(after_BK[good], before_BK[good])


def test_a_float16_plan_computes_in_half(opened, bundle):
    half, single, unknown = count_convolutions(opened("tensorrt", "float16").inspect())
    print(f"convolutions: {half} in half, {single} in float32, {unknown} not told")
    assert half > single


def memory():
    """Return the bytes in use: of the GPU, by everyone, and of this process's host memory."""
    from cuda.bindings import runtime

    status, free, total = runtime.cudaMemGetInfo()
    assert status == runtime.cudaError_t.cudaSuccess
    return total - free, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize(("device", "precision"), [("cuda", "float16"), ("tensorrt", "float16")])
def test_memory_stays_flat(opened, bundle, rng, device, precision):
    backend = opened(device, precision)
    x_BHW = buffered(backend, cutouts(bundle, backend.batch_size, rng))
    for _ in range(20):
        backend.run(x_BHW)
    before = memory()
    for _ in range(0, MANY, len(x_BHW)):
        backend.run(x_BHW)
    grown = [after - b for after, b in zip(memory(), before, strict=True)]
    print(f"{backend.label}: {MANY:,} cutouts grew GPU and host by {grown} bytes")
    assert max(grown) < 16 * MB


def rate(backend, x_BHW, seconds=2.0):
    """Return cutouts a second, of the fastest run in some seconds."""
    x_BHW = buffered(backend, x_BHW)
    backend.run(x_BHW)
    end, fastest = time.perf_counter() + seconds, np.inf
    while time.perf_counter() < end:
        begin = time.perf_counter()
        backend.run(x_BHW)
        fastest = min(fastest, time.perf_counter() - begin)
    return len(x_BHW) / fastest


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_copies_overlap_with_computing(opened, bundle, rng, monkeypatch, device):
    """Two lanes against one: what they gain can only be overlap."""
    if bundle.manifest.task != "lensfinding":
        pytest.skip("ResNeXt50 computes so long that there is little to hide")
    x_BHW = cutouts(bundle, 4096, rng)
    two = rate(opened(device, "float16"), x_BHW)
    monkeypatch.setattr(tensorrt, "LANES", 1)
    monkeypatch.setitem(ort.LANES, "cuda", 1)
    one = rate(opened(device, "float16"), x_BHW)
    print(f"{device}: {two:,.0f}/s with two lanes, {one:,.0f}/s with one")
    assert two > 1.05 * one


def rate_of_torch(bundle, x_BHW):
    """Return cutouts a second of the named peer: the same graph's convolutions, torch in half."""
    import torch

    from stronglens.export.graph import serving
    from stronglens.training.checkpoint import load_run

    net = load_run(bundle.path.parent / "run").net
    graph = serving(net).graph.cuda().eval().to(memory_format=torch.channels_last)
    x_pinned = torch.from_numpy(x_BHW).pin_memory()

    def work():
        with torch.no_grad(), torch.autocast("cuda", torch.float16):
            for part in x_pinned.split(128):
                graph(part.to("cuda", non_blocking=True))
        torch.cuda.synchronize()

    work()
    begin = time.perf_counter()
    for _ in range(5):
        work()
    return 5 * len(x_BHW) / (time.perf_counter() - begin)


def test_throughput(opened, bundle, rng, capsys):
    """Printed, beside torch in half precision on the same GPU in the same run."""
    x_BHW = cutouts(bundle, 2048, rng)
    peer = rate_of_torch(bundle, x_BHW)
    with capsys.disabled():
        net = bundle.manifest.recipe["net"]
        print(f"\n{net}, {x_BHW.shape[1]} pixels; torch, autocast to half: {peer:,.0f}/s")
        for device, precision in WAYS:
            try:
                backend = opened(device, precision)
            except pytest.skip.Exception as skipped:
                print(f"  {device}, {precision}: {skipped}")
                continue
            found = rate(backend, x_BHW)
            print(f"  {backend.label}: {found:,.0f}/s, {found / peer:.2f} of torch")
            assert np.isfinite(backend.run(x_BHW)).all()
