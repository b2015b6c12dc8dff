"""lens-export"""

import sys
from pathlib import Path

import click


class Count(click.ParamType[int]):
    """`auto` (as 0), or a number of at least 1."""

    name = "auto|N"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return the number."""
        if isinstance(value, int):
            return value
        if value == "auto":
            return 0
        if not value.isdecimal() or int(value) < 1:
            self.fail(f"{value!r} is neither auto nor a number of at least 1", param, ctx)
        return int(value)


@click.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="The bundle.  [default: bundles/<task>]"
)
@click.option("--fp16", "half", is_flag=True, help="Also a half-precision graph, for GPUs.")
@click.option(
    "--int8", is_flag=True, help="Also an int8 graph, for CPUs, calibrated on training cutouts."
)
@click.option(
    "--tensorrt",
    is_flag=True,
    help="Also build and check TensorRT's plans, for the GPU of this machine.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Cutouts to compare on, laid out as for lens-train.  [default: the run's own]",
)
@click.option(
    "--parity-count",
    "count",
    type=Count(),
    default="auto",
    show_default=True,
    help="How many cutouts to compare on; auto: 256 to 2,000, by what the net costs.",
)
def main(
    run: Path | None,
    out: Path | None,
    half: bool,
    int8: bool,
    tensorrt: bool,
    data: Path | None,
    count: int,
) -> None:
    """Export RUN (the newest under runs/) as a bundle that lens-infer serves.

    Every graph is compared with torch float32 on the run's validation cutouts, filled up with
    training cutouts where they are few. A graph that differs too much fails the export.
    """
    for stream in (sys.stdout, sys.stderr):  # not every terminal has a Δ
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    from stronglens.engine.errors import LensError
    from stronglens.export.assemble import Order, export  # torch loads only when needed

    order = Order(run=run, out=out, data=data, half=half, int8=int8, tensorrt=tensorrt, count=count)
    try:
        click.echo(export(order, lambda line: click.echo(line, err=True)))
    except LensError as err:
        raise click.ClickException(str(err)) from err
