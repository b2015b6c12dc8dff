"""lens-merge"""

import sys
from pathlib import Path

import click

from stronglens.engine.options import survive_any_terminal, tell


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.argument("out", type=click.Path(path_type=Path), metavar="PREDS")
@click.option(
    "--encodings",
    type=click.Path(path_type=Path),
    metavar="FILE.npy",
    help="Also join the shards' encodings.",
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    metavar="N",
    help="Also write the N best candidates of all shards.",
)
@click.option(
    "--target",
    metavar="CLASS",
    default="",
    show_default=False,
    help="Class that candidates are ranked by.  [default: lens, where there is one]",
)
def main(out: Path, encodings: Path | None, top: int | None, target: str) -> None:
    """Join the shards of PREDS that lens-infer --shard i/n wrote: preds.1-of-3.csv and so on.

    All must be there, unchanged, and of one run. The bytes are those that a single run would
    have written. The shards stay.

    Exit status: 0 done, 1 an error and nothing written, 2 wrong usage, 3 done but some rejected.
    """
    survive_any_terminal()
    from stronglens.engine.errors import LensError

    try:
        from stronglens.engine.candidates import Top, target_class
        from stronglens.engine.runs.merge import merge

        def gather(classes: list[str]) -> Top | None:
            return Top(top, classes.index(target_class(classes, target))) if top else None

        report = merge(out, top=gather, encodings=encodings)
    except LensError as err:
        raise click.ClickException(str(err)) from err
    tell(report)
    if report.rejected:
        sys.exit(3)
