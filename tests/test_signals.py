"""SIGINT and SIGTERM end lens-infer in good order, and the same command goes on."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_model
from tiny_model import SIZE

LENS_INFER = Path(sys.executable).with_name("lens-infer")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_model.make_bundle(tmp_path_factory.mktemp("bundles") / "tiny").path


def stopped(folder, bundle, number, delay):
    """Send a run the signal twice, `delay` seconds after it has said what runs it."""
    running = subprocess.Popen(
        [LENS_INFER, "catalog", "--model", bundle, "--batch-size", "1"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    chosen = running.stderr.readline()
    assert "OpenVINO" in chosen
    time.sleep(delay)
    running.send_signal(number)
    running.send_signal(number)
    stdout, stderr = running.communicate(timeout=300)
    assert running.returncode == 1
    assert f"stopped by {number.name}: preds.csv was not written" in stderr
    assert "run the same command to go on" in stderr
    assert "Traceback" not in stderr
    assert stdout == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_run_which_then_goes_on(tmp_path, bundle, rng, number):
    raw_HW = rng.normal(size=(SIZE, SIZE))
    (tmp_path / "catalog").mkdir()
    np.save(tmp_path / "catalog" / "0.npy", raw_HW)
    for i in range(1, 15_000):  # more than can be scored before the signal comes
        os.link(tmp_path / "catalog" / "0.npy", tmp_path / "catalog" / f"{i}.npy")
    for delay in (0.1, 0.3, 1.0, 3.0):  # until rows were finished before the signal came
        stopped(tmp_path, bundle, number, delay)
        if (tmp_path / "preds.csv.parts").exists():
            break
    assert {entry.name for entry in tmp_path.iterdir()} == {"catalog", "preds.csv.parts"}
    done = subprocess.run(
        [LENS_INFER, "catalog", "--model", bundle], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert re.search("going on after [1-9][0-9,]* of 15,000 rows", done.stderr)
    assert re.search("15,000 cutouts = .*; [1-9][0-9,]* were finished before", done.stdout)
    with (tmp_path / "preds.csv").open() as file:
        ids = [row["id"] for row in csv.DictReader(file)]
    assert ids == [f"catalog/{i}.npy" for i in range(15_000)]


@pytest.mark.parametrize("delay", [0.0, 0.05])
def test_a_signal_while_the_runtimes_load(tmp_path, bundle, rng, delay):
    """The output has been begun; numba, OpenVINO and the model are being loaded."""
    np.save(tmp_path / "0.npy", rng.normal(size=(SIZE, SIZE)))
    running = subprocess.Popen(
        [LENS_INFER, "0.npy", "--model", bundle], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "preds.csv.parts" / "lock").exists() and running.poll() is None:
        time.sleep(0.005)
    time.sleep(delay)
    running.send_signal(signal.SIGTERM)
    _, stderr = running.communicate(timeout=300)
    assert "Traceback" not in stderr
    assert running.returncode == 1
    assert "stopped by SIGTERM" in stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["0.npy"]


def test_a_signal_repeated_later_stops_what_is_stuck(tmp_path):
    """Even where a library turns the interruption into its own error, as OpenVINO does."""
    probe = (
        "import os, signal, sys, types\n"
        "def classify(*args, **kwargs):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    try: os.kill(os.getpid(), signal.SIGINT)\n"
        "    except KeyboardInterrupt: raise ImportError('initialization failed')\n"
        "pipeline = types.ModuleType('pipeline')\n"
        "pipeline.classify = classify\n"
        "sys.modules['stronglens.engine.pipeline'] = pipeline\n"
        "from stronglens.engine import cli, signals\n"
        "signals.SETTLING = -1\n"
        "cli.main(['x.npy'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: stopped by SIGTERM: preds.csv was not written.")
