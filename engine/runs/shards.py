"""Runs on parts of one listing, for the tasks of a cluster: which rows, and which files."""

import re
from pathlib import Path

from stronglens.engine.errors import InputError

NAME = re.compile(r"(?P<stem>.+)\.(?P<i>\d+)-of-(?P<n>\d+)")


def shard_rows(count: int, shard: tuple[int, int]) -> tuple[int, int]:
    """Return the first row of the i-th of n shards, counted from 1, and the one after its last.

    The shards differ by one row at most; some are empty where there are more shards than rows.
    """
    i, n = shard
    return (i - 1) * count // n, i * count // n


def shard_path(path: Path, shard: tuple[int, int]) -> Path:
    """Return where a shard writes: preds.csv → preds.007-of-100.csv; as it is for 1 of 1."""
    i, n = shard
    if n == 1:
        return path
    return path.with_name(f"{path.stem}.{i:0{len(str(n))}d}-of-{n}{path.suffix}")


def find_shards(path: Path) -> list[Path]:
    """Return the outputs of the shards of `path`, in order.

    Raises:
        InputError: there are none, of several numbers of shards, or some are missing.
    """
    found: dict[int, dict[int, Path]] = {}
    for each in path.parent.glob(f"*{path.suffix}"):
        match = NAME.fullmatch(each.stem)
        if match and match["stem"] == path.stem:
            found.setdefault(int(match["n"]), {})[int(match["i"])] = each
    if not found:
        example = shard_path(path, (1, 10)).name
        raise InputError(f"{path.parent} has no shards of {path.name}, such as {example}")
    if len(found) > 1:
        counts = ", ".join(map(str, sorted(found)))
        raise InputError(f"{path.parent} has shards of {counts}: remove those of another run")
    ((n, shards),) = found.items()
    if missing := [str(i) for i in range(1, n + 1) if i not in shards]:
        more = ", …" if len(missing) > 20 else ""
        raise InputError(
            f"shards {', '.join(missing[:20])}{more} of {n} are not finished: run them again with "
            f"--shard i/{n}"
        )
    return [shards[i] for i in range(1, n + 1)]
