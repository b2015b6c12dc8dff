"""What a run is: two runs with the same identity write the same rows.

It guards what is finished (`parts`), and goes with the output as its receipt.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stronglens.engine.backends import Backend
from stronglens.engine.bundle import MANIFEST, Bundle, sha256
from stronglens.engine.errors import LensError
from stronglens.engine.runs.parts import record_type
from stronglens.engine.sources import Source

RECEIPT_LIMIT = 1 << 20
"""bytes; a longer receipt is not one of ours"""


@dataclass(frozen=True, slots=True)
class Run:
    """The rows of one run, from `start` to before `stop` of a listing, and what makes them."""

    bundle: Bundle
    source: Source
    start: int
    stop: int
    identity: dict[str, Any]
    """as JSON holds it"""
    encoding: int
    """length of an encoding; 0: none is kept"""

    @property
    def num_classes(self) -> int:
        """K: how many probabilities a row has."""
        return len(self.bundle.manifest.classes)

    @property
    def dtype(self) -> np.dtype[np.void]:
        """Of the records of its rows."""
        return record_type(self.num_classes, self.encoding)

    def __len__(self) -> int:
        return self.stop - self.start


def describe(
    bundle: Bundle,
    source: Source,
    rows: tuple[int, int],
    band: str,
    backend: Backend,
    encoding: int,
) -> Run:
    """Return the run that these make; `encoding` is the length of one, 0 where none is kept."""
    manifest = bundle.manifest
    identity = {
        "model": sha256(bundle.path / MANIFEST),
        "classes": manifest.classes,
        "preprocess": manifest.preprocess.to_dict(),
        "device": backend.device,
        "precision": backend.precision,
        "listing": source.digest,
        "inputs": len(source),
        "rows": list(rows),
        "band": band,
        "encodings": encoding,
    }
    return Run(bundle, source, *rows, identity, encoding)


def receipt_path(out: Path) -> Path:
    """Return where an output's receipt lies: preds.csv → preds.csv.receipt.json."""
    return out.with_name(f"{out.name}.receipt.json")


def read_receipt(out: Path) -> dict[str, Any] | None:
    """Return the receipt of an output: the run's identity, and `sha256` of the output.

    None where there is none.

    Raises:
        LensError: it is there, and is none.
    """
    file = receipt_path(out)
    try:
        if file.stat().st_size > RECEIPT_LIMIT:
            raise ValueError("too long")
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not isinstance(found.get("run"), dict):
            raise ValueError("no run in it")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as err:
        raise LensError(f"{file} is not a receipt: {err}; remove it") from err
    return found
