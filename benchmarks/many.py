"""A million cutouts that cost no disk, and a net that costs next to no time: the engine is left.

The catalogue is hard links to a few real files. The net is exported as every net is: torch to
ONNX to a bundle with a golden batch.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import ROOT
from numpy.typing import NDArray
from torch import nn

from stronglens.engine.bundle import Golden, write_bundle
from stronglens.engine.preprocess import PreprocessSpec, prepare
from stronglens.export.graph import ClassifierTail, ServingGraph, run_graph
from stronglens.export.to_onnx import to_onnx

SIDE = 64
SPEC = PreprocessSpec(mode="none", size=SIDE)
CLASSES = ["no", "sphere", "vort"]
FILES = 25
"""a file takes 65,000 links on ext4"""


@contextmanager
def work_folder() -> Iterator[Path]:
    """Make a folder under benchmarks/work/, and remove it with the million links in it."""
    parent = ROOT / "benchmarks" / "work"
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="many.", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def tiny_graph() -> ServingGraph:
    """Return a convolution, a mean and a linear head; the same at every call."""
    torch.manual_seed(1)
    graph = ServingGraph(nn.Identity(), nn.Conv2d(1, 4, 8, 8), ClassifierTail(nn.Linear(4, 3)))
    return graph.eval().requires_grad_(False)


def write_tiny_bundle(path: Path, contents: Sequence[NDArray[Any]]) -> None:
    """Export `tiny_graph`, with some of the cutouts as its golden batch."""
    graph = tiny_graph()
    raw_NHW = np.stack(contents[:16])
    x_NHW = np.empty(raw_NHW.shape, np.float32)
    for raw_HW, x_HW in zip(raw_NHW, x_NHW, strict=True):
        prepare(raw_HW, SPEC, x_HW)
    write_bundle(
        path,
        {"model.onnx": to_onnx(graph, SIDE, outputs=["prob"])},
        golden=Golden(raw_NHW, x_NHW, run_graph(graph, x_NHW)[0]),
        task="substructure",
        classes=CLASSES,
        preprocess=SPEC,
        outputs=["prob"],
        parity={"float32": {"max_abs_dp": 0.0}},
        **{key: {} for key in ("metrics", "data", "recipe", "versions")},
    )


def alike() -> list[NDArray[Any]]:
    """Return FILES different cutouts stored in one way."""
    rng = np.random.default_rng(1)
    made = [rng.normal(k - FILES / 2, 1 + k, (SIDE, SIDE)).astype("f4") for k in range(FILES)]
    made[3][:5] = np.nan
    return made


def mixed() -> list[NDArray[Any]]:
    """Return FILES different cutouts, no two neighbours stored alike, some of a wrong shape."""
    layouts: list[Callable[[NDArray[Any]], NDArray[Any]]] = [
        lambda raw: raw,
        lambda raw: raw.astype("f8"),
        lambda raw: raw.astype(">f4"),
        lambda raw: np.nan_to_num(raw).astype("i2"),
        lambda raw: raw[1:],
    ]
    return [layouts[k % len(layouts)](raw) for k, raw in enumerate(alike())]


def write_files(folder: Path, contents: Sequence[NDArray[Any]]) -> list[Path]:
    """Write each cutout to a file of its own."""
    folder.mkdir()
    paths = [folder / f"{k}.npy" for k in range(len(contents))]
    for path, raw in zip(paths, contents, strict=True):
        np.save(path, raw)
    return paths


def link(files: Sequence[Path], folder: Path, names: range, which: Callable[[int], int]) -> None:
    """Link name i of `names` to the file that `which` gives the number of."""
    folder.mkdir(exist_ok=True)
    for i in names:
        os.link(files[which(i)], folder / f"{i}.npy")


def rows_by_id(preds: Path) -> Iterator[tuple[str, str]]:
    """Yield the id and the rest of each row; no id here needs quotes."""
    with preds.open() as file:
        next(file)
        for line in file:
            name, _, rest = line.rstrip("\n").partition(",")
            yield name, rest


def check_rows(preds: Path, folder: Path, expected: Sequence[str], count: int, which: Any) -> None:
    """Stop unless row i is that of name i, and says what the same file says elsewhere."""
    found = 0
    for i, row in enumerate(rows_by_id(preds)):
        if row != (f"{folder}/{i}.npy", expected[which(i)]):
            sys.exit(f"{preds}: row {i} is {row}, expected {expected[which(i)]}")
        found += 1
    if found != count:
        sys.exit(f"{preds}: {found} rows for {count} cutouts")
