"""The whole road with the installed commands: simulate, train, export, classify."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SUBSTRUCTURE = ("lens-simulate", "substructure", "--count", "12", "--val", "6")
LENSFINDING = ("lens-simulate", "lensfinding", "--count", "24")
TRAIN = ("lens-train", "-o", "epochs=1", "--weights", "none")


@pytest.fixture
def command(tmp_path):
    """Run an installed command in an empty folder; return what it printed."""

    def run(name, *arguments, expected=0):
        program = Path(sys.executable).with_name(name)
        done = subprocess.run(
            [program, *map(str, arguments)], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == expected, done.stderr
        return done.stdout

    return run


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("simulate", "train", "classes", "count"),
    [
        pytest.param(
            SUBSTRUCTURE, (*TRAIN, "substructure", "--recipe", "quick", "-o", "batch_size=12"),
            ["no", "sphere", "vort"], 9, id="small_cnn",
        ),
        pytest.param(
            SUBSTRUCTURE, (*TRAIN, "-o", "batch_size=12", "-o", "steps_per_epoch=2"),
            ["no", "sphere", "vort"], 9, id="resnext50", marks=pytest.mark.slow,
        ),
        pytest.param(
            LENSFINDING, (*TRAIN, "lensfinding", "-o", "batch_size=8"),
            ["lens", "nonlens"], 8, id="simclr", marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_road(command, tmp_path, simulate, train, classes, count):
    task = simulate[1]
    command(*simulate, "--out", "data")
    command("lens-simulate", task, "--flat", "--count", count, "--seed", 3, "--out", "catalog")
    command(*train, "--data", "data")
    assert "lens-infer" in command("lens-export")
    (tmp_path / "catalog" / "0.npy").write_bytes(b"\x93NUMPY but no more")

    summary = command("lens-infer", "catalog/*.npy", expected=3)

    rows = rows_of(tmp_path / "preds.csv")
    truth = {row["file"] for row in rows_of(tmp_path / "catalog" / "params.csv")}
    assert f"{count + 1} cutouts = {count} ok + 0 flagged + 1 rejected" in summary
    assert {Path(row["id"]).name for row in rows} == truth | {"0.npy"}
    assert [row["status"] for row in rows] == ["rejected"] + ["ok"] * count
    assert rows[0]["reason"] == "malformed" and not rows[0][f"p_{classes[0]}"]
    prob_NK = np.array([[float(row[f"p_{name}"]) for name in classes] for row in rows[1:]])
    np.testing.assert_allclose(prob_NK.sum(axis=1), 1, atol=1e-5)
    assert [row["label"] for row in rows[1:]] == [classes[k] for k in prob_NK.argmax(axis=1)]
