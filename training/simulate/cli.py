"""lens-simulate"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from stronglens.engine.errors import LensError

REFERENCE = {"substructure": (10_000, 2_500), "lensfinding": (152, 63)}
# the counts of the reference: train and val, each a class; lenses and non-lenses
SEED = 42
# the reference's


@click.command()
@click.argument("task", type=click.Choice(list(REFERENCE)), default="substructure")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder to write; one that was stopped is gone on with.",
)
@click.option(
    "--count",
    type=click.IntRange(1),
    help="substructure: images a class in train. lensfinding, --flat: cutouts altogether.  "
    "[default: the reference's, 10000 and 215]",
)
@click.option(
    "--val",
    type=click.IntRange(0),
    help="Images a class in val (substructure only).  [default: a quarter of --count]",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=SEED, show_default=True)
@click.option(
    "--strength",
    type=float,
    default=1.0,
    show_default=True,
    help="Multiplies the mass in substructure; above 1 the classes are easier to tell apart.",
)
@click.option(
    "--orientation",
    type=click.Choice(["reference", "any"]),
    default="reference",
    show_default=True,
    help="'reference' stretches every image along x, as a fault of its generator did.",
)
@click.option("--flat", is_flag=True, help="A catalogue to classify: 1.npy, 2.npy, … shuffled.")
@click.option("--workers", default="auto", show_default=True, help="Threads; auto: one a core.")
def main(
    task: str,
    out: Path,
    count: int | None,
    val: int | None,
    workers: str,
    flat: bool,
    **options: Any,
) -> None:
    """Write simulated cutouts of TASK in the layout of the reference's data set.

    substructure (default): OUT/{train,val}/{no,sphere,vort}/N.npy; lensfinding: OUT/l_N_hst.npy
    and OUT/nl_N_hst.npy. The truth is in OUT/params.csv, how it was made in OUT/manifest.json.
    """
    from stronglens.training.simulate.layout import plan
    from stronglens.training.simulate.writer import mosaic_path, simulate

    train, held_out = _counts(task, count, val, flat)
    threads = _threads(workers)
    try:
        simulate(
            task,
            out,
            train=train,
            val=held_out,
            workers=threads,
            flat=flat,
            progress=_progress(),
            **options,
        )
    except LensError as err:
        raise click.ClickException(str(err)) from err
    total = len(plan(task, train=train, val=held_out, seed=options["seed"], flat=flat))
    click.echo(f"{out}: {total} cutouts of the task {task}, SIMULATED: none is of the sky")
    click.echo(f"{mosaic_path(out, task, flat=flat)}: what they look like")


def _counts(task: str, count: int | None, val: int | None, flat: bool) -> tuple[int, int]:
    """Turn --count and --val into train and val as `simulate` takes them."""
    if val is not None and (flat or task == "lensfinding"):
        raise click.UsageError("--val is for the folders train and val of substructure")
    first, second = REFERENCE[task]
    if task == "lensfinding":
        count = first + second if count is None else count
        lenses = round(count * first / (first + second))
        return lenses, count - lenses
    count = first if count is None else count
    if flat:
        return count, 0
    return count, count * second // first if val is None else val


def _threads(workers: str) -> int:
    if workers == "auto":
        return 0
    if not workers.isdecimal() or int(workers) == 0:
        raise click.BadParameter(
            f"{workers!r} is neither 'auto' nor a number from 1", param_hint="--workers"
        )
    return int(workers)


def _progress() -> Callable[[int, int], None]:
    """Return a function that says on stderr now and then how far it is and how long it takes."""
    start = last = time.monotonic()
    terminal = sys.stderr.isatty()
    before: int | None = None

    def report(done: int, total: int) -> None:
        nonlocal last, before
        before = done - 1 if before is None else before  # made by an earlier run
        now = time.monotonic()
        if done < total and now - last < (1 if terminal else 10):
            return
        last = now
        rate = (done - before) / max(now - start, 1e-9)
        line = f"{done}/{total} cutouts, {rate:.0f}/s, ETA {(total - done) / rate:.0f} s"
        click.echo(f"\r{line}   " if terminal else line, nl=not terminal or done == total, err=True)

    return report
