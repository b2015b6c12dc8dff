"""Catalogues for tests, and what the engine reads of them."""

import json
from pathlib import Path

import numpy as np

from stronglens.engine.sources.tables import open_catalogue

COLUMNS = {
    "id": np.array([6_000_000_000_000_000_001, -2], "i8"),
    "ra": np.array([0.1, 1e-7], "f4"),
    "dec": np.array([1 / 3, 5e300], "f8"),
    "number": np.array([255, 0], "u1"),
    "seen": np.array([True, False]),
}
TEXT = {"id": ["6000000000000000001", "-2"], "ra": ["0.1", "1e-07"],
        "dec": ["0.3333333333333333", "5e+300"], "number": ["255", "0"],
        "seen": ["true", "false"]}  # fmt: skip
KINDS = {"id": "int", "ra": "float", "dec": "float", "number": "int", "seen": "text"}


def rows(path):
    """The path and the carried values of each row."""
    found = open_catalogue(str(path)).entries()
    return [(each.path, *(json.loads(each.carried) if each.carried else ())) for each in found]


def kinds(path):
    return {column.name: column.kind for column in open_catalogue(str(path)).columns}


def csv(data, name="cat.csv"):
    Path(name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return name
