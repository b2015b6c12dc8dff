"""A data set that a small net learns in seconds: a bright square, left, centred or right."""

import numpy as np

from stronglens.engine.preprocess import PreprocessSpec
from stronglens.training.data import DataSet, Split

CLASSES = ["left", "middle", "right"]
SIZE = 24


def cutout(rng, label):
    """Return one cutout float64: noise, and a square whose column is the class."""
    image = rng.normal(0, 0.2, (SIZE, SIZE))
    row = rng.integers(4, 14)
    image[row : row + 6, 2 + 7 * label : 8 + 7 * label] += 2
    return image


def dataset(*, train=60, val=30, seed=0):
    """Return it in memory, the classes in turn."""
    rng = np.random.default_rng(seed)

    def split(count, name):
        y_N = np.arange(count) % 3
        x_NHW = np.stack([cutout(rng, label) for label in y_N]).astype(np.float32)
        x_NHW = (x_NHW - x_NHW.min((1, 2), keepdims=True)) / np.ptp(x_NHW, (1, 2), keepdims=True)
        return Split([f"{name}/{i}" for i in range(count)], x_NHW, y_N)

    origin = {"simulated": False, "split": "made here"}
    spec = PreprocessSpec(size=SIZE)
    return DataSet(split(train, "train"), split(val, "val"), CLASSES, spec, origin)


def write(root, *, train=20, val=8, seed=0):
    """Write it in the reference's layout, so many cutouts a class."""
    rng = np.random.default_rng(seed)
    for name, count in (("train", train), ("val", val)):
        for label, cls in enumerate(CLASSES):
            (root / name / cls).mkdir(parents=True)
            for i in range(1, count + 1):
                np.save(root / name / cls / f"{i}.npy", cutout(rng, label)[None])
