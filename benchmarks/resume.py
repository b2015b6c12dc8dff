"""What does it cost to be killed, and what does each format of a million rows cost?

    python benchmarks/resume.py [--count N]

A million hard links to a few real files, a net that costs next to nothing. A run is killed
(SIGKILL) when half of its rows are finished or more, and goes on; its bytes are compared with
those of a run that nobody disturbed. The peer is what most tools do: to begin anew. Then what
going on costs by itself: to check the finished parts, count their rejected rows and step over
their names in the listing; and what the output costs in each format.
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import many
from common import child, table, write_result

FORMATS = ("csv", "parquet", "fits", "vot")

GOING_ON = """
import json, sys, time
from pathlib import Path
from stronglens.engine.runs.parts import Parts, record_type
from stronglens.engine.sources import open_source
folder, out = sys.argv[1], Path(sys.argv[2])
source = open_source([folder])
begin = time.perf_counter()
with Parts(out) as parts:
    run = json.loads((parts.folder / "run.json").read_text())
    run.pop("format")
    parts.agree(run, record_type(3))
    rejected = parts.count_rejected()
    next(source.cutouts(parts.done - 1))
    print(json.dumps({"seconds": time.perf_counter() - begin, "rows": parts.done}))
"""


def finished_rows(folder: Path) -> int:
    """Return how many rows the parts of a run hold so far."""
    ends = [int(path.name[11:].partition(".")[0]) for path in folder.glob("*.part")]
    return max(ends, default=0)


def killed_at(rows: int, command: list[object], parts: Path) -> tuple[float, int]:
    """Start a command and kill it when so many rows are finished; return seconds and rows."""
    begin = time.perf_counter()
    words = [str(Path(sys.executable).with_name(str(command[0]))), *map(str, command[1:])]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as run:
        while run.poll() is None and finished_rows(parts) < rows:
            time.sleep(0.02)
        if run.poll() is not None:
            sys.exit("the run ended before it could be killed")
        run.send_signal(signal.SIGKILL)
    return time.perf_counter() - begin, finished_rows(parts)


@click.command()
@click.option("--count", default=1_000_000, show_default=True, help="Cutouts.")
def main(count: int) -> None:
    with many.work_folder() as root:
        bundle, catalogue = root / "bundle", root / "catalog"
        many.write_tiny_bundle(bundle, many.alike())
        files = many.write_files(root / "files", many.alike())
        many.link(files, catalogue, range(count), lambda i: i % many.FILES)

        def command(out: Path) -> list[object]:
            return ["lens-infer", catalogue, "--model", bundle, "--out", out]

        alone = child(*command(root / "alone.csv"))
        out = root / "preds.csv"
        parts = root / "preds.csv.parts"
        until, kept = killed_at(count // 2, command(out), parts)
        rest = child(*command(out))
        same = out.read_bytes() == (root / "alone.csv").read_bytes()
        if not same:
            sys.exit("the run that was killed wrote other bytes")

        killed_at(count * 9 // 10, command(out), parts)
        step = child("python", "-c", GOING_ON, catalogue, out)
        going_on = json.loads(step.stdout)
        per_million = going_on["seconds"] / going_on["rows"] * 1e6

        costs = []
        for ending in FORMATS:
            made = root / f"alone.{ending}"
            done = alone if ending == "csv" else child(*command(made))
            size = made.stat().st_size / count
            costs.append(
                [f".{ending}", f"{done.seconds:.1f}", f"{size:.0f}", f"{done.peak_mb:.0f}"]
            )
    again = until + alone.seconds
    ratio = again / (until + rest.seconds)
    write_result(
        "resume",
        "Killed in the midst of a million cutouts",
        f"{count:,} hard links to {many.FILES} files of {many.SIDE}×{many.SIDE} float32 in the "
        "page cache, a net of one small convolution: what is seen is the engine.",
        table(
            ["run", "s", "peak MB"],
            [
                ["undisturbed", f"{alone.seconds:.1f}", f"{alone.peak_mb:.0f}"],
                [f"killed by SIGKILL with {kept:,} rows finished", f"{until:.1f}", ""],
                ["the same command, which goes on", f"{rest.seconds:.1f}", f"{rest.peak_mb:.0f}"],
                ["instead: to begin anew", f"{alone.seconds:.1f}", f"{alone.peak_mb:.0f}"],
            ],
        ),
        f"The two outputs are the same, byte for byte ({count:,} rows). Killed and gone on takes "
        f"{until + rest.seconds:.1f} s, killed and begun anew {again:.1f} s: {ratio:.2f} times "
        "as long. The nearer the end the kill, the more is saved.",
        f"Going on costs {per_million:.2f} s per million finished rows (measured with "
        f"{going_on['rows']:,}): checking the parts, counting rejected rows, stepping over names.",
        "The whole run by format of the output:",
        table(["output", "s", "bytes a row", "peak MB"], costs),
        readme=[
            (
                f"killed (SIGKILL) with {kept:,} of {count:,} rows finished, and gone on",
                f"the bytes of an undisturbed run; going on costs {per_million:.2f} s per million "
                f"finished rows and {rest.peak_mb:.0f} MB (undisturbed {alone.peak_mb:.0f} MB)",
            )
        ],
    )


if __name__ == "__main__":
    main()
