"""What every benchmark needs: a median, a child's cost, the truth, a table, a result."""

import csv
import datetime
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from textwrap import shorten
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from host import gpu, machine, software
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MB = 1e6

WATCH = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
open(sys.argv[1], "w").write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code if code >= 0 else 128 - code)
"""
"""Between us and a child: one forked from us would have our own memory in its high-water mark."""


class Child(NamedTuple):
    """What a child process printed and cost."""

    stdout: str
    seconds: float
    """wall time, its start-up included"""
    peak_mb: float
    """high-water mark of its resident memory (of the largest process, where it has children)"""
    error: str = ""
    """the last line it wrote on stderr, where it failed and may"""


def child(*command: object, may_fail: bool = False) -> Child:
    """Run a command as a user types it, show it, and return what it printed and cost.

    Stops this process where the command fails, unless it may. Programs of this interpreter's
    environment come first.
    """
    words = [str(word) for word in command]
    print(f"\n$ {shorten(shlex.join(words), 300)}", file=sys.stderr, flush=True)
    program = Path(sys.executable).with_name(words[0])
    words[0] = str(program) if program.exists() else words[0]
    with tempfile.NamedTemporaryFile("r") as peak:
        start = perf_counter()
        done = subprocess.run(
            [sys.executable, "-IS", "-c", WATCH, peak.name, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if may_fail else None,
            text=True,
        )
        lasted = perf_counter() - start
        if may_fail:
            print(done.stderr, file=sys.stderr, flush=True)
        failed = done.returncode not in (0, 3)  # 3: done, some inputs rejected
        if failed and not may_fail:
            print(done.stdout, file=sys.stderr)
            sys.exit(f"{words[0]} failed with exit status {done.returncode}")
        unit = 1 if sys.platform == "darwin" else 1024
        error = (done.stderr.splitlines() or ["no word on stderr"])[-1] if failed else ""
        return Child(done.stdout, lasted, int(peak.read()) * unit / MB, error)


def run(*command: object) -> str:
    """Run a command as `child` does, show and return what it printed on stdout."""
    stdout = child(*command).stdout
    print(stdout, file=sys.stderr, flush=True)
    return stdout


def peak_memory(command: Sequence[object]) -> float:
    """Return the peak resident memory in MB of a command run in a child process."""
    return child(*command).peak_mb


def seconds(work: Callable[[], object], *, repeats: int = 5) -> float:
    """Return the median wall time of `work` over some repeats, after one that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        start = perf_counter()
        work()
        times.append(perf_counter() - start)
    return median(times)


def shared_folder() -> Path:
    """Return the folder of real cutouts, which is not part of the project, or stop."""
    folder = Path(os.environ.get("STRONGLENS_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        sys.exit(f"no real data at {folder}: set STRONGLENS_SHARED to the folder that holds data/")
    return folder


def read_predictions(path: Path) -> tuple[list[str], list[str], NDArray[np.float32]]:
    """Return the ids, the classes and prob_NK (NaN where rejected) of a CSV of predictions."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    classes = [name[2:] for name in rows[0] if name.startswith("p_")]
    prob_NK = [[float(row[f"p_{name}"] or "nan") for name in classes] for row in rows]
    return [row["id"] for row in rows], classes, np.asarray(prob_NK, np.float32)


def truth(paths: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64] | None:
    """Return each file's column y_N: from params.csv in its folder, else from the folder's name.

    None where any file's class is not known, or not one of `classes`.
    """
    tables: dict[Path, dict[str, str]] = {}
    names = []
    for path in map(Path, paths):
        folder = path.parent
        if folder not in tables:
            tables[folder] = _params(folder / "params.csv")
        names.append(tables[folder].get(path.name, folder.name))
    known = set(names) <= set(classes)
    return np.array([classes.index(name) for name in names]) if known else None


def _params(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        return {row["file"]: row["class"] for row in csv.DictReader(file)}


def roc_auc(y_N: NDArray[Any] | None, prob_NK: NDArray[Any]) -> float:
    """Return the macro ROC AUC over the scored rows; NaN where the truth is not known."""
    if y_N is None or len(set(y_N.tolist())) < prob_NK.shape[1]:
        return float("nan")
    from stronglens.training import metrics

    scored_N = np.isfinite(prob_NK).all(axis=1)
    return metrics.roc_auc(y_N[scored_N], prob_NK[scored_N])["macro"]


def apart(prob_NK: NDArray[Any], expected_NK: NDArray[Any]) -> tuple[float, int]:
    """Return max |Δp| and how many rows changed their label; NaN must meet NaN."""
    if (np.isnan(prob_NK) != np.isnan(expected_NK)).any():
        return float("inf"), len(prob_NK)
    both_NK, other_NK = np.nan_to_num(prob_NK), np.nan_to_num(expected_NK)
    flips = int((both_NK.argmax(1) != other_NK.argmax(1)).sum())
    return float(np.abs(both_NK - other_NK).max()), flips


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def skipped(reasons: Sequence[str]) -> str:
    """Return the note that says what this machine could not show, "" where it showed all."""
    return f"**Skipped here:** {'; '.join(reasons)}." if reasons else ""


def write_result(
    name: str, title: str, *parts: str, readme: Sequence[tuple[str, str]] = ()
) -> Path:
    """Write results/NAME.md: title, machine, command, parts; and results/NAME.json for the README.

    `readme` holds pairs (question, figure) in words: rows of the README's table, which
    benchmarks/readme.py makes of all the JSON. Empty parts are left out.
    """
    RESULTS.mkdir(exist_ok=True)
    script, words = Path(sys.argv[0]).name, [w.removeprefix(f"{ROOT}/") for w in sys.argv[1:]]
    facts = {
        "title": title,
        "date": str(datetime.date.today()),
        "machine": machine(),
        "software": software(),
        "gpu": gpu(),
        "command": shlex.join(["python", f"benchmarks/{script}", *words]),
    }
    path = RESULTS / f"{name}.md"
    head = [
        f"# {title}",
        f"{facts['date']}; {facts['machine']}; {facts['software']}.",
        f"`{facts['command']}`",
    ]
    path.write_text("\n\n".join([*head, *filter(None, parts)]) + "\n")
    content = json.dumps({**facts, "readme": list(readme)}, indent=2, ensure_ascii=False)
    path.with_suffix(".json").write_text(content + "\n")
    print(f"\nwrote {path}", file=sys.stderr)
    print("\n\n".join(filter(None, parts)))
    return path
