"""lens-verify"""

import sys
from pathlib import Path

import click

from stronglens.engine.config import DEVICES, PRECISIONS, EngineConfig, Wanted
from stronglens.engine.options import list_options, survive_any_terminal, tell


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.argument("out", type=click.Path(path_type=Path), metavar="PREDS")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    metavar="BUNDLE",
    help="Model bundle.  [default: that of the receipt, or the newest under bundles/]",
)
@click.option("--device", type=click.Choice(DEVICES), default="auto", help="Where the model runs.")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="auto",
    help="What it computes in, where there is no receipt to say.",
)
@click.option(
    "--sample", type=click.IntRange(min=0), default=100, metavar="N", help="Rows to score again."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the draw of these rows.")
@list_options
def main(
    out: Path,
    inputs: tuple[str, ...],
    model: Path | None,
    device: str,
    precision: str,
    sample: int,
    seed: int,
    band: str,
    stacked: bool,
    null_separated: bool,
) -> None:
    """Check that PREDS, an output of lens-infer, is complete and is what it says.

    Every row must be of its INPUT, in order; the model, the inputs and the bytes must be those
    of the receipt beside it; and rows drawn at random are scored again.

    Exit status: 0 verified, 1 it is not, or an error, 2 wrong usage.
    """
    survive_any_terminal()
    from stronglens.engine.errors import LensError

    try:
        from stronglens.engine.runs.verify import verify

        verdict = verify(
            out,
            inputs,
            model=model,
            sample=sample,
            seed=seed,
            wanted=Wanted(band=band, stacked=stacked, null_separated=null_separated),
            config=EngineConfig(device=device, precision=precision),
            stderr=sys.stderr,
        )
    except LensError as err:
        raise click.ClickException(str(err)) from err
    tell(verdict)
    if verdict.problems:
        sys.exit(1)
