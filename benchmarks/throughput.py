"""How fast is the engine beside the reference's own way, on the same files, in one run?

    python benchmarks/throughput.py RUN BUNDLE FOLDER [--count N]

Feed: files to a prepared batch in memory, against torch's DataLoader over `np.load`.
End to end: files to a CSV by lens-infer's own function, against the reference's notebook: that
DataLoader and the run's net in torch eager float32. Each ratio stands beside how far the
results are apart.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from common import read_predictions, seconds, table, write_result
from torch.utils.data import DataLoader

from stronglens.engine.bundle import load_bundle
from stronglens.engine.config import EngineConfig
from stronglens.engine.feed import feed
from stronglens.engine.pipeline import classify
from stronglens.engine.sources import open_source
from stronglens.export.graph import serving
from stronglens.training.checkpoint import load_run

BATCH = 32
CORES = torch.get_num_threads()


class NotebookDataset(torch.utils.data.Dataset):
    """The reference's loading, without its resize (which the net does here): np.load, NaN → 0.

    Its files hold [0, 1] already; whole numbers (pictures) are brought there first.
    """

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        raw = np.load(self.paths[i])
        if raw.dtype.kind in "iu":
            raw = (raw - raw.min()) / np.ptp(raw)
        return torch.from_numpy(np.nan_to_num(raw.reshape(raw.shape[-2:])).astype(np.float32))


def notebook_batches(paths: list[str]) -> DataLoader:
    """Return the reference's loader, with two workers."""
    return DataLoader(NotebookDataset(paths), BATCH, num_workers=2)


def feed_rows(paths: list[str], bundle: Any) -> list[list[str]]:
    """Time the feed against the loader."""
    spec = bundle.manifest.preprocess

    def ours(keep: Callable[[Any], Any] = lambda x: None) -> list[Any]:
        batches = feed(open_source(paths), spec, batch_size=BATCH, workers=2)
        return [keep(batch.x_BHW) for batch in batches]

    def theirs(keep: Callable[[Any], Any] = lambda x: None) -> list[Any]:
        return [keep(x) for x in notebook_batches(paths)]

    apart = np.abs(
        np.concatenate(ours(np.copy)) - np.concatenate(theirs(lambda x: x.numpy()))
    ).max()
    slow, fast = seconds(theirs), seconds(ours)
    return [
        ["torch DataLoader, 2 workers", f"{len(paths) / slow:,.0f}", "1.0", "0"],
        ["feed, 2 threads", f"{len(paths) / fast:,.0f}", f"{slow / fast:.1f}", f"{apart:.1e}"],
    ]


def end_to_end_rows(paths: list[str], trained: Any, bundle: Any) -> list[list[str]]:
    """Time files → CSV in each precision that passed the bundle's gate, against torch eager."""

    graph = serving(trained.net).graph

    @torch.inference_mode()
    def theirs() -> np.ndarray:
        found = [graph(x) for x in notebook_batches(paths)]
        return np.concatenate([(f[0] if isinstance(f, tuple) else f).numpy() for f in found])

    expected_NK = theirs()
    slow = seconds(theirs, repeats=3)
    rows = [["torch eager float32", f"{len(paths) / slow:,.1f}", "1.0", "0", "0"]]
    with tempfile.TemporaryDirectory() as folder, Path("/dev/null").open("w") as silence:
        out = Path(folder) / "preds.csv"
        for precision in (p for p in ("float32", "bfloat16") if p in bundle.manifest.parity):
            config = EngineConfig(precision=precision)
            rate = []
            for _ in range(3):
                report = classify(paths, model=bundle.path, out=out, config=config, stderr=silence)
                rate.append(report.inputs / report.wall)
            prob_NK = read_predictions(out)[2]
            apart = np.abs(prob_NK - expected_NK).max()
            flips = int((prob_NK.argmax(1) != expected_NK.argmax(1)).sum())
            fast = float(np.median(rate))
            rows.append(
                [
                    f"lens-infer {precision}",
                    f"{fast:,.1f}",
                    f"{fast * slow / len(paths):.2f}",
                    f"{apart:.1e}",
                    str(flips),
                ]
            )
    return rows


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--count", default=256, show_default=True, help="Cutouts scored end to end.")
@click.option("--name", default="throughput", show_default=True, help="Of the result's file.")
def main(run: Path, bundle: Path, folder: Path, count: int, name: str) -> None:
    trained, loaded = load_run(run), load_bundle(bundle)
    paths = open_source([folder]).ids
    net = f"{trained.config.recipe.net}, {loaded.manifest.preprocess.size} pixels"
    write_result(
        name,
        f"Throughput: {net}",
        f"Feed, {len(paths):,} files in the page cache, median of 5:",
        table(
            ["files → prepared batch", "cutouts/s", "ratio", "max abs Δx"], feed_rows(paths, loaded)
        ),
        f"End to end, {min(count, len(paths))} files, {CORES} cores, median of 3, after start-up:",
        table(
            ["files → probabilities", "cutouts/s", "ratio", "max abs Δp", "labels changed"],
            end_to_end_rows(paths[:count], trained, loaded),
        ),
    )


if __name__ == "__main__":
    main()
