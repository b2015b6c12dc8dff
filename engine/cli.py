"""lens-infer"""

import sys
from pathlib import Path
from typing import Any

import click

from stronglens.engine.config import DEVICES, PRECISIONS, EngineConfig, Wanted
from stronglens.engine.options import (
    auto_or_count,
    i_of_n,
    list_options,
    share_or_count,
    survive_any_terminal,
    tell,
)
from stronglens.engine.signals import Signals

SOME_REJECTED = 3
"""exit code: done, but some inputs have no score"""


class TooManyRejected(click.ClickException):
    """More inputs were rejected than --max-bad bears."""

    exit_code = 4


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.argument("inputs", nargs=-1, metavar="INPUT...")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    metavar="BUNDLE",
    help="Model bundle.  [default: the newest under bundles/]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("preds.csv"),
    help="File to write; its ending says the format: .csv .parquet .fits .vot.",
)
@click.option("--device", type=click.Choice(DEVICES), default="auto", help="Where the model runs.")
@click.option(
    "--precision", type=click.Choice(PRECISIONS), default="auto", help="What it computes in."
)
@click.option(
    "--batch-size",
    type=auto_or_count,
    metavar="auto|N",
    default="auto",
    help="Cutouts the model gets at once.",
)
@click.option(
    "--workers",
    type=auto_or_count,
    metavar="auto|N",
    default="auto",
    help="Threads that read and prepare.",
)
@list_options
@click.option(
    "--encodings",
    type=click.Path(path_type=Path),
    metavar="FILE.npy",
    help="Also write each cutout's encoding (lens finder), (rows, D) float32.",
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    metavar="N",
    help="Also write the N best candidates, best first, beside the output (preds.top.csv).",
)
@click.option(
    "--threshold-at-fpr",
    "max_fpr",
    type=float,
    metavar="FPR",
    help="Candidates are those above the threshold that had this false positive rate in "
    "validation.",
)
@click.option(
    "--target",
    metavar="CLASS",
    default="",
    show_default=False,
    help="Class that candidates are ranked by.  [default: lens, where the model has it]",
)
@click.option(
    "--max-bad",
    type=share_or_count,
    metavar="5%|N",
    default="100%",
    help="Stop (exit status 4) when more cutouts than this are rejected.",
)
@click.option("--retry", is_flag=True, help="Try the rejected rows of what is finished again.")
@click.option(
    "--shard",
    type=i_of_n,
    metavar="i/n",
    default="1/1",
    show_default=False,
    help="Only the i-th of n parts of the inputs, from 1; lens-merge joins them.",
)
@click.option(
    "--plan",
    is_flag=True,
    help="Read a sample, say what is there, what would be chosen and how long it takes; stop.",
)
@click.option(
    "--doctor",
    is_flag=True,
    help="Say what this machine has and what would be chosen, and stop: send us this.",
)
def main(
    inputs: tuple[str, ...],
    model: Path | None,
    out: Path,
    device: str,
    precision: str,
    batch_size: int,
    workers: int,
    plan: bool,
    doctor: bool,
    **wanted: Any,
) -> None:
    """Classify cutouts: one row per INPUT, in order, with its class probabilities.

    INPUT is a file, a folder (searched with all its folders), a quoted pattern such as
    'catalog/*.npy' (which has no limit of length), @list.txt with a name a line, or - for names
    on standard input. Files hold one cutout (.npy .fits .png .jpg) or many (stacked .npy .npz
    .h5 .zarr .parquet .tar); a .csv, .parquet or FITS table with a path column is a catalogue,
    whose other columns are carried through. Put -- before names that begin with a dash.

    A cutout that cannot be scored is a row with status rejected, a reason and no probabilities.
    The output appears complete or not at all; its ending says the format: .csv .parquet .fits
    .vot. Until then what is finished is kept beside it: the same command goes on from there.

    Exit status: 0 all scored, 1 an error or a stop, 2 wrong usage, 3 some rejected, 4 too many
    rejected.
    """
    survive_any_terminal()
    if doctor:
        _diagnose(model)
        return
    if not inputs:
        raise click.UsageError("Missing argument 'INPUT...'.")
    signals = Signals()
    from stronglens.engine.errors import (  # what takes long to import is imported now
        LensError,
        TooManyRejectedError,
    )

    try:
        config = EngineConfig(
            device=device, precision=precision, batch_size=batch_size, workers=workers
        )
        wishes = Wanted(**{name: value for name, value in wanted.items() if value is not None})
        if plan:
            from stronglens.engine.runs.plan import make_plan

            tell(make_plan(inputs, model=model, out=out, wanted=wishes, config=config))
            return
        from stronglens.engine.pipeline import classify

        report = classify(
            inputs, model=model, out=out, wanted=wishes, config=config, check=signals.check
        )
    except BaseException as err:
        if signals.came:
            raise click.ClickException(_stopped(signals.came, out)) from err
        if isinstance(err, LensError):
            many = isinstance(err, TooManyRejectedError)
            raise (TooManyRejected if many else click.ClickException)(str(err)) from err
        raise
    tell(report)
    if report.rejected:
        sys.exit(SOME_REJECTED)


def _stopped(signal: str, out: Path) -> str:
    return (
        f"stopped by {signal}: {out} was not written. What is finished is kept beside it: run the "
        "same command to go on"
    )


def _diagnose(model: Path | None) -> None:
    from stronglens.engine.doctor import diagnose

    for line in diagnose(model):
        tell(line)
