"""Write what a run has finished: the rows, and what is beside them, all or nothing."""

import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.batches import Rows
from stronglens.engine.bundle import sha256
from stronglens.engine.candidates import Top
from stronglens.engine.errors import InputError
from stronglens.engine.report import RunReport
from stronglens.engine.runs.identity import Run, receipt_path
from stronglens.engine.runs.parts import Parts, Records
from stronglens.engine.sinks import (
    Shape,
    open_rejected,
    open_sink,
    rejected_path,
    remove_leftovers,
    replacing,
    top_path,
    write_top,
)
from stronglens.engine.sources import carried_of

CHUNK = 8192
"""rows that are written at once"""

Chunk = tuple[Rows, Records]


def shape_of(run: Run, out: Path) -> Shape:
    """Return the shape of a run's output."""
    # one more pass over the listing, which only FITS has a use for
    longest = run.source.longest if out.suffix.lower() == ".fits" else {}
    return Shape(run.bundle.manifest.classes, run.source.columns, len(run), longest)


def finished_rows(run: Run, parts: Parts) -> Iterator[Chunk]:
    """Yield the finished rows with the ids and catalogue columns of the listing, in chunks."""
    entries = run.source.entries(run.start, run.stop)
    for records in parts.records():
        for start in range(0, len(records), CHUNK):
            some = records[start : start + CHUNK]
            listed = list(islice(entries, len(some)))
            carried = [carried_of(each) for each in listed] if run.source.columns else []
            yield rows_of([each.id for each in listed], some, carried), some


def rows_of(ids: list[str], records: Records, carried: list[list[str]]) -> Rows:
    """Return records as rows."""
    return Rows(ids, records["prob"], records["flags"], records["nan_frac"], carried)


def write_output(
    chunks: Iterable[Chunk],
    shape: Shape,
    report: RunReport,
    identity: dict[str, Any],
    *,
    top: Top | None = None,
    encodings: Path | None = None,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Write `report.out` and what goes with it; nothing has its name before all of it is there.

    That is: the rejected rows, where there are any; the best candidates; the encodings; and a
    receipt that says which run this is.

    Args:
        chunks: the rows in order, and their records.
        shape: of the output.
        report: counts what is written.
        identity: of the run.
        top: gathers the candidates; None: not asked for.
        encodings: .npy file; None: not asked for.
        check: called between the chunks; what it raises ends it, and nothing is written.

    Raises:
        LensError: one of the files cannot be written; what was there before is kept.
    """
    out = report.out
    with ExitStack() as stack:  # what is opened first gets its name last: the rows
        sink = stack.enter_context(open_sink(out, shape))
        rejected = stack.enter_context(open_rejected(out))
        keep = _encodings(stack, encodings, identity)
        for rows, records in chunks:
            check()
            sink.write(rows)
            rejected.write(rows)
            keep(records)
            report.count(rows)
            if top is not None:
                top.add(rows)
        if top is not None:
            write_top(top_path(out), shape, top.rows())
    _write_receipt(out, identity, report)
    _note(report, top, encodings)


def _encodings(
    stack: ExitStack, path: Path | None, identity: dict[str, Any]
) -> Callable[[Records], None]:
    """Begin the file of encodings; return what adds to it."""
    if path is None:
        return lambda records: None
    file = stack.enter_context(replacing(path))
    start, stop = identity["rows"]
    shape = (stop - start, identity["encodings"])
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    file.write(header.getvalue())

    def keep(records: Records) -> None:
        encoding_BD: NDArray[np.float32] = records["encoding"]
        file.write(np.ascontiguousarray(encoding_BD).tobytes())

    return keep


@contextmanager
def reading_encodings(path: Path, length: int) -> Iterator[Callable[[int], NDArray[np.float32]]]:
    """Open a file of encodings; yield a function that returns its next so many rows (n, D).

    Raises:
        InputError: it is not there, or does not hold encodings of this length.
    """
    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            if dtype != np.float32 or shape[1:] != (length,):
                raise ValueError(f"it holds {dtype} of shape {shape}")

            def rows(count: int) -> NDArray[np.float32]:
                return np.fromfile(file, "<f4", count * length).reshape(count, length)

            yield rows
    except (OSError, ValueError) as err:
        raise InputError(f"{path} does not hold the encodings of its rows: {err}") from err


def _write_receipt(out: Path, identity: dict[str, Any], report: RunReport) -> None:
    """Say beside the output which run it is; the last step, so that it never speaks too early."""
    receipt = {
        "run": identity,
        "sha256": sha256(out),
        "rows": {"ok": report.ok, "flagged": report.flagged, "rejected": report.rejected.total()},
        "model": str(report.model),
        "runtime": report.label,
        "stronglens": version("stronglens"),
    }
    with replacing(receipt_path(out)) as file:
        file.write((json.dumps(receipt, indent=2) + "\n").encode())


def _note(report: RunReport, top: Top | None, encodings: Path | None) -> None:
    """Say in the report what was written beside the output."""
    if report.rejected:
        report.notes.append(f"{rejected_path(report.out)}: why cutouts were rejected")
    if top is not None:
        report.notes.append(f"{top_path(report.out)}: {top}")
    if encodings is not None:
        report.notes.append(f"{encodings}: encodings, a row each")


def remove_unfinished(out: Path, encodings: Path | None) -> None:
    """Remove what a run left that was killed while it wrote; for whoever holds its lock."""
    for path in (out, rejected_path(out), top_path(out), receipt_path(out), encodings):
        if path is not None:
            remove_leftovers(path)
