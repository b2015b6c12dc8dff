"""Run the installed commands, and read what they write."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
from tiny_model import SIZE


def command(name, *arguments, cwd, status=0):
    """Run a command; return what it said, as text in which any name comes back."""
    done = subprocess.run(
        [Path(sys.executable).with_name(name), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        errors="surrogateescape",
    )
    assert done.returncode == status, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done


def rows(path):
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def write_catalog(folder, count, rng):
    """Write cutouts named 0.npy, 1.npy, …"""
    folder.mkdir(exist_ok=True)
    for i in range(count):
        np.save(folder / f"{i}.npy", rng.normal(size=(SIZE, SIZE)))
    return folder
