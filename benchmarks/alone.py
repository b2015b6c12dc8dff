"""OpenVINO alone, without the engine: what its slices and streams give."""

from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from common import table

from stronglens.engine.backends.openvino import load_openvino
from stronglens.engine.bundle import Bundle
from stronglens.engine.machine import usable_cores

SECONDS = 1.2
"""that each is run for in each round"""
SLICES = (1, 4, 8, 32)
CORES = usable_cores()


def repeat(work: Callable[[], Any], count: int) -> float:
    """Call `work`, which scores `count` cutouts, for SECONDS; return cutouts/s."""
    start, calls = perf_counter(), 0
    while (lasted := perf_counter() - start) < SECONDS:
        work()
        calls += 1
    return calls * count / lasted


def alone(graph: Path, hint: str, size: int, streams: int) -> float:
    """Return cutouts/s of a graph in slices of `size`, `streams` of them at once."""
    ov = load_openvino()
    core = ov.Core()
    model = core.read_model(graph)
    model.reshape([size, *list(model.input(0).partial_shape)[1:]])
    config = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": CORES,
        "NUM_STREAMS": str(streams),
        "ENABLE_CPU_PINNING": False,
    }
    queue = ov.AsyncInferQueue(core.compile_model(model, "CPU", config), streams)
    x = ov.Tensor(np.random.default_rng(0).random(tuple(model.input(0).shape), np.float32))
    calls = -(-32 // size) + streams

    def work() -> None:
        for _ in range(calls):
            queue.start_async(x)
        queue.wait_all()

    work()
    return repeat(work, calls * size)


def grid(bundle: Bundle, hints: Mapping[str, str], rounds: int) -> str:
    """Return the table of slices × streams × precisions.

    Args:
        bundle: holds a graph of each precision.
        hints: what OpenVINO is told to compute in, for each precision.
        rounds: in which each is measured once.
    """
    columns = [(p, streams) for p in hints for streams in sorted({1, CORES})]
    cells: dict[tuple[int, str, int], list[float]] = {}
    for _ in range(rounds):
        for size in SLICES:
            for precision, streams in columns:
                rate = alone(bundle.graph(precision), hints[precision], size, streams)
                cells.setdefault((size, precision, streams), []).append(rate)
    names = [f"{p}, {streams} stream{'s' * (streams > 1)}" for p, streams in columns]
    return table(
        ["slice", *names],
        [[size, *(f"{median(cells[size, *each]):,.1f}" for each in columns)] for size in SLICES],
    )
