"""How long from the command to the first row, beside the reference's way?

    python benchmarks/startup.py [--full]

One cutout, the whole command, from its start to its exit; the files of the page cache are there
but for the first run, before which the system is asked to drop the programs' and the model's
files (it keeps what other processes use). The peer imports torch and torchvision, loads the same
net (as TorchScript, so that no code of ours has to be imported) and scores the same cutout.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import click
import torch
from common import ROOT, apart, child, read_predictions, table, write_result
from reference import Case, read_case

from stronglens.export.graph import serving

CASES = {
    "ResNeXt50 at 224": ("resnext50", "catalog"),
    "lens finder at 334": ("lensfinding", "sky"),
}
"""of the demo: the name of run and bundle, the folder of cutouts"""
OURS = ("numpy", "numba", "llvmlite", "openvino")
THEIRS = ("numpy", "torch", "torchvision")
"""the packages whose files a start reads"""
LIMIT = 3.0
"""seconds that a start may take"""

PEER = """
import sys
import numpy as np
import torch
import torchvision
net, file, out = sys.argv[1:]
raw = np.load(file)
x_BHW = torch.from_numpy(np.nan_to_num(raw.reshape(1, *raw.shape[-2:])).astype(np.float32))
with torch.no_grad():
    found = torch.jit.load(net)(x_BHW)
prob_BK = found[0] if isinstance(found, tuple) else found
with open(out, "w") as rows:
    print("id", *(f"p_{k}" for k in range(prob_BK.shape[1])), sep=",", file=rows)
    print(file, *prob_BK[0].tolist(), sep=",", file=rows)
"""

STAGES = """
import json, sys, time
since, model, file, precision = float(sys.argv[1]), *sys.argv[2:]
laps = {}

def lap(name):
    global since
    now = time.monotonic()
    laps[name], since = now - since, now
lap("Python itself")
import numba
lap("import numba")
from pathlib import Path
from stronglens.engine import pipeline
from stronglens.engine.backends.openvino import load_openvino
from stronglens.engine.feed import feed
from stronglens.engine.scoring import score
lap("import the engine")
load_openvino()
lap("import OpenVINO")
bundle = pipeline.load_bundle(Path(model))
lap("check the bundle's files")
backend = pipeline.open_backend(bundle, precision=precision)
lap("load and compile the net")
source, spec = pipeline.open_source([file]), bundle.manifest.preprocess
with pipeline.warming_up(source, spec):
    pass
lap("compile the kernels")
pipeline.replay(bundle, backend)
lap("replay the golden batch")
batch = next(feed(source, spec, batch_size=backend.batch_size, workers=2))
score(batch, backend, len(bundle.manifest.classes))
lap("read and score one cutout")
print(json.dumps({"precision": backend.precision, "seconds": laps}))
"""


class Start(NamedTuple):
    """What starts of one kind took, in seconds."""

    name: str
    precision: str
    first: float
    again: float
    peer_first: float
    peer_again: float
    max_abs_dp: float
    stages: dict[str, float]
    """done one after the other"""

    def row(self) -> list[str]:
        """Return the cells of the table."""
        times = (self.first, self.again, self.peer_first, self.peer_again)
        ratio, apart = f"{self.peer_again / self.again:.2f}", f"{self.max_abs_dp:.1e}"
        return [self.name, self.precision, *(f"{each:.2f}" for each in times), ratio, apart]


def evict(paths: Iterable[Path]) -> None:
    """Ask the system to drop files from its page cache."""
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def files_of(*packages: str) -> list[Path]:
    """Return the files of installed packages."""
    found: list[Path] = []
    for name in packages:
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.submodule_search_locations
        found += Path(spec.submodule_search_locations[0]).rglob("*")
    return [path for path in found if path.is_file()]


def measure(name: str, repeats: int, work: Path) -> Iterator[Start]:
    """Start a case over and over in float32 and in what the engine picks, the peer in turn."""
    demo, folder = CASES[name]
    run, model = ROOT / "demo" / "runs" / demo, ROOT / "demo" / "bundles" / demo
    file = next((ROOT / "demo" / folder).glob("*.npy"))
    net, out, peer_out = work / "net.pt", work / "preds.csv", work / "peer.csv"
    write_script(read_case(run, model, [str(file)]), net)
    peer = ("python", "-W", "ignore", "-c", PEER, net, file, peer_out)
    evict([*files_of(*THEIRS), net])
    peer_first = child(*peer).seconds
    picked, _ = stages(model, file, "auto", 1)
    for precision in dict.fromkeys(("float32", picked)):
        ours = ("lens-infer", file, "--model", model, "--precision", precision, "--out", out)
        evict([*files_of(*OURS), *model.iterdir()])
        first = child(*ours).seconds
        pairs = [(child(*ours).seconds, child(*peer).seconds) for _ in range(repeats)]
        again, peer_again = (median(times) for times in zip(*pairs, strict=True))
        worst, _ = apart(read_predictions(out)[2], read_predictions(peer_out)[2])
        _, each = stages(model, file, precision, repeats)
        yield Start(name, precision, first, again, peer_first, peer_again, worst, each)


def write_script(case: Case, path: Path) -> None:
    """Write the net with its resize as TorchScript."""
    size = case.bundle.manifest.preprocess.size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather see another format
        torch.jit.save(torch.jit.trace(serving(case.net).graph, torch.zeros(1, size, size)), path)


def stages(model: Path, file: Path, precision: str, repeats: int) -> tuple[str, dict[str, float]]:
    """Return the precision, and the median seconds of each stage, done one after the other."""
    found = []
    for _ in range(repeats):
        words = [str(time.monotonic()), str(model), str(file), precision]
        done = subprocess.run(
            [sys.executable, "-c", STAGES, *words], stdout=subprocess.PIPE, text=True, check=True
        )
        found.append(json.loads(done.stdout))
    laps = [each["seconds"] for each in found]
    return found[0]["precision"], {name: median(lap[name] for lap in laps) for name in laps[0]}


@click.command()
@click.option("--full", is_flag=True, help="Eleven starts of each instead of five.")
def main(full: bool) -> None:
    repeats = 11 if full else 5
    starts = []
    for name in CASES:
        with tempfile.TemporaryDirectory() as work:
            starts += measure(name, repeats, Path(work))
    slowest = max(start.again for start in starts)
    rows = [[each, *(f"{s.stages[each]:.2f}" for s in starts)] for each in starts[0].stages]
    rows.append(["all", *(f"{sum(s.stages.values()):.2f}" for s in starts)])
    write_result(
        "startup",
        "From the command to the first row",
        "`lens-infer FILE`, one cutout, the whole command; seconds. First: after the system was "
        f"asked to drop the files of the model and of {', '.join(OURS)} from its cache (for torch: "
        f"{', '.join(THEIRS)}). Again: the median of {repeats} more.",
        table(
            ["net", "precision", "first", "again", "torch, first", "torch, again",
             "torch ÷ lens-infer", "max abs Δp"],
            [start.row() for start in starts],
        ),
        f"The slowest takes {slowest:.2f} s, "
        f"{'within' if slowest < LIMIT else 'MORE THAN'} the {LIMIT:.0f} s it may.",
        "The stages one after the other. The command compiles the kernels while it loads the net "
        "and replays the golden batch.",
        table(["stage", *(f"{s.name}, {s.precision}" for s in starts)], rows),
        readme=[
            (
                "from the command to the first row, files in the page cache",
                "; ".join(
                    f"{s.name} in {s.precision} {s.again:.1f} s (torch {s.peer_again:.1f} s)"
                    for s in starts
                ),
            )
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
