"""Join the outputs of the shards of one run."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from stronglens.engine.bundle import sha256
from stronglens.engine.candidates import Top
from stronglens.engine.errors import InputError
from stronglens.engine.report import RunReport
from stronglens.engine.runs.identity import read_receipt
from stronglens.engine.runs.output import Chunk, reading_encodings, write_output
from stronglens.engine.runs.shards import find_shards, shard_path
from stronglens.engine.sinks import Shape, check_output, read_output


def merge(
    out: Path,
    *,
    top: Callable[[list[str]], Top | None] = lambda classes: None,
    encodings: Path | None = None,
    check: Callable[[], None] = lambda: None,
) -> RunReport:
    """Write `out` from its shards, `out` with `.1-of-n` before its ending and so on.

    The bytes are those that one run over all inputs would have written.

    Args:
        out: the file to write, in the format of the shards.
        top: given the classes, returns what gathers candidates; None for none.
        encodings: .npy file to write from those of the shards; None: not asked for.
        check: called between the steps; what it raises ends it, and nothing is written.

    Raises:
        LensError: a shard is missing, was altered, or is of another run.
    """
    check_output(out)
    shards = find_shards(out)
    receipts = [_receipt(shard) for shard in shards]
    identity = _whole(shards, [each["run"] for each in receipts])
    first = read_output(shards[0])
    report = RunReport(
        out=out,
        classes=first.classes,
        model=Path(str(receipts[0].get("model"))),
        label=str(receipts[0].get("runtime")),
        workers=0,
        resumed=identity["inputs"],
    )
    pairs = [
        (shard, encodings and shard_path(encodings, (i, len(shards))))
        for i, shard in enumerate(shards, 1)
    ]
    shape = Shape(first.classes, first.columns, identity["inputs"])
    write_output(
        _chunks(pairs, identity["encodings"]),
        shape,
        report,
        identity,
        top=top(first.classes),
        encodings=encodings,
        check=check,
    )
    return report


def _receipt(shard: Path) -> dict[str, Any]:
    receipt = read_receipt(shard)
    if receipt is None:
        raise InputError(f"{shard} has no receipt beside it: run that shard again")
    if receipt.get("sha256") != sha256(shard):
        raise InputError(f"{shard} was changed since it was written: run that shard again")
    return receipt


def _whole(shards: list[Path], runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the identity of the run that all shards are of, and together are the whole of."""
    end = 0
    for shard, run in zip(shards, runs, strict=True):
        if differs := sorted(k for k in runs[0] if k != "rows" and run.get(k) != runs[0][k]):
            raise InputError(
                f"{shard} is of another run than {shards[0].name}, it differs in "
                f"{', '.join(differs)}: run it again as the others"
            )
        start, stop = run["rows"]
        if start != end:
            raise InputError(f"{shard} begins at row {start:,}, expected {end:,}: run it again")
        end = stop
    if end != runs[0]["inputs"]:
        raise InputError(f"{shards[-1]} ends at row {end:,} of {runs[0]['inputs']:,}")
    return {**runs[0], "rows": [0, end]}


def _chunks(pairs: list[tuple[Path, Path | None]], encoding: int) -> Iterator[Chunk]:
    """Yield the rows of the shards, with their encodings where they are asked for."""
    for shard, encodings in pairs:
        if encodings is not None and not encoding:
            raise InputError(f"{shard} has no encodings: run it again with --encodings")
        with ExitStack() as stack:
            if encodings is not None:
                kept = stack.enter_context(reading_encodings(encodings, encoding))
            for rows in read_output(shard):
                records = np.zeros(len(rows.ids), [("encoding", "<f4", (encoding,))])
                if encodings is not None:
                    records["encoding"] = kept(len(records))
                yield rows, records
