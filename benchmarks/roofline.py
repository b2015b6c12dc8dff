"""The most that this machine's matrix products give, for each precision, to hold a net against."""

from collections.abc import Iterable
from time import perf_counter
from typing import Any

import numpy as np

from stronglens.engine.backends.openvino import HINTS, load_openvino
from stronglens.engine.machine import usable_cores

SIDE = 1024
"""of the square matrices: 2 × 1024³ operations, with both in the cache of a core"""
REPEATS, PRODUCTS = 6, 12
GPU_SIDE = 8192


def ceilings(wanted: Iterable[tuple[bool, str]]) -> dict[tuple[bool, str], float]:
    """Return GFLOP/s for each pair: whether on the GPU, and the precision."""
    return {
        (on_gpu, precision): gpu_ceiling(precision) if on_gpu else cpu_ceiling(precision)
        for on_gpu, precision in wanted
    }


def cpu_ceiling(precision: str) -> float:
    """Return GFLOP/s of OpenVINO's matrix products on all cores: the best of some repeats.

    One product a core, as the engine gives one slice a core; 1 multiply-add is 2 operations.
    """
    ov = load_openvino()
    threads = usable_cores()
    config = {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": str(threads),
        "ENABLE_CPU_PINNING": False,
    }
    queue = ov.AsyncInferQueue(ov.Core().compile_model(_product(precision), "CPU", config), threads)
    x = ov.Tensor(np.random.default_rng(0).random((SIDE, SIDE), np.float32))

    def seconds() -> float:
        start = perf_counter()
        for _ in range(PRODUCTS * threads):
            queue.start_async(x)
        queue.wait_all()
        return perf_counter() - start

    best = min(seconds() for _ in range(REPEATS))
    return 2 * SIDE**3 * PRODUCTS * threads / best / 1e9


def _product(precision: str) -> Any:
    """Return a model of one matrix product; for int8 its operands are quantised."""
    ov = load_openvino()
    from openvino import opset13 as op

    x = op.parameter([SIDE, SIDE], np.float32, name="x")
    weight = np.random.default_rng(1).integers(-127, 128, (SIDE, SIDE)).astype(np.int8)
    scaled = op.multiply(op.convert(op.constant(weight), np.float32), np.float32(1 / 127))
    if precision == "int8":
        low, high = np.float32(-1), np.float32(127 / 128)
        x_in: Any = op.fake_quantize(x, low, high, low, high, 256)
    else:
        x_in, scaled = x, op.constant(weight.astype(np.float32) / 127)
    return ov.Model([op.matmul(x_in, scaled, False, False)], [x], "product")


def gpu_ceiling(precision: str) -> float:
    """Return GFLOP/s of torch's matrix products on the GPU: the best of some repeats."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    x = torch.rand(GPU_SIDE, GPU_SIDE, device="cuda", dtype=getattr(torch, precision))

    def seconds() -> float:
        torch.cuda.synchronize()
        start = perf_counter()
        for _ in range(PRODUCTS):
            x @ x
        torch.cuda.synchronize()
        return perf_counter() - start

    best = min(seconds() for _ in range(REPEATS))
    return 2 * GPU_SIDE**3 * PRODUCTS / best / 1e9
