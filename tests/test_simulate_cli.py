"""lens-simulate and its settings: what it writes, what it refuses, what it loads."""

import csv
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from stronglens.engine.errors import ConfigError
from stronglens.training.simulate.writer import simulate

COMMAND = Path(sys.executable).with_name("lens-simulate")
SMALL = {"train": 3, "val": 2, "seed": 5}


def lens_simulate(*arguments):
    return subprocess.run(
        [COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=300
    )


def test_command_writes_a_data_set(tmp_path):
    out = tmp_path / "dataset"
    done = lens_simulate("--out", out, "--count", 4, "--seed", 5, "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert "15 cutouts of the task substructure, SIMULATED" in done.stdout
    assert "15/15 cutouts" in done.stderr
    assert "ETA" in done.stderr
    assert len(list((out / "train" / "no").glob("*.npy"))) == 4
    assert len(list((out / "val" / "no").glob("*.npy"))) == 1

    again = lens_simulate("--out", out, "--count", 4, "--seed", 6)
    assert again.returncode == 1
    assert again.stderr.startswith("Error: ")
    assert "made with seed 5, not 6" in again.stderr


def test_command_writes_a_catalogue(tmp_path):
    out = tmp_path / "catalog"
    done = lens_simulate("lensfinding", "--out", out, "--count", 4, "--flat")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.glob("*.npy")} == {"1.npy", "2.npy", "3.npy", "4.npy"}
    with (out / "params.csv").open(newline="") as file:
        found = Counter(row["class"] for row in csv.DictReader(file))
    assert found == {"lens": 3, "nonlens": 1}


@pytest.mark.parametrize(
    "arguments",
    [
        ("galaxies", "--out", "x"),
        ("--count", "4"),
        ("--out", "x", "--count", "0"),
        ("--out", "x", "--workers", "0"),
        ("--out", "x", "--workers", "many"),
        ("--out", "x", "--flat", "--val", "3"),
        ("lensfinding", "--out", "x", "--val", "3"),
        ("--out", "x", "--orientation", "north"),
    ],
)
def test_wrong_usage_exits_2(arguments, tmp_path):
    done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_help_loads_nothing_heavy():
    probe = (
        "import sys, stronglens.training.simulate.cli; "
        "print({'numba', 'torch', 'scipy', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd="/")
    assert done.stdout.strip() == "set()", done.stderr
    assert "strength" in lens_simulate("--help").stdout


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1},
        {"seed": 2**32},
        {"train": -1},
        {"train": 0, "val": 0},
        {"strength": -1.0},
        {"strength": 11.0},
        {"strength": float("nan")},
        {"orientation": "north"},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(tmp_path, wrong):
    with pytest.raises(ConfigError, match=r"must|may"):
        simulate("substructure", tmp_path / "dataset", **(SMALL | wrong))
    assert not (tmp_path / "dataset").exists()


def test_unknown_task_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="'galaxies' is not known; choose from substructure"):
        simulate("galaxies", tmp_path / "dataset", **SMALL)


@pytest.mark.parametrize("setting", [{"strength": 2.0}, {"orientation": "any"}], ids=str)
def test_lensfinding_has_no_substructure_settings(tmp_path, setting):
    with pytest.raises(ConfigError, match="of the task substructure"):
        simulate("lensfinding", tmp_path / "real_hst", **SMALL, **setting)
