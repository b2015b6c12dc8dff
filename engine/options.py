"""What the options of lens-infer, lens-verify and lens-merge have in common."""

import os
import re
import sys
from collections.abc import Callable
from typing import Any

import click

from stronglens.engine.config import AUTO, Tolerated


def auto_or_count(text: str) -> int:
    """Return the number that `auto` or a whole number from 1 on stands for."""
    if text == "auto":
        return AUTO
    if not (text.isascii() and text.isdecimal() and int(text) >= 1):
        raise click.BadParameter(f"{text!r} is neither auto nor a whole number from 1 on")
    return int(text)


def share_or_count(text: str) -> Tolerated:
    """Return what `5%` or `20` bears."""
    if match := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)%", text):
        if (share := float(match[1]) / 100) <= 1:
            return Tolerated(share=share)
    elif re.fullmatch("[0-9]+", text):
        return Tolerated(count=int(text), share=0.0)
    raise click.BadParameter(f"{text!r} is neither a share such as 5% nor a number of cutouts")


def i_of_n(text: str) -> tuple[int, int]:
    """Return the numbers of `3/10`."""
    if not (match := re.fullmatch("([0-9]+)/([0-9]+)", text)):
        raise click.BadParameter(f"{text!r} is not of the form i/n, such as 3/10")
    i, n = int(match[1]), int(match[2])
    if not 1 <= i <= n:
        raise click.BadParameter(f"{text}: shards are counted from 1/{n} to {n}/{n}")
    return i, n


def list_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how inputs are to be taken."""
    for option in reversed(
        (
            click.option(
                "--band",
                metavar="K",
                default="",
                show_default=False,
                help="Band to take of cutouts with several: a number from 0, or the name of a "
                "FITS extension.",
            ),
            click.option(
                "--stack",
                "stacked",
                is_flag=True,
                help="Each plane of a cube, each image extension, is a cutout of its own.",
            ),
            click.option(
                "-0",
                "null_separated",
                is_flag=True,
                help="Names in lists end with NUL, as find -print0 writes them.",
            ),
        )
    ):
        command = option(command)
    return command


def survive_any_terminal() -> None:
    """Let the terminal lack characters that names have, or be closed.

    A closed descriptor's number would go to the next file that is opened, the output say, and
    what libraries print would land in it.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def tell(text: object) -> None:
    """Print what a command ends with; its files are written, whether somebody reads this or not."""
    try:
        click.echo(text)
        sys.stdout.flush()
    except OSError:  # a pipe that was closed, or a log on a full disk
        # what is still in the buffer would fail again when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
