"""Take a finished output back into parts, so that its rejected rows can be tried again."""

from pathlib import Path

import numpy as np

from stronglens.engine.errors import LensError
from stronglens.engine.runs.identity import Run, read_receipt
from stronglens.engine.runs.parts import Parts
from stronglens.engine.sinks import read_output


def restore(out: Path, run: Run, parts: Parts, encodings: Path | None) -> None:
    """Fill `parts` with the rows of `out`, where there is one and `parts` has none.

    Args:
        out: an output that this very run has written.
        run: what it is.
        parts: gets its rows.
        encodings: where its encodings are; None: they are not kept.

    Raises:
        LensError: `out` is of another run, or was altered.
    """
    if parts.done or not out.exists():
        return
    receipt = read_receipt(out)
    if receipt is None or receipt["run"] != run.identity:
        raise LensError(
            f"{out} was not made by this command (its receipt is "
            f"{'missing' if receipt is None else 'of another run'}): only its own rejected rows "
            "can be tried again; run without --retry to score all anew"
        )
    kept = None if encodings is None else np.load(encodings, mmap_mode="r", allow_pickle=False)
    start = 0
    for rows in read_output(out):
        records = np.empty(len(rows.ids), run.dtype)
        records["flags"], records["nan_frac"] = rows.flags_B, rows.nan_frac_B
        records["prob"] = rows.prob_BK
        if kept is not None:
            records["encoding"] = kept[start : start + len(records)]
        start += len(records)
        parts.add(records)
    if start != len(run):
        raise LensError(f"{out} has {start:,} rows of {len(run):,}: it was altered")
    parts.end_part()
