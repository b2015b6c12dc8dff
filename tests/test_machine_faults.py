"""Faults of the machine: a run ends in good order, and the same command goes on from there."""

import ast
import io
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_model
from commands import rows, write_catalog

from stronglens import engine
from stronglens.engine.config import EngineConfig, Wanted
from stronglens.engine.errors import LensError
from stronglens.engine.pipeline import classify
from stronglens.engine.sinks.atomic import replacing

LENS_INFER = Path(sys.executable).with_name("lens-infer")
COUNT = 3000
"""rows: their records take 54 kB, an output of theirs 200 kB"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A bundle, a catalogue of hard links, and what an undisturbed run makes of it."""
    import numpy as np

    folder = tmp_path_factory.mktemp("place")
    tiny_model.make_bundle(folder / "model")
    catalog = write_catalog(folder / "catalog", 10, np.random.default_rng(5))
    for i in range(10, COUNT):
        os.link(catalog / f"{i % 10}.npy", catalog / f"{i}.npy")
    run(folder, folder / "alone.csv")
    return folder


def run(place, out, *, check=lambda: None, part_seconds=10.0, **wanted):
    stderr = io.StringIO()
    report = classify(
        [place / "catalog"],
        model=place / "model",
        out=out,
        wanted=Wanted(**wanted),
        config=EngineConfig(precision="float32", batch_size=16, part_seconds=part_seconds),
        stderr=stderr,
        check=check,
    )
    return report, stderr.getvalue()


# ---------------------------------------------------------------- disks

ON_A_SMALL_DISK = """
import subprocess, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_machine_faults as here
from stronglens.engine.errors import LensError

place, disk, part_seconds = Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
def attempt():
    try:
        return here.run(place, disk / "preds.csv", part_seconds=part_seconds)[1]
    except LensError as err:
        return str(err)
print(attempt())
print(*sorted({path.suffix for path in disk.iterdir()}))
subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
print(attempt())
alone = (place / "alone.csv").read_bytes()
print((disk / "preds.csv").read_bytes() == alone, *sorted(path.name for path in disk.iterdir()))
"""


def with_mounts(script, *arguments):
    """Run a shell script in which file systems may be mounted, for it and its children alone."""
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", *arguments]
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare here: no file system may be mounted")
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("size", "part_seconds", "message", "going_on"),
    [
        ("64k", 0.0, "{disk}/preds.csv.parts: No space left on device; ", "going on after"),
        ("160k", 10.0, "{disk}/preds.csv: No space left on device: ", "going on after 3,000 of"),
    ],
    ids=["while parts are written", "while the output is written"],
)
def test_a_disk_that_fills_up(place, tmp_path, size, part_seconds, message, going_on):
    script = (
        f'mount -t tmpfs -o size={size} tmpfs "$5" || exit 77; exec "$1" -c "$2" "$3" "$4" "$5"'
    )
    arguments = (sys.executable, ON_A_SMALL_DISK, Path(__file__).parent, place, tmp_path)
    said, left, *then, same = with_mounts(f'{script} "$6"', *arguments, part_seconds).splitlines()
    assert message.format(disk=tmp_path) in said
    assert "kept" in said or "as it was" in said
    assert left == ".parts"
    assert going_on in "".join(then)
    assert same == "True preds.csv preds.csv.receipt.json"


def test_a_folder_of_outputs_that_vanishes(place, tmp_path):
    folder = tmp_path / "outputs"
    folder.mkdir()
    steps = iter(range(30))

    def check():
        if next(steps, None) == 20:
            shutil.rmtree(folder)

    with pytest.raises(LensError, match=r"cannot write in .*No such file or directory"):
        run(place, folder / "preds.csv", check=check)
    folder.mkdir()
    run(place, folder / "preds.csv")
    assert (folder / "preds.csv").read_bytes() == (place / "alone.csv").read_bytes()


def test_a_folder_of_inputs_that_vanishes_for_a_while(place, tmp_path):
    out, steps = tmp_path / "preds.csv", iter(range(1_000_000))

    def check():
        step = next(steps)
        if step == 20:
            (place / "catalog").rename(place / "unplugged")
        if step == 60:
            (place / "unplugged").rename(place / "catalog")

    report, _ = run(place, out, check=check)
    assert {*report.rejected} == {"missing"} and 100 < report.rejected.total() < COUNT
    assert len(rows(out)) == COUNT
    report, said = run(place, out, retry=True)
    assert "rejected cutouts again" in said and not report.rejected
    assert out.read_bytes() == (place / "alone.csv").read_bytes()


# ---------------------------------------------------------------- who listens


@pytest.mark.parametrize(
    "redirected",
    ["| true", "<&- >&- 2>&-", ">/dev/full 2>/dev/full"]
    + [
        pytest.param(each, marks=pytest.mark.slow)
        for each in ("| head -1", "2>&1 >/dev/null | true", ">&-", "2>&-", ">/dev/full")
    ],
)
def test_nobody_has_to_listen(place, tmp_path, redirected):
    """The rows are what counts: they are written, and the exit status is theirs."""
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    script = f'set -o pipefail; "$0" "$1"/catalog/?.npy --model "$1"/model {redirected}'
    done = subprocess.run(
        ["bash", "-c", script, LENS_INFER, place], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    assert len(rows(tmp_path / "preds.csv")) == 10
    assert {path.name for path in tmp_path.iterdir()} == {"preds.csv", "preds.csv.receipt.json"}


# ---------------------------------------------------------------- clocks, small machines

WALL_CLOCKS = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "today")}


def modules():
    """Yield each module of the engine, and what Python makes of it."""
    paths = sorted(Path(engine.__file__).parent.rglob("*.py"))
    assert len(paths) > 50
    for path in paths:
        yield path, ast.parse(path.read_text(encoding="utf-8"))


FORBIDDEN = {"pickle", "cPickle", "marshal", "shelve", "dill", "joblib", "multiprocessing"}


def test_nothing_is_mapped_unpickled_or_given_to_other_processes():
    """A file that shrinks under a map kills the process; a pickle runs what it likes."""
    for path, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {each.name.split(".")[0] for each in node.names}
                names |= {(getattr(node, "module", None) or "").split(".")[0]}
                assert not names & FORBIDDEN, f"{path}:{node.lineno}"
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in ("mmap.mmap", "np.memmap"), f"{path}:{node.lineno}"
            if isinstance(node, ast.keyword) and node.arg in MUST_BE_FALSE:
                assert ast.unparse(node.value) == "False", path
            assert not (isinstance(node, ast.keyword) and node.arg == "mmap_mode"), path


MUST_BE_FALSE = ("allow_pickle", "memmap", "memory_map")


def test_no_clock_is_read_that_may_be_set():
    """Rates, what is left, when a part is due: all by clocks that only go forward."""
    for path, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in WALL_CLOCKS, f"{path}:{node.lineno}"
            if isinstance(node, ast.ImportFrom) and node.module == "time":
                assert not {"time", "time_ns"} & {each.name for each in node.names}, path


def small():
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def test_one_core_and_few_descriptors(place, tmp_path):
    subprocess.run(
        [LENS_INFER, place / "catalog", "--model", place / "model", "--workers", "32"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        preexec_fn=small,
    )
    assert [row["id"] for row in rows(tmp_path / "preds.csv")] == [
        row["id"] for row in rows(place / "alone.csv")
    ]


def test_hardly_any_shared_memory(place, tmp_path):
    """Threads share what they fill; nothing goes through /dev/shm, which containers keep small."""
    script = (
        'mount -t tmpfs -o size=4k tmpfs /dev/shm || exit 77; cd "$1"; exec "$2" "$3" --model "$4"'
    )
    with_mounts(script, tmp_path, LENS_INFER, place / "catalog", place / "model")
    assert len(rows(tmp_path / "preds.csv")) == COUNT


# ---------------------------------------------------------------- power


def test_what_has_its_name_is_on_the_disk(tmp_path, monkeypatch):
    """The bytes first, then the name, then the folder that holds the name."""
    done = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(fd):
        done.append(f"sync {Path(f'/proc/self/fd/{fd}').readlink().name.split('.')[-1]}")
        fsync(fd)

    def note_replace(source, target):
        done.append(f"rename to {Path(target).name}")
        replace(source, target)

    if not Path("/proc/self/fd").exists():
        pytest.skip("there is no /proc here: which file is meant cannot be told")
    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    with replacing(tmp_path / "preds.csv") as file:
        file.write(b"rows")
    assert done == ["sync partial", "rename to preds.csv", f"sync {tmp_path.name}"]
