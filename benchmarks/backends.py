"""What does each runtime and setting give on prepared batches, and how near is it to the limit?

    python benchmarks/backends.py RUN BUNDLE [--rounds N] [--name NAME]

On batches that are ready in memory: each runtime in each precision that the bundle holds, beside
torch eager float32, OpenVINO's own benchmark tool, and the machine's matrix products; then slices
and streams; then, from files, what the engine adds to its bare runtime. Everything runs in turn,
round by round, for a second or so; figures are medians of the rounds.
"""

import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import click
import numpy as np
from alone import CORES, grid, repeat
from common import apart, child, skipped, table, write_result
from numpy.typing import NDArray
from roofline import ceilings

from stronglens.engine.backends import Backend, open_backend, openvino, ort
from stronglens.engine.bundle import Bundle, load_bundle
from stronglens.engine.feed import feed
from stronglens.engine.machine import count_gpus
from stronglens.engine.pipeline import classify
from stronglens.engine.sources import open_source
from stronglens.export.graph import count_flop, run_graph, serving
from stronglens.training.checkpoint import load_run

OPENVINO, ORT, CUDA = "lens-infer, OpenVINO", "lens-infer, ONNX Runtime", "lens-infer, CUDA"
TOOL = "OpenVINO's benchmark tool"
TOOL_SECONDS = 3
SECONDS = 8
"""that a run from files takes: long enough for its first batch and its last sync not to matter"""
RUN_TOOL = """
import sys
sys.modules["openvino_telemetry"] = None
from openvino.tools.benchmark.main import main
main()
"""
VARIANTS: dict[str, dict[str, str]] = {
    "one inference at a time": {},
    "kernels by cuDNN's rules": {"cudnn_conv_algo_search": "HEURISTIC"},
    "prefer_nhwc": {"prefer_nhwc": "1"},
}
"""of ONNX Runtime CUDA: what else could be set"""
HEADER = (
    "prepared batch → probabilities", "cutouts/s", "ratio", "GFLOP/s", "of matrix products",
    "max abs Δp", "labels changed",
)  # fmt: skip
NOTE = """Medians of the rounds; a ratio is the median of the rounds' own. 1 multiply-add is 2
operations. Δp and labels: the golden cutouts, against torch float32."""
GRID = """OpenVINO alone, cutouts/s by slice (cutouts an inference takes) and streams (inferences
at once on {cores} cores). The engine takes slices of {slice}, and the streams that OpenVINO
chooses."""
FILES = """From files to a CSV, {count:,} cutouts, {label}: {share:.1%} of the rate at which the
same backend runs the same cutouts when they are prepared already: the engine adds {cost:.1%}."""


@dataclass(slots=True)
class Contender:
    """One way to score prepared cutouts, and what it gave in each round."""

    name: str
    precision: str
    rate: Callable[[], float]
    """runs it for a while and returns cutouts/s"""
    prob_NK: NDArray[np.float32] | None = None
    """of the golden cutouts"""
    rates: list[float] = field(default_factory=list)

    def ratio(self, other: "Contender") -> float:
        """Return the median of the rounds' ratios to another's rates."""
        return median(a / b for a, b in zip(self.rates, other.rates, strict=True))


def of_backend(name: str, backend: Backend, x_NHW: NDArray[np.float32]) -> Contender:
    """Return a backend of the engine on a batch of its own size, in its own memory."""
    x_BHW = backend.buffer((backend.batch_size, *x_NHW.shape[1:]))
    x_BHW[:] = np.resize(x_NHW, x_BHW.shape)
    rate = partial(repeat, partial(backend.run, x_BHW), len(x_BHW))
    return Contender(name, backend.precision, rate, backend.run(x_NHW))


def of_torch(graph: Any, x_NHW: NDArray[np.float32]) -> Contender:
    """Return torch eager float32, in batches of 32 as the reference has them."""
    x_BHW = np.resize(x_NHW, (32, *x_NHW.shape[1:]))
    rate = partial(repeat, partial(run_graph, graph, x_BHW), len(x_BHW))
    return Contender("torch eager", "float32", rate, run_graph(graph, x_NHW)[0])


def of_tool(graph: Path, precision: str, hint: str, side_HW: tuple[int, ...]) -> Contender:
    """Return OpenVINO's own benchmark tool, in slices of the engine's size."""
    shape = f"x[{','.join(map(str, (openvino.SLICE, *side_HW)))}]"
    command: list[object] = ["python", "-c", RUN_TOOL, "-m", graph, "-d", "CPU"]
    command += ["-hint", "throughput", "-shape", shape, "-data_shape", shape, "-t", TOOL_SECONDS]
    command += ["-infer_precision", hint]

    def rate() -> float:
        said = child(*command).stdout
        count, lasted = (
            float(re.findall(rf"{word}: +([\d.]+)", said)[-1]) for word in ("Count", "Duration")
        )
        return openvino.SLICE * count / (lasted / 1e3)

    return Contender(TOOL, precision, rate)


def on_the_cpu(bundle: Bundle, missing: list[str], hints: dict[str, str]) -> list[Contender]:
    """Return every precision that passed its check, in each runtime.

    Notes what is missing, and what OpenVINO is told of each precision.
    """
    x_NHW, passed = bundle.golden().x_NHW, bundle.manifest.parity
    native, found = openvino.native_precisions(), []
    if not (has_tool := importlib.util.find_spec("openvino.tools.benchmark") is not None):
        missing.append(f"{TOOL} (it is not installed)")
    for precision in openvino.HINTS:
        if precision not in native:
            missing.append(f"{precision} on the CPU (this one does not compute in it)")
        elif precision not in passed:
            missing.append(f"{precision} on the CPU (the bundle has none that passed)")
        else:
            engine: Any = open_backend(bundle, device="cpu", precision=precision)
            found.append(of_backend(OPENVINO, engine, x_NHW))
            hints[precision] = engine.hint
            if has_tool:
                graph, side_HW = bundle.graph(precision), x_NHW.shape[1:]
                found.append(of_tool(graph, precision, engine.hint, side_HW))
    for precision in sorted({"float32", "int8"} & passed.keys()):
        other = ort.OrtBackend(bundle.graph(precision), precision=precision, threads=CORES)
        found.append(of_backend(ORT, other, x_NHW))
    return found


def on_the_gpu(bundle: Bundle, missing: list[str]) -> list[Contender]:
    """Return ONNX Runtime CUDA in its precisions, and in other settings than the engine's."""
    if not count_gpus():
        missing.append("ONNX Runtime CUDA in float32 and float16, and its settings (no GPU)")
        return []
    x_NHW, found = bundle.golden().x_NHW, []
    for precision in ("float32", "float16"):
        if precision not in bundle.manifest.parity:
            missing.append(f"{precision} on the GPU (the bundle has none that passed)")
            continue
        graph = bundle.graph(precision)
        engine = ort.OrtBackend(graph, device="cuda", precision=precision)
        found.append(of_backend(CUDA, engine, x_NHW))
        as_it_is = ort.CUDA_OPTIONS
        for words, options in VARIANTS.items():
            ort.CUDA_OPTIONS = as_it_is | options
            lanes = ort.LANES["cuda"] if options else 1
            other = ort.OrtBackend(graph, device="cuda", precision=precision, lanes=lanes)
            found.append(of_backend(f"{CUDA}: {words}", other, x_NHW))
        ort.CUDA_OPTIONS = as_it_is
    return found


def measure(found: list[Contender], rounds: int) -> None:
    """Run each once a round."""
    for _ in range(rounds):
        for one in found:
            one.rates.append(one.rate())
            print(f"{one.name}, {one.precision}: {one.rates[-1]:,.1f}/s", file=sys.stderr)


def rows(found: list[Contender], flop: float) -> list[list[str]]:
    """Return the table's lines; the first is what the others are held against."""
    limits = ceilings({("CUDA" in one.name, one.precision) for one in found})
    lines = []
    for one in found:
        gflops = median(one.rates) * flop / 1e9
        limit = limits["CUDA" in one.name, one.precision]
        worst, flips = ("", "")
        if one.prob_NK is not None and found[0].prob_NK is not None:
            off, changed = apart(one.prob_NK, found[0].prob_NK)
            worst, flips = f"{off:.1e}", str(changed)
        lines.append(
            [
                f"{one.name}, {one.precision}",
                f"{median(one.rates):,.1f}",
                f"{one.ratio(found[0]):.2f}",
                f"{gflops:,.0f}",
                f"{gflops / limit:.0%} of {limit:,.0f}",
                worst,
                flips,
            ]
        )
    return lines


def from_files(bundle: Bundle, backend: Backend, rounds: int, work: Path) -> tuple[float, int]:
    """Return the rate from files to a CSV as a share of the backend's own, and of how many files.

    The backend's own: on the same cutouts, prepared before. The two take turns.
    """
    golden, size = bundle.golden(), backend.batch_size
    rate = repeat(partial(backend.run, golden.x_NHW), len(golden.x_NHW))
    count = max(2, round(SECONDS * rate / size)) * size
    files = work / "cutouts"
    files.mkdir()
    for i in range(count):
        source = i % len(golden.raw_NHW)
        if i == source:
            np.save(files / f"{i}.npy", golden.raw_NHW[i])
        else:
            os.link(files / f"{source}.npy", files / f"{i}.npy")
    spec, everything = bundle.manifest.preprocess, open_source([files])
    ready = [batch.x_BHW.copy() for batch in feed(everything, spec, batch_size=size, workers=2)]
    shares = []
    with (work / "said").open("w") as said:
        for _ in range(rounds + 1):
            start = perf_counter()
            for x_BHW in ready:
                backend.run(x_BHW)
            bare = perf_counter() - start
            report = classify([files], model=bundle.path, out=work / "preds.csv", stderr=said)
            shares.append(bare / report.wall)
            print(f"ready {bare:.2f} s, from files {report.wall:.2f} s", file=sys.stderr)
    return median(shares[1:]), count


def for_the_readme(
    net: str, found: list[Contender], lines: list[list[str]]
) -> list[tuple[str, str]]:
    """Return what the README says of the engine on OpenVINO."""
    limit, tool = [], []
    tools = {one.precision: one for one in found if one.name == TOOL}
    for one, line in zip(found, lines, strict=True):
        if one.name == OPENVINO:
            limit.append(f"{one.precision} {line[1]} cutouts/s, {line[3]} GFLOP/s, {line[4]}")
            if one.precision in tools:
                tool.append(f"{one.ratio(tools[one.precision]):.1%} in {one.precision}")
    return [
        (f"prepared batches of {net} against the machine's matrix products", "; ".join(limit)),
        (f"{net} against OpenVINO's own benchmark tool", ", ".join(tool) or "not installed"),
    ]


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--rounds", default=3, show_default=True, help="In which each is run once.")
@click.option("--name", default="backends", show_default=True, help="Of the result's file.")
def main(run: Path, bundle: Path, rounds: int, name: str) -> None:
    loaded, graph = load_bundle(bundle), serving(load_run(run).net).graph
    missing: list[str] = []
    hints: dict[str, str] = {}
    found = [of_torch(graph, loaded.golden().x_NHW)]
    found += on_the_cpu(loaded, missing, hints) + on_the_gpu(loaded, missing)
    measure(found, rounds)
    lines = rows(found, count_flop(graph, loaded.manifest.preprocess.size))
    engine = open_backend(loaded)
    with tempfile.TemporaryDirectory() as work:
        share, count = from_files(loaded, engine, rounds, Path(work))
    settings = grid(loaded, hints, rounds)
    net, size = loaded.manifest.recipe["net"], loaded.manifest.preprocess.size
    side = loaded.manifest.recipe["input_size"] or size
    write_result(
        name,
        f"Backends: {net} at {side} from {size}×{size}",
        NOTE,
        table(HEADER, lines),
        skipped(missing),
        FILES.format(count=count, label=engine.label, share=share, cost=1 / share - 1),
        GRID.format(cores=CORES, slice=openvino.SLICE),
        settings,
        readme=[
            *for_the_readme(net, found, lines),
            (
                f"what the engine adds to its runtime, files to CSV, {net}",
                f"{1 / share - 1:.1%} of the time, in {engine.precision}",
            ),
        ],
    )


if __name__ == "__main__":
    main()
