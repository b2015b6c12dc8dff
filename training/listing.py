"""What a data set's folder holds: which cutouts, of which class, in which split.

Three layouts are read: `{train,val}/{class}/…` (without `val`, a split is drawn), `{class}/…`,
and, for lens finding, one flat folder whose names begin with `nl_` where there is no lens.
Everything goes by name: the order in which a folder lists its files never matters.
"""

import hashlib
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stronglens.engine.errors import InputError
from stronglens.engine.sources import SINGLE_ENDINGS, ending, natural
from stronglens.training.tasks import Task

HASH_ALL_BELOW = 1 << 28
"""bytes of a data set up to which its hash covers every byte"""
HASH_EDGE = 1 << 12
"""bytes hashed at either end of each file of a larger data set"""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A cutout's file, and the column of its class."""

    path: str
    label: int


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a data set, by split; classes in label order."""

    train: list[Labelled]
    val: list[Labelled]
    classes: list[str]
    how: str
    """where the split comes from"""


def list_dataset(task: Task, root: Path, *, seed: int, val_fraction: float) -> Listing:
    """List the cutouts of `root` in natural order of their names, class by class.

    Raises:
        InputError: no such folder, no cutouts in a layout that is read, or classes that do
            not fit the task, or differ between the splits.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give a data set with --data DIR")
    flat = _flat_folder(task, root)
    if flat is not None:
        return _drawn(_flat(flat), list(task.classes), seed, val_fraction)
    classes = _classes(task, root / "train" if (root / "train").is_dir() else root)
    if not (root / "train").is_dir():
        return _drawn(_labelled(root, classes), classes, seed, val_fraction)
    train = _labelled(root / "train", classes)
    if not (root / "val").is_dir():
        return _drawn(train, classes, seed, val_fraction)
    found = _classes(task, root / "val")
    if found != classes:
        raise InputError(
            f"{root}: train holds the classes {', '.join(classes)}, val {', '.join(found)}"
        )
    return Listing(train, _labelled(root / "val", classes), classes, "train and val folders")


def hash_files(root: Path, paths: Iterable[str]) -> tuple[str, str]:
    """Return a sha256 over the files, in the order given, and what it covers.

    Names relative to `root` and sizes always; all bytes where they are few in total, else the
    first and last 4 KiB of each file.
    """
    sizes = {path: Path(path).stat().st_size for path in paths}
    everything = sum(sizes.values()) <= HASH_ALL_BELOW
    digest = hashlib.sha256()
    for path, size in sizes.items():
        digest.update(f"{os.path.relpath(path, root)}\0{size}\0".encode("utf-8", "replace"))
        with Path(path).open("rb") as file:
            if everything or size <= 2 * HASH_EDGE:
                digest.update(file.read())
            else:
                digest.update(file.read(HASH_EDGE))
                file.seek(-HASH_EDGE, os.SEEK_END)
                digest.update(file.read())
    covers = "names, sizes and " + ("bytes" if everything else "the first and last 4 KiB")
    return digest.hexdigest(), covers


def _flat_folder(task: Task, root: Path) -> Path | None:
    """Return the folder that holds lens-finding cutouts side by side, if there is one."""
    if task.name != "lensfinding":
        return None
    return next((folder for folder in (root, root / task.default_data) if _cutouts(folder)), None)


def _flat(folder: Path) -> list[Labelled]:
    labelled = [Labelled(path, int(Path(path).name.startswith("nl_"))) for path in _cutouts(folder)]
    return sorted(labelled, key=lambda each: each.label)


def _cutouts(folder: Path) -> list[str]:
    """Return a folder's own cutouts, in natural order; hidden and other files are no cutouts."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_file()]
    wanted = [name for name in names if ending(name) in SINGLE_ENDINGS and not name.startswith(".")]
    return [f"{folder}/{name}" for name in sorted(wanted, key=natural)]


def _classes(task: Task, folder: Path) -> list[str]:
    """Return the folders that hold cutouts: in the task's order if they are its classes."""
    names = sorted(each.name for each in folder.iterdir() if each.is_dir() and _cutouts(each))
    if set(names) == set(task.classes):
        return list(task.classes)
    if task.name == "lensfinding":
        raise InputError(
            f"{folder}: expected cutouts side by side, those of non-lenses named nl_…, or the "
            f"folders {' and '.join(task.classes)}; found {', '.join(names) or 'no cutouts'}"
        )
    if len(names) < 2:
        raise InputError(
            f"{folder}: expected a folder of cutouts for each class, at least 2, such as "
            f"{', '.join(task.classes)}; found {', '.join(names) or 'none'}. "
            f"A cutout's name ends in {', '.join(SINGLE_ENDINGS)}"
        )
    return names


def _labelled(folder: Path, classes: Sequence[str]) -> list[Labelled]:
    return [
        Labelled(path, label)
        for label, name in enumerate(classes)
        for path in _cutouts(folder / name)
    ]


def _drawn(labelled: list[Labelled], classes: list[str], seed: int, val_fraction: float) -> Listing:
    """Hold out a share of each class, drawn by seed; both splits keep the listing's order."""
    from sklearn.model_selection import train_test_split

    labels = [each.label for each in labelled]
    for name, count in zip(classes, np.bincount(labels, minlength=len(classes)), strict=True):
        if count < 2:
            raise InputError(f"cannot split: {count} cutouts of {name}, at least 2 are needed")
    held_out = math.ceil(val_fraction * len(labelled))  # as scikit-learn rounds a share
    held_out = min(max(held_out, len(classes)), len(labelled) - len(classes))
    _, held = train_test_split(
        range(len(labelled)), test_size=held_out, stratify=labels, random_state=seed
    )
    chosen = set(held)
    return Listing(
        [each for i, each in enumerate(labelled) if i not in chosen],
        [each for i, each in enumerate(labelled) if i in chosen],
        classes,
        f"{held_out} of {len(labelled)} held out, stratified, seed {seed}",
    )
