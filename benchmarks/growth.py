"""How do time and memory grow with the catalogue, from 100 cutouts to a million?

    python benchmarks/growth.py [--full]

The net costs next to nothing, so what is seen is the engine: listing, feed, rows. The files are
hard links to a few real ones, in one folder and in the page cache. Every row is checked: ids
complete and in order, and what it says the same, byte for byte, as the file gets on its own.
The peer is the reference's way: a list of paths, torch's DataLoader, the same net in torch, all
results held until they are written. --full measures the two largest three times too.
"""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import click
import many
import matplotlib
import numpy as np
import torch
from common import RESULTS, apart, child, read_predictions, table, write_result
from reference import NotebookDataset
from torch.utils.data import DataLoader

SIZES = [round(10 ** (k / 2)) for k in range(4, 13)]
ORDERED = 100_000
"""cutouts in the tests of order and batch size"""
PEER_SIZES = [1_000, 10_000, 100_000]
BATCH, WORKERS = 32, 2


class Cost(NamedTuple):
    """What one run cost."""

    inputs: int
    seconds: float
    peak_mb: float


class Fit(NamedTuple):
    """seconds = start + each·N, and how far from it the measured ones are at most."""

    start: float
    each: float
    worst: float
    exponent: float
    """of N, in the seconds beyond `start`; where these are most of the time"""

    def __str__(self) -> str:
        return (
            f"{self.start:.2f} s and {self.each * 1e6:.1f} µs a cutout, no size further than "
            f"{self.worst:.0%} from it; beyond the start, time grows as N^{self.exponent:.2f}"
        )


def straight(costs: Sequence[Cost]) -> Fit:
    """Fit a straight line with the least relative errors."""
    n_S, t_S = np.array([[cost.inputs, cost.seconds] for cost in costs]).T
    lines_S2 = np.stack([1 / t_S, n_S / t_S], axis=1)
    start, each = np.linalg.lstsq(lines_S2, np.ones(len(costs)), rcond=None)[0]
    large_S = each * n_S > start / 2
    log_n, log_t = np.log(n_S[large_S]), np.log(t_S[large_S] - start)
    worst = np.abs((start + each * n_S) / t_S - 1).max()
    return Fit(float(start), float(each), float(worst), float(np.polyfit(log_n, log_t, 1)[0]))


class Catalogue:
    """A folder of links that can grow, and the rows that its files get on their own."""

    def __init__(self, root: Path, name: str, contents: Sequence[many.NDArray]) -> None:
        self.bundle = root / "bundle"
        self.folder = root / name
        self.out = root / f"{name}.csv"
        self.files = many.write_files(root / f"{name}_files", contents)
        child("lens-infer", *self.files, "--model", self.bundle, "--out", self.out)
        self.expected = [rest for _, rest in many.rows_by_id(self.out)]
        self.count = 0

    def grow(self, count: int, which: Callable[[int], int]) -> None:
        """Link more names, up to `count`."""
        many.link(self.files, self.folder, range(self.count, count), which)
        self.count, self.which = count, which

    def measure(self, *options: object) -> Cost:
        """Run lens-infer on the folder and check every row."""
        done = child("lens-infer", self.folder, "--model", self.bundle, "--out", self.out, *options)
        many.check_rows(self.out, self.folder, self.expected, self.count, self.which)
        return Cost(self.count, done.seconds, done.peak_mb)


def interleaved(i: int) -> int:
    return i % many.FILES


def in_blocks(i: int) -> int:
    return i * many.FILES // ORDERED


def middle(costs: Sequence[Cost]) -> Cost:
    """Return the median time and the highest peak of runs on one catalogue."""
    peak = max(cost.peak_mb for cost in costs)
    return Cost(costs[0].inputs, median(cost.seconds for cost in costs), peak)


def measure_sizes(root: Path, repeats: int) -> tuple[list[Cost], list[Cost], float]:
    """Return the engine's costs and the peer's, and max |Δp| between the two."""
    catalogue = Catalogue(root, "catalog", many.alike())
    ours, theirs, worst = [], [], 0.0
    for size in SIZES:
        catalogue.grow(size, interleaved)
        times = 3 if size <= PEER_SIZES[-1] else repeats
        ours.append(middle([catalogue.measure() for _ in range(times)]))
        if size in PEER_SIZES:
            out = root / "peer.csv"
            done = child("python", __file__, "--peer", catalogue.folder, out)
            theirs.append(Cost(size, done.seconds, done.peak_mb))
            ids, _, theirs_NK = read_predictions(out)
            ours_ids, _, ours_NK = read_predictions(catalogue.out)
            found = dict(zip(ids, theirs_NK, strict=True))
            theirs_NK = np.array([found[name] for name in ours_ids])
            worst = max(worst, apart(ours_NK, theirs_NK)[0])
    return ours, theirs, worst


def measure_orders(root: Path) -> list[tuple[str, Cost]]:
    """Return the costs of batches of several sizes, and of a mixed catalogue in two orders."""
    plain = Catalogue(root, "plain", many.alike())
    plain.grow(ORDERED, interleaved)
    found = [
        (f"all alike, batches of {size}", plain.measure("--batch-size", size))
        for size in (8, 32, 512)
    ]
    for name, which in (("in turn", interleaved), ("in blocks", in_blocks)):
        mixture = Catalogue(root, f"mixed_{which.__name__}", many.mixed())
        mixture.grow(ORDERED, which)
        what = f"float64, float32 of both byte orders, int16, wrong shapes, {name}"
        found.append((what, mixture.measure()))
    return found


def run_peer(folder: Path, out: Path) -> None:
    """Score a folder as the reference's notebooks do."""
    paths = sorted(map(str, folder.glob("*.npy")))
    graph = many.tiny_graph()
    loader = DataLoader(NotebookDataset(paths, 0, False), BATCH, num_workers=WORKERS)
    with torch.no_grad():
        prob_NK = torch.cat([graph(x_B1HW.squeeze(1)) for x_B1HW, _ in loader])
    with out.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", *(f"p_{name}" for name in many.CLASSES)])
        rows.writerows([path, *row] for path, row in zip(paths, prob_NK.tolist(), strict=True))


def draw(ours: Sequence[Cost], theirs: Sequence[Cost], fit: Fit, path: Path) -> None:
    """Draw time and peak memory against the number of inputs."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (time, memory) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for costs, name, colour in ((ours, "lens-infer", "C0"), (theirs, "reference's way", "C1")):
        n_S, t_S, peak_S = zip(*costs, strict=True)
        time.plot(n_S, t_S, "o", color=colour, label=name)
        memory.plot(n_S, peak_S, "o-", color=colour, label=name)
    n_S = np.geomspace(SIZES[0], SIZES[-1], 200)
    label = f"{fit.start:.1f} s + {fit.each * 1e6:.0f} µs · N"
    time.plot(n_S, fit.start + fit.each * n_S, color="C0", lw=1, label=label)
    time.set(xscale="log", yscale="log", ylabel="seconds, start to exit")
    memory.set(xscale="log", ylabel="peak resident memory, MB", ylim=(0, None))
    for axes in (time, memory):
        axes.set_xlabel("cutouts in the catalogue")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(path, dpi=90)


def write(
    ours: list[Cost], theirs: list[Cost], worst: float, orders: list[tuple[str, Cost]]
) -> None:
    fit = straight(ours)
    draw(ours, theirs, fit, RESULTS / "growth.png")
    peers = {cost.inputs: cost for cost in theirs}
    flat = [cost.peak_mb for cost in ours if cost.inputs >= 10_000]
    spread = max(flat) - min(flat)
    rows = []
    for cost in ours:
        peer = peers.get(cost.inputs)
        rate = f"{cost.inputs / cost.seconds:,.0f}"
        figures = [f"{cost.seconds:.2f}", rate, f"{cost.peak_mb:.0f}"]
        beside = [f"{peer.seconds / cost.seconds:.1f}", f"{peer.peak_mb:.0f}"] if peer else ["", ""]
        rows.append([f"{cost.inputs:,}", *figures, *beside])
    last = theirs[-1]
    ratio = last.seconds / next(c.seconds for c in ours if c.inputs == last.inputs)
    write_result(
        "growth",
        "Time and memory against the size of the catalogue",
        f"`lens-infer FOLDER`, float32 cutouts of {many.SIDE}×{many.SIDE} in one folder (hard "
        f"links to {many.FILES} files in the page cache), a net of one small convolution. "
        "Seconds of the whole command, start-up included.",
        f"Time is a straight line: {fit}. From {10_000:,} to {SIZES[-1]:,} inputs the peak "
        f"memory differs by {spread:.0f} MB.",
        table(
            ["cutouts", "s", "cutouts/s", "peak MB", "reference's way ÷ lens-infer, time",
             "reference's peak MB"],
            rows,
        ),
        f"Every row was checked: as many as cutouts, in natural order, each saying byte for byte "
        f"what its file is given on its own. Against torch in the reference's way max |Δp| is "
        f"{worst:.1e}. The reference's memory is that of its largest process; its DataLoader has "
        f"{WORKERS} more.",
        f"The same for {ORDERED:,} cutouts in other batches and orders:",
        table(
            ["catalogue", "cutouts/s", "peak MB"],
            [[name, f"{c.inputs / c.seconds:,.0f}", f"{c.peak_mb:.0f}"] for name, c in orders],
        ),
        "![growth](growth.png)",
        readme=[
            (
                f"peak memory from 10,000 to {SIZES[-1]:,} inputs",
                f"{max(flat):.0f} MB, flat within {spread:.0f} MB",
            ),
            (
                f"time from {SIZES[0]:,} to {SIZES[-1]:,} inputs, a net that costs nothing",
                f"a straight line within {fit.worst:.0%}: {fit.start:.1f} s and "
                f"{fit.each * 1e6:.0f} µs a cutout; {ratio:.0f} times the reference's way at "
                f"{last.inputs:,}, every row checked",
            ),
        ],
    )  # fmt: skip


@click.command()
@click.option("--full", is_flag=True, help="Also the largest sizes three times.")
@click.option("--peer", nargs=2, type=click.Path(path_type=Path), hidden=True)
def main(full: bool, peer: tuple[Path, Path] | None) -> None:
    if peer:
        run_peer(*peer)
        return
    with many.work_folder() as root:
        many.write_tiny_bundle(root / "bundle", many.alike())
        orders = measure_orders(root)
        ours, theirs, worst = measure_sizes(root, 3 if full else 1)
    write(ours, theirs, worst, orders)


if __name__ == "__main__":
    main()
