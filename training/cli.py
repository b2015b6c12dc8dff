"""lens-train"""

from pathlib import Path

import click

from stronglens.engine.errors import LensError


@click.command()
@click.argument("task", default="substructure", type=click.Choice(["substructure", "lensfinding"]))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Data set: {train,val}/CLASS/…, CLASS/…, or real_hst/ with nl_….  "
    "[default: dataset/ or real_hst/, else simulated]",
)
@click.option("--out", type=click.Path(path_type=Path), help="The run.  [default: runs/TASK]")
@click.option(
    "--recipe",
    default="reference",
    show_default=True,
    type=click.Choice(["reference", "native", "quick"]),
    help="reference: as published. native: without its enlargement (substructure), 2.2 times "
    "fewer operations. quick: a smaller net or a few epochs, for minutes on a laptop.",
)
@click.option(
    "-o", "settings", multiple=True, metavar="NAME=VALUE", help="Change a setting of the recipe."
)
@click.option(
    "--weights",
    default="auto",
    show_default=True,
    metavar="auto|imagenet|none|FILE",
    help="First weights; FILE is a .safetensors.",
)
@click.option(
    "--precision", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), help="As -o."
)
@click.option(
    "--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"])
)
@click.option("--compile", "compiled", is_flag=True, help="Compile the net (torch.compile).")
def train(
    task: str,
    data: Path | None,
    out: Path | None,
    recipe: str,
    settings: tuple[str, ...],
    weights: str,
    precision: str | None,
    device: str,
    compiled: bool,
) -> None:
    """Train TASK (substructure) and write a run's folder: weights, scores, plots.

    Killed and started again with the same command, it goes on after its last finished epoch.
    """
    from stronglens.training.progress import Progress
    from stronglens.training.run import Order, run  # torch loads only when needed

    order = Order(
        task=task,
        data=data,
        out=out or Path("runs", task),
        recipe=recipe,
        settings=(*settings, *([f"precision={precision}"] if precision else [])),
        weights=weights,
        device=device,
        compiled=compiled,
    )
    try:
        click.echo(run(order, Progress()))
    except LensError as err:
        raise click.ClickException(str(err)) from err
    except KeyboardInterrupt as err:
        raise click.ClickException(
            "stopped: the same command goes on after the last finished epoch"
        ) from err
