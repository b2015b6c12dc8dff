"""What every benchmark needs: the machine it ran on, a median, a Markdown table, a command run."""

import csv
import datetime
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("numpy", "numba", "torch", "torchvision", "onnxruntime-gpu", "openvino")


def shared_folder() -> Path:
    """Return the folder of real cutouts, which is not part of the project, or stop."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("STRONGLENS_SHARED", root.parent / "shared"))
    if not (folder / "data").is_dir():
        sys.exit(f"no real data at {folder}: set STRONGLENS_SHARED to the folder that holds data/")
    return folder


def run(*command: object) -> str:
    """Run a command as a user types it, show it, and return what it printed on stdout."""
    words = [str(word) for word in command]
    print(f"\n$ {shlex.join(words)}", file=sys.stderr, flush=True)
    program = Path(sys.executable).with_name(words[0])
    done = subprocess.run(
        [str(program) if program.exists() else words[0], *words[1:]],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    print(done.stdout, file=sys.stderr, flush=True)
    if done.returncode not in (0, 3):  # 3: done, some inputs rejected
        sys.exit(f"{words[0]} failed with exit status {done.returncode}")
    return done.stdout


def seconds(work: Callable[[], object], *, repeats: int = 5) -> float:
    """Return the median wall time of `work` over some repeats, after one that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        start = perf_counter()
        work()
        times.append(perf_counter() - start)
    return median(times)


def read_predictions(path: Path) -> tuple[list[str], list[str], NDArray[np.float32]]:
    """Return the ids, the classes and prob_NK (NaN where rejected) of a CSV of predictions."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    classes = [name[2:] for name in rows[0] if name.startswith("p_")]
    prob_NK = [[float(row[f"p_{name}"] or "nan") for name in classes] for row in rows]
    return [row["id"] for row in rows], classes, np.asarray(prob_NK, np.float32)


def machine() -> str:
    """Return one paragraph: processor, cores, memory, system, versions, date."""
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in _lines("/proc/cpuinfo")
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    flags = " ".join(line for line in _lines("/proc/cpuinfo")[:40] if line.startswith("flags"))
    has = [f for f in ("avx512f", "avx512_bf16", "avx512_vnni", "amx_tile") if f in flags]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{datetime.date.today()}; {cpu}, {os.cpu_count()} cores ({', '.join(has)}), "
        f"{memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}, {versions}; "
        "no GPU used."
    )


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def write_result(name: str, title: str, *parts: str) -> Path:
    """Write results/NAME.md: the title, the machine, the command, then the parts."""
    RESULTS.mkdir(exist_ok=True)
    command = f"`python {' '.join([f'benchmarks/{Path(sys.argv[0]).name}', *sys.argv[1:]])}`"
    path = RESULTS / f"{name}.md"
    path.write_text("\n\n".join([f"# {title}", machine(), command, *parts]) + "\n")
    print(f"\nwrote {path}", file=sys.stderr)
    print("\n\n".join(parts))
    return path
