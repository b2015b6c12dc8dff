"""How fast do .npy files become prepared batches, beside torch's DataLoader and bare reading?

    python benchmarks/feed.py [--full]

The DataLoader does what the reference's notebooks do, with two workers: np.load, NaN → 0, the
mode in numpy, the resize to 224 (the engine's is in the net; the ratio without it stands beside).
Bare reading opens, reads and closes each file in one thread, into one buffer: no single thread
can do better; its runs and the feed's take turns. All have a list of names to start with, and the
same files, in the page cache. --full takes every layout in every mode.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from common import seconds, table, write_result
from numpy.typing import NDArray
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset

from stronglens.engine.feed import feed
from stronglens.engine.machine import usable_cores
from stronglens.engine.preprocess import PreprocessSpec
from stronglens.engine.sources import Source, open_source

SIDE, RESIZED, COUNT, BATCH, WORKERS, ROUNDS = 150, 224, 4000, 32, 2, 9
MODES = ("minmax", "none", "asinh")
DTYPES = {"float64": "f8", "float32": "f4", "int16": "i2"}


class Layout(NamedTuple):
    """How cutouts are stored."""

    dtype: str
    order: str = "C"
    swapped: bool = False
    nan: bool = False

    def __str__(self) -> str:
        words = [self.dtype, "Fortran" * (self.order == "F"), "swapped" * self.swapped]
        return ", ".join(filter(None, [*words, "NaN" * self.nan]))


def layouts() -> Iterator[Layout]:
    for dtype in DTYPES:
        for order in "CF":
            for swapped in (False, True):
                for nan in (False, True)[: 1 if dtype == "int16" else 2]:
                    yield Layout(dtype, order, swapped, nan)


def write_files(folder: Path, layout: Layout) -> list[str]:
    """Write COUNT cutouts: a bright centre and noise."""
    rng = np.random.default_rng(1)
    at = np.arange(SIDE) - SIDE / 2
    light_HW = 2000 * np.exp(-np.hypot(at[:, None], at) / 12)
    paths = [str(folder / f"{n}.npy") for n in range(COUNT)]
    for path in paths:
        v_HW = light_HW + rng.normal(size=light_HW.shape) * 20
        if layout.nan:
            v_HW[rng.integers(SIDE - 9) :][:9, :40] = np.nan
        raw = v_HW.astype(DTYPES[layout.dtype])
        raw = raw.astype(raw.dtype.newbyteorder()) if layout.swapped else raw
        np.save(path, np.asarray(raw, order=layout.order))
    return paths


class NumpyDataset(Dataset):
    """The reference's loading in numpy: what a DataLoader's worker does for one cutout."""

    def __init__(self, paths: list[str], mode: str, resize: int) -> None:
        self.paths, self.mode, self.resize = paths, mode, resize

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        raw = np.load(self.paths[i])
        missing = np.isnan(raw) if raw.dtype.kind == "f" else None
        if self.mode == "minmax":
            low, high = np.nanmin(raw), np.nanmax(raw)
            raw = (raw - low) / (float(high) - low)
        elif self.mode == "asinh":
            median = np.nanmedian(raw)
            sigma = 1.482602218505602 * np.nanmedian(np.abs(raw - median))
            raw = np.arcsinh((raw - median) / (PreprocessSpec().softening * sigma))
        if missing is not None:
            raw = np.where(missing, 0, raw)
        x_HW = torch.from_numpy(raw.astype(np.float32))
        return interpolate(x_HW[None, None], self.resize)[0, 0] if self.resize else x_HW


def loader(paths: list[str], mode: str, *, resize: int = 0) -> DataLoader:
    return DataLoader(NumpyDataset(paths, mode, resize), BATCH, num_workers=WORKERS)


def read_bare(paths: list[str]) -> None:
    room = np.empty(Path(paths[0]).stat().st_size, np.uint8)
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.readv(fd, [room])
        os.close(fd)


def prepared(source: Source, spec: PreprocessSpec) -> Iterator[NDArray[np.float32]]:
    """Yield the feed's batches, valid until the next."""
    batches = feed(source, spec, batch_size=BATCH, workers=WORKERS)
    return (batch.x_BHW for batch in batches)


def exhaust(items: Any) -> None:
    for _ in items:
        pass


class Rates(NamedTuple):
    """Cutouts a second, and the largest |Δx| between feed and loader, of the largest x."""

    bare: float
    loader: float
    unresized: float
    """the loader without its resize"""
    feed: float
    share: float
    """of bare reading, the median over rounds"""
    differ: float


def in_turn(first: Callable[[], None], second: Callable[[], None]) -> tuple[float, float, float]:
    """Return the median seconds of both, and the median of what first ÷ second is in a round."""
    first(), second()
    rounds = [(once(first), once(second)) for _ in range(ROUNDS)]
    return (
        median(a for a, _ in rounds),
        median(b for _, b in rounds),
        median(a / b for a, b in rounds),
    )


def once(work: Callable[[], None]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


def measure(paths: list[str], mode: str) -> Rates:
    spec = PreprocessSpec(mode=mode, size=SIDE)
    some, source = paths[:200], open_source(paths)
    ours = np.concatenate([x.copy() for x in prepared(open_source(some), spec)])
    theirs = np.concatenate([x.numpy() for x in loader(some, mode)])
    differ = np.abs(ours - theirs).max() / max(1.0, float(np.abs(theirs).max()))
    bare, fast, share = in_turn(lambda: read_bare(paths), lambda: exhaust(prepared(source, spec)))
    unresized, slow = (
        seconds(lambda r=resize: exhaust(loader(paths, mode, resize=r)), repeats=3)
        for resize in (0, RESIZED)
    )
    return Rates(COUNT / bare, COUNT / slow, COUNT / unresized, COUNT / fast, share, float(differ))


@click.command()
@click.option("--full", is_flag=True, help="Every layout in every mode (ten minutes).")
def main(full: bool) -> None:
    rows, ratios = [], {mode: [] for mode in MODES}
    for layout in layouts():
        plain = layout.order == "C" and not layout.swapped and not layout.nan
        with tempfile.TemporaryDirectory() as folder:
            paths = write_files(Path(folder), layout)
            for mode in MODES if full or plain else MODES[:1]:
                found = measure(paths, mode)
                ratio, unresized = found.feed / found.loader, found.feed / found.unresized
                ratios[mode].append((ratio, unresized, found.share))
                rates = [f"{rate:,.0f}" for rate in (found.bare, found.loader, found.feed)]
                times = [f"{ratio:.1f}", f"{unresized:.1f}", f"{found.share:.2f}"]
                rows.append([str(layout), mode, *rates, *times, f"{found.differ:.1e}"])
                print(" | ".join(rows[-1]), flush=True)
    worst = {mode: np.min(found, axis=0) for mode, found in ratios.items()}
    times = ", ".join(f"{mode} {found[0]:.1f}" for mode, found in worst.items())
    unresized = ", ".join(f"{mode} {found[1]:.1f}" for mode, found in worst.items())
    share = ", ".join(f"{mode} {found[2]:.2f}" for mode, found in worst.items())
    write_result(
        "feed",
        "The feed: files to prepared batches",
        f"{COUNT:,} files of {SIDE}×{SIDE} pixels in the page cache, {usable_cores()} cores, "
        f"{WORKERS} threads against {WORKERS} DataLoader workers, batches of {BATCH}; medians.",
        f"Least ratio to the DataLoader: {times}; to one that does not resize: {unresized}. Least "
        f"share of bare reading: {share}.",
        table(
            [
                "stored as",
                "mode",
                "bare reading/s",
                "DataLoader/s",
                "feed/s",
                "feed ÷ DataLoader",
                "÷ one without resize",
                "feed ÷ bare reading",
                "max abs Δx (of the largest)",
            ],
            rows,
        ),
        readme=[
            (
                f"files to prepared batches, {SIDE}×{SIDE} in {len(ratios['minmax'])} layouts, "
                "against the DataLoader",
                f"at least {times} times; of bare reading in one thread at least {share}",
            )
        ],
    )


if __name__ == "__main__":
    main()
