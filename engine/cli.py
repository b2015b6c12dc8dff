"""lens-infer"""

import signal
import sys
import time
from pathlib import Path

import click

from stronglens.engine.config import AUTO, DEVICES, PRECISIONS, EngineConfig

SOME_REJECTED = 3
"""exit code: done, but some inputs have no score"""
SETTLING = 2.0
"""seconds that a run which was told to stop has to do so in good order"""


def auto_or_count(text: str) -> int:
    """Return the number that `auto` or a whole number from 1 on stands for."""
    if text == "auto":
        return AUTO
    if not (text.isascii() and text.isdecimal() and int(text) >= 1):
        raise click.BadParameter(f"{text!r} is neither auto nor a whole number from 1 on")
    return int(text)


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
    help="File to write; its ending says the format (.csv).",
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
    doctor: bool,
) -> None:
    """Classify cutouts: one row per INPUT, in order, with its class probabilities.

    INPUT is a .npy, .png or .jpg file with one cutout, a folder of them (searched with all
    its folders), or a quoted pattern such as 'catalog/*.npy', which has no limit of length.
    Put -- before names that begin with a dash.

    A cutout that cannot be scored is a row with status rejected, a reason and no
    probabilities. The file appears complete or not at all. Names are written as they are: a
    spreadsheet may take one that begins with = for a formula.

    Exit status: 0 all scored, 1 an error and nothing written, 2 wrong usage, 3 some rejected.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if doctor:
        _diagnose(model)
        return
    if not inputs:
        raise click.UsageError("Missing argument 'INPUT...'.")
    signals = _Signals()
    from stronglens.engine.errors import LensError  # what takes long to import is imported now

    try:
        from stronglens.engine.pipeline import classify

        config = EngineConfig(
            device=device, precision=precision, batch_size=batch_size, workers=workers
        )
        report = classify(inputs, model=model, out=out, config=config, check=signals.check)
    except BaseException as err:
        if signals.came:
            message = f"stopped by {signals.came}: {out} was not written"
            raise click.ClickException(message) from err
        if isinstance(err, LensError):
            raise click.ClickException(str(err)) from err
        raise
    click.echo(report)
    if report.rejected:
        sys.exit(SOME_REJECTED)


def _diagnose(model: Path | None) -> None:
    from stronglens.engine.doctor import diagnose

    for line in diagnose(model):
        click.echo(line)


class _Signals:
    """Notes SIGINT and SIGTERM, so that a run ends between two steps.

    Raised at once, they would be swallowed by compiled code that happens to call Python, or
    leave a library half loaded. Only one that is repeated after SETTLING seconds is.
    """

    def __init__(self) -> None:
        self.came = ""
        self._first = 0.0
        for each in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(each) is not signal.SIG_IGN:
                signal.signal(each, self._note)

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal came."""
        if self.came:
            raise KeyboardInterrupt

    def _note(self, signum: int, frame: object) -> None:
        if not self.came:
            self.came = signal.Signals(signum).name
            self._first = time.monotonic()
        elif time.monotonic() - self._first > SETTLING:
            raise KeyboardInterrupt
