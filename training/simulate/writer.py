"""Write a simulated data set so that it can be stopped, gone on with, and told from a real one.

Beside the cutouts lie `manifest.json` (what this is and how it was made), `params.csv` (the truth
of each cutout) and a hidden ledger of what is finished, from which `params.csv` is made.
"""

import csv
import importlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from stronglens.engine.errors import ConfigError, InputError
from stronglens.training.simulate.folder import (
    LEDGER,
    MOSAIC,
    PARAMS,
    PART,
    Row,
    adopt,
    check_space,
    finished,
)
from stronglens.training.simulate.layout import BYTES, CLASSES, GENERATOR, Target, counts, plan
from stronglens.training.simulate.mosaic import save_mosaic

FORMAT = 1
STRONGEST = 10.0
# above about 18 the substructure would have more than the whole mass

Progress = Callable[[int, int], None]
Render = Callable[..., tuple[Any, dict[str, Any]]]


def simulate(
    task: str,
    out: Path,
    *,
    train: int,
    val: int,
    seed: int,
    workers: int = 0,
    strength: float = 1.0,
    orientation: str = "reference",
    flat: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write a data set in the layout of the reference, or go on with one that was stopped.

    A file's bytes depend on the seed, the options and its own path, never on the workers, on the
    other files, or on how often the run was stopped.

    Args:
        task: "substructure" or "lensfinding".
        out: the folder; made if missing.
        train: images a class in train; for lensfinding the number of lenses.
        val: images a class in val; for lensfinding the number of non-lenses.
        seed: any number below 2**32.
        workers: threads; 0 for one a core. The compiled loops hold no lock.
        strength: multiplies the substructure's share of the mass (substructure only).
        orientation: "reference", or "any" for shear and source at all angles (substructure only).
        flat: a catalogue to classify instead: train + val cutouts `1.npy`, `2.npy`, … of shuffled
            classes, told only by params.csv.
        progress: called with the number of files done and their total.

    Raises:
        ConfigError: a setting is out of range, or `out` holds a data set made with others.
        InputError: `out` holds files that are not of this data set, or cannot be written.
    """
    options = {"strength": strength, "orientation": orientation}
    _check(task, train, val, seed, options)
    targets = plan(task, train=train, val=val, seed=seed, flat=flat)
    module = importlib.import_module(f"stronglens.training.simulate.{task}")
    recipe = getattr(module, "RECIPE", None)
    manifest = {
        "format": FORMAT,
        "simulated": True,
        "task": task,
        "classes": list(CLASSES[task]),
        "layout": "flat" if flat else "reference",
        "seed": seed,
        "counts": counts(targets),
        "options": options if task == "substructure" else {},
        "generator": GENERATOR,
        "recipe": json.loads(json.dumps(asdict(recipe))) if recipe else {},
        "versions": {name: version(name) for name in ("stronglens", "numpy", "numba", "scipy")},
    }
    render = partial(module.render, **manifest["options"])
    try:
        adopt(out, manifest, targets)
        rows = finished(out, targets, BYTES[task])
        missing = [target for target in targets if target.path not in rows]
        check_space(out, len(missing) * BYTES[task])
        _make(out, missing, rows, render, workers or _cores(), progress, len(targets))
        _write_params(out / PARAMS, [rows[target.path] for target in targets])
        save_mosaic(mosaic_path(out, task, flat=flat), out, targets, shuffled=flat)
    except OSError as err:
        raise InputError(f"{err.filename or out}: cannot be written: {err.strerror}") from err


def mosaic_path(out: Path, task: str, *, flat: bool = False) -> Path:
    """Return where a data set's mosaic goes: where the cutouts lie in `out` itself, beside it.

    A PNG among the cutouts would be taken for one of them.
    """
    beside = flat or task == "lensfinding"
    return out.resolve().with_name(f"{out.resolve().name}_{MOSAIC}") if beside else out / MOSAIC


def _check(task: str, train: int, val: int, seed: int, options: dict[str, Any]) -> None:
    if task not in CLASSES:
        raise ConfigError(f"task {task!r} is not known; choose from {', '.join(CLASSES)}")
    if min(train, val) < 0 or train + val == 0:
        raise ConfigError(f"counts {train} and {val}: neither may be negative, nor both 0")
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed {seed} must be at least 0 and below 2**32")
    if not 0 <= options["strength"] <= STRONGEST:
        raise ConfigError(f"strength {options['strength']} must be from 0 to {STRONGEST}")
    if options["orientation"] not in ("reference", "any"):
        raise ConfigError(f"orientation {options['orientation']!r} must be 'reference' or 'any'")
    if task == "lensfinding" and options != {"strength": 1.0, "orientation": "reference"}:
        raise ConfigError("strength and orientation are settings of the task substructure")


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _make(
    out: Path,
    missing: list[Target],
    rows: dict[str, Row],
    render: Render,
    workers: int,
    progress: Progress | None,
    total: int,
) -> None:
    """Make the missing files, adding each one's row to `rows` and to the ledger."""
    with (out / LEDGER).open("a", buffering=1) as ledger:
        for row in _rendered(out, missing, render, workers):
            rows[row["file"]] = row
            ledger.write(json.dumps(row) + "\n")
            if progress:
                progress(len(rows), total)


def _rendered(out: Path, missing: list[Target], render: Render, workers: int) -> Iterator[Row]:
    pool = ThreadPoolExecutor(workers)
    try:
        yield from pool.map(lambda target: _write_cutout(out, target, render), missing)
    finally:
        pool.shutdown(cancel_futures=True)


def _write_cutout(out: Path, target: Target, render: Render) -> Row:
    """Render one cutout and save it whole or not at all; return its row."""
    cutout, params = render(target.entropy, target.cls)
    path = out / target.path
    part = path.with_name(path.name + PART)
    with part.open("wb") as file:
        np.save(file, cutout, allow_pickle=False)
    part.replace(path)
    return {"file": target.path, "class": target.cls, **params}


def _write_params(path: Path, rows: list[Row]) -> None:
    """Write a line a cutout; what a class doesn't have is empty, a list is JSON."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    part = path.with_name(path.name + PART)
    with part.open("w", newline="") as file:
        table = csv.DictWriter(file, columns, restval="")
        table.writeheader()
        for row in rows:
            table.writerow({k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()})
    part.replace(path)
