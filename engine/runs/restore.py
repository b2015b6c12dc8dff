"""Take a finished output back into parts, so that its rejected rows can be tried again."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from stronglens.engine.errors import LensError
from stronglens.engine.runs.identity import Run, read_receipt
from stronglens.engine.runs.output import reading_encodings
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
    start = 0
    with ExitStack() as stack:
        if encodings is not None:
            kept = stack.enter_context(reading_encodings(encodings, run.encoding))
        for rows in read_output(out):
            records = np.empty(len(rows.ids), run.dtype)
            records["flags"], records["nan_frac"] = rows.flags_B, rows.nan_frac_B
            records["prob"] = rows.prob_BK
            if encodings is not None:
                records["encoding"] = kept(len(records))
            start += len(records)
            parts.add(records)
    if start != len(run):
        raise LensError(f"{out} has {start:,} rows of {len(run):,}: it was altered")
    parts.end_part()
