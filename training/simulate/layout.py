"""Which files a simulated data set has, and the seed of each: decided before any is made."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

GENERATOR = 1
"""raise when a seed gives other pixels than before, so that the two are never mixed"""

CLASSES = {"substructure": ("no", "sphere", "vort"), "lensfinding": ("lens", "nonlens")}
"""of each task, in the order of the labels and of the numbers in the seeds"""

BYTES = {"substructure": 128 + 8 * 150 * 150, "lensfinding": 128 + 4 * 334 * 334}
"""of one file: the .npy header and the pixels"""

PREFIX = {"lens": "l", "nonlens": "nl"}
TRAIN, VAL, CATALOGUE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Target:
    """One file to be: its path in the data set, its class, and what its randomness comes from."""

    path: str
    cls: str
    entropy: tuple[int, int, int, int, int]
    """seed, task, split, class, number: all that is needed to make this one again alone"""


def plan(task: str, *, train: int, val: int, seed: int, flat: bool = False) -> list[Target]:
    """List the files of a data set, each with a scene that no other shares.

    Args:
        task: "substructure" or "lensfinding".
        train: images a class in train; for lensfinding the number of lenses.
        val: images a class in val; for lensfinding the number of non-lenses.
        seed: any number below 2**32.
        flat: train + val cutouts altogether in one folder, numbered in a shuffled order; for
            substructure as many of one class as of another, to one.
    """
    if flat:
        return _catalogue(task, train, val, seed)
    if task == "lensfinding":
        return [
            _target(task, cls, seed, TRAIN, number, f"{PREFIX[cls]}_{number}_hst.npy")
            for cls, count in zip(CLASSES[task], (train, val), strict=True)
            for number in range(1, count + 1)
        ]
    return [
        _target(task, cls, seed, split, number, f"{folder}/{cls}/{number}.npy")
        for split, folder, count in ((TRAIN, "train", train), (VAL, "val", val))
        for cls in CLASSES[task]
        for number in range(1, count + 1)
    ]


def _catalogue(task: str, train: int, val: int, seed: int) -> list[Target]:
    classes = CLASSES[task]
    if task == "lensfinding":
        of_cutout = [classes[0]] * train + [classes[1]] * val
    else:
        of_cutout = [classes[i % len(classes)] for i in range(train + val)]
    order = np.random.default_rng([seed, list(CLASSES).index(task), CATALOGUE])
    shuffled = [of_cutout[i] for i in order.permutation(len(of_cutout))]
    return [
        _target(task, cls, seed, CATALOGUE, number, f"{number}.npy")
        for number, cls in enumerate(shuffled, start=1)
    ]


def _target(task: str, cls: str, seed: int, split: int, number: int, path: str) -> Target:
    numbers = (seed, list(CLASSES).index(task), split, CLASSES[task].index(cls), number)
    return Target(path, cls, numbers)


def counts(targets: list[Target]) -> dict[str, int]:
    """Count the files by folder and class: {"train/no": 10000, …}, or {"lens": 152, …}."""
    folders = (target.path.rpartition("/")[0] or target.cls for target in targets)
    return dict(Counter(folders))
