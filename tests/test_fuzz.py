"""The readers of what strangers send: nothing but their own errors comes out, whatever goes in.

Here the kept inputs are read again, and many that differ a little; the slow tests look for new
ones, guided by coverage. What they find is kept under fuzz/corpus.
"""

import importlib.util
import random
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).with_name("fuzz")
READERS = ["npy", "manifest", "wire"]
RUNS = 100_000
MEMORY = 4 << 30
"""bytes of addresses; numba and numpy alone take one"""


def mutated(data, rng):
    """Change, drop, double or insert a few bytes."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, count = rng.randint(0, len(data)), rng.randint(0, 8)
        there = rng.choice([rng.randbytes(count), data[at : at + count] * 2, b"", b"\xff" * count])
        data[at : at + count] = there
    return bytes(data)


@pytest.mark.parametrize("name", READERS)
def test_what_was_found_before_and_what_is_like_it(name, monkeypatch):
    monkeypatch.syspath_prepend(FUZZ)
    read = importlib.import_module(f"fuzz_{name}").read
    rng = random.Random(name)
    for path in sorted((FUZZ / "corpus" / name).iterdir()):
        read(data := path.read_bytes())
        for _ in range(50):
            read(mutated(data, rng))


def limited():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("atheris"), reason="atheris has no wheel for this")
@pytest.mark.parametrize("name", READERS)
def test_coverage_guided_fuzzing(tmp_path, name):
    folder, words = FUZZ / "corpus" / name, FUZZ / "corpus" / f"{name}.dict"
    options = [f"-runs={RUNS}", "-max_len=4096", "-rss_limit_mb=2048", "-timeout=10"]
    options += [f"-dict={words}"] if words.exists() else []
    (tmp_path / "found").mkdir()
    done = subprocess.run(
        [sys.executable, FUZZ / "run.py", f"fuzz_{name}", *options, "found", folder],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
        preexec_fn=limited,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(re.search(r"Done (\d+) runs", done.stderr)[1]) >= RUNS
    assert int(re.search(r"DONE +cov: (\d+)", done.stderr)[1]) > 30  # it was instrumented
