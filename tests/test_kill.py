"""A run that is killed at any moment, again and again, writes the bytes of an undisturbed one."""

import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny_model
from tiny_model import SIZE

COUNT = 6_000
RUN = """
import sys
from pathlib import Path
from stronglens.engine.config import EngineConfig, Wanted
from stronglens.engine.pipeline import classify
catalog, model, out, encodings = map(Path, sys.argv[1:])
wanted = Wanted(encodings=encodings, top=50, target="vort")
config = EngineConfig(precision="float32", batch_size=1, part_seconds=0.02)
classify([catalog], model=model, out=out, wanted=wanted, config=config)
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_model.make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """Hard links to a few cutouts, of which one is rejected."""
    folder, rng = tmp_path_factory.mktemp("catalog"), np.random.default_rng(7)
    for i in range(10):
        raw_HW = rng.normal(size=(SIZE, SIZE)) if i else np.zeros((SIZE, SIZE))
        np.save(folder / f"{i}.npy", raw_HW)
    for i in range(10, COUNT):
        os.link(folder / f"{i % 10}.npy", folder / f"{i}.npy")
    return folder


def started(catalog, bundle, out):
    command = [sys.executable, "-c", RUN, catalog, bundle.path, out, out.with_suffix(".enc.npy")]
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def written(out):
    """What a run has left, but for the receipt's and the parts' folder."""
    return {path.name: path.read_bytes() for path in out.parent.iterdir() if path.is_file()}


def count(folder, pattern):
    try:
        return len(list(folder.glob(pattern)))
    except FileNotFoundError:  # it went away meanwhile
        return 0


def moments(out, rng):
    """Return a function that says, once it is true, that now is the moment to kill."""
    parts = out.parent / f"{out.name}.parts"
    wanted, end = rng.randrange(1, 40), time.monotonic() + rng.uniform(0, 2.5)
    return rng.choice(
        [
            lambda: time.monotonic() > end,
            lambda: count(parts, "*.part") >= wanted,
            lambda: count(parts, ".*.partial"),
            lambda: count(out.parent, f".{out.name}.*.partial"),
            lambda: count(out.parent, ".preds.*.partial"),
            lambda: out.exists(),
        ]
    )


def kill_again_and_again(catalog, bundle, out, kills, seed):
    """Kill runs at random moments until `kills` were; return what each that ended has written."""
    rng, killed, outcomes = random.Random(seed), 0, []
    while True:
        now = moments(out, rng) if killed < kills else lambda: False
        with started(catalog, bundle, out) as run:
            while run.poll() is None and not now():
                time.sleep(0.001)
            if run.poll() is None:
                run.kill()
                killed += 1
            _, said = run.communicate(timeout=60)
        assert b"Traceback" not in said, said.decode()
        if run.returncode == 0:
            outcomes.append(written(out))
            if killed >= kills:
                return outcomes
            for path in out.parent.iterdir():
                path.unlink()


@pytest.mark.parametrize(
    ("ending", "kills"),
    [
        (".csv", 3),
        pytest.param(".csv", 50, marks=pytest.mark.slow),
        pytest.param(".parquet", 50, marks=pytest.mark.slow),
    ],
)
def test_killed_runs_write_the_bytes_of_an_undisturbed_one(
    tmp_path, catalog, bundle, ending, kills
):
    alone, disturbed = tmp_path / "alone" / f"preds{ending}", tmp_path / "killed" / f"preds{ending}"
    alone.parent.mkdir()
    disturbed.parent.mkdir()
    with started(catalog, bundle, alone) as run:
        run.communicate(timeout=120)
    assert run.returncode == 0
    expected = written(alone)
    assert set(expected) == {
        alone.name,
        f"{alone.name}.receipt.json",
        "preds.enc.npy",
        "preds.rejected.csv",
        f"preds.top{ending}",
    }
    for found in kill_again_and_again(catalog, bundle, disturbed, kills, seed=len(ending)):
        assert found == expected
    assert not (disturbed.parent / f"{disturbed.name}.parts").exists()
