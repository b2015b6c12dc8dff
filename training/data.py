"""Data sets on disk → prepared cutouts in memory, through the engine's own reading."""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.batches import REJECTED, reason
from stronglens.engine.errors import CutoutError, InputError
from stronglens.engine.feed import feed
from stronglens.engine.preprocess import PreprocessSpec
from stronglens.engine.sources import open_files
from stronglens.training.listing import Labelled, hash_files, list_dataset
from stronglens.training.tasks import VAL_FRACTION, Task

READ_AT_ONCE = 256
PEEK = 15
"""cutouts looked at to learn the side of a data set's cutouts"""
NAMED = 20
"""unreadable cutouts that the record names"""


@dataclass(frozen=True, slots=True)
class Split:
    """Labelled cutouts: ids, x_NHW float32 as `prepare` left them, y_N the column of the class."""

    ids: list[str]
    """paths relative to the data set's folder"""
    x_NHW: NDArray[np.float32]
    y_N: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DataSet:
    """The two splits, and where they come from."""

    train: Split
    val: Split
    classes: list[str]
    spec: PreprocessSpec
    origin: dict[str, Any]
    """path, simulated, sha256, hashed, counts, split, rejected, rejected_ids"""


def load_dataset(
    task: Task,
    path: Path,
    *,
    seed: int,
    cache_dir: Path,
    val_fraction: float = VAL_FRACTION,
    say: Callable[[str], None] = lambda line: None,
) -> DataSet:
    """Read and prepare every cutout of a data set, once; `say` gets what is worth knowing.

    The prepared cutouts stay in memory, or in an unnamed file under `cache_dir` where they
    would take more than a quarter of it. Unreadable cutouts are left out, counted and named.

    Raises:
        InputError: no data set there, or nothing readable in a class of a split.
    """
    listing = list_dataset(task, path, seed=seed, val_fraction=val_fraction)
    spec = fit_spec(task.preprocess, listing.train, say)
    files = [each.path for each in listing.train + listing.val]
    sha256, hashed = hash_files(path, files)
    rejected: dict[str, str] = {}
    splits = {
        name: _read(path, labelled, spec, cache_dir, rejected)
        for name, labelled in (("train", listing.train), ("val", listing.val))
    }
    counts = {name: _counts(name, split, listing.classes) for name, split in splits.items()}
    if rejected:
        kinds = ", ".join(f"{n} {why}" for why, n in Counter(rejected.values()).most_common())
        say(f"WARNING: {len(rejected)} unreadable cutouts left out ({kinds}): {_first(rejected)}")
    origin = {
        "path": str(path),
        "simulated": is_simulated(path),
        "sha256": sha256,
        "hashed": hashed,
        "counts": counts,
        "split": listing.how,
        "rejected": len(rejected),
        "rejected_ids": list(rejected)[:NAMED],
    }
    return DataSet(splits["train"], splits["val"], listing.classes, spec, origin)


def fit_spec(
    spec: PreprocessSpec, labelled: Sequence[Labelled], say: Callable[[str], None]
) -> PreprocessSpec:
    """Return `spec` at the side that most of the data set's cutouts have."""
    step = max(1, len(labelled) // PEEK)
    shapes: Counter[tuple[int, ...]] = Counter()
    for cutout in open_files([each.path for each in labelled[::step][:PEEK]]):
        try:
            shapes[cutout.read().shape[-2:]] += 1
        except CutoutError:
            continue
    if not shapes:
        raise InputError(f"{labelled[0].path}: neither it nor its neighbours could be read")
    sides = shapes.most_common(1)[0][0]
    if len(sides) != 2 or set(sides) == {spec.size}:
        return spec
    say(f"cutouts of {'×'.join(map(str, sides))} pixels (the task's own have {spec.size})")
    fit = spec.fit if len(set(sides)) == 1 else "crop"
    return replace(spec, size=min(sides), fit=fit)


def is_simulated(path: Path) -> bool:
    """Return whether the folder's manifest.json, which the simulator writes, says so."""
    try:
        found = json.loads((path / "manifest.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("simulated") is True


def _read(
    root: Path,
    labelled: Sequence[Labelled],
    spec: PreprocessSpec,
    cache_dir: Path,
    rejected: dict[str, str],
) -> Split:
    """Prepare the cutouts of one split; those that cannot be used are added to `rejected`."""
    x_NHW = _room((len(labelled), spec.size, spec.size), cache_dir)
    labels = iter(labelled)
    ids: list[str] = []
    y_N: list[int] = []
    source = open_files([each.path for each in labelled])
    workers = os.cpu_count() or 1
    for batch in feed(source, spec, batch_size=READ_AT_ONCE, workers=workers):
        for row, flags in enumerate(batch.flags_B):
            each = next(labels)
            name = os.path.relpath(each.path, root)
            if flags & REJECTED:
                rejected[name] = reason(flags)
                continue
            x_NHW[len(ids)] = batch.x_BHW[row]
            ids.append(name)
            y_N.append(each.label)
    return Split(ids, x_NHW[: len(ids)], np.asarray(y_N, np.int64))


def _room(shape: tuple[int, int, int], cache_dir: Path) -> NDArray[np.float32]:
    """Return an array in memory, or in a file that vanishes with it where memory is short."""
    if 4 * np.prod(shape, dtype=np.int64) <= _memory() // 4:
        return np.empty(shape, np.float32)
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=cache_dir) as file:
        return np.memmap(file, np.float32, "w+", shape=shape)


def _memory() -> int:
    """Return the bytes of memory this process may use at most."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    control_group = Path("/sys/fs/cgroup/memory.max")
    if control_group.is_file() and (text := control_group.read_text().strip()).isdigit():
        limits.append(int(text))
    return min(limits)


def _counts(name: str, split: Split, classes: Sequence[str]) -> dict[str, int]:
    counts = {cls: int((split.y_N == k).sum()) for k, cls in enumerate(classes)}
    if missing := [cls for cls, count in counts.items() if count == 0]:
        raise InputError(f"no readable cutout of {', '.join(missing)} in the split {name}")
    return counts


def _first(names: dict[str, str]) -> str:
    shown = list(names)[:3]
    return ", ".join(shown) + (", …" if len(names) > len(shown) else "")


def batches(
    split: Split, order_N: NDArray[np.int64], batch_size: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Yield (x_BHW, y_B) copies in the order given; the last may be shorter."""
    for start in range(0, len(order_N), batch_size):
        rows = order_N[start : start + batch_size]
        yield split.x_NHW[rows], split.y_N[rows]
