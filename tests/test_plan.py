"""lens-infer --plan says what is there and what would be chosen, and writes nothing."""

import re

import numpy as np
import pytest
import tiny_model
from commands import command, write_catalog
from tiny_model import SIZE

from stronglens.engine.config import EngineConfig, Wanted
from stronglens.engine.runs.plan import make_plan


@pytest.fixture
def place(tmp_path, rng):
    tiny_model.make_bundle(tmp_path / "bundles" / "tiny")
    folder = write_catalog(tmp_path / "catalog", 300, rng)
    for i in range(0, 300, 10):
        raw_HW = np.load(folder / f"{i}.npy").astype(">f4")
        raw_HW[:3] = np.nan
        np.save(folder / f"{i}.npy", raw_HW)
    np.save(folder / "300.npy", np.zeros((3, SIZE)))
    return tmp_path


def test_what_a_plan_says(place):
    before = sorted(path.name for path in place.rglob("*"))
    said = command("lens-infer", "catalog", "--plan", cwd=place).stdout
    assert "301 cutouts, of which 200 were read" in said
    assert "formats   .npy 200" in said
    assert re.search(r"sizes     12×12 199, 3×12 1\n", said)
    assert re.search(r"dtypes    float64 \d+, float32 \d+\n", said)
    assert re.search(r"missing   pixels in \d+ of them, 2\.\d* % of all", said)
    assert "rejected  shape 1" in said
    assert "OpenVINO on cpu" in said and "fed by 2 threads" in said
    assert re.search(r"bound by  (the model|reading and preparing|writing)", said)
    assert re.search(r"time      .*: list .*, start .*, score .*, write ", said)
    assert re.search(r"memory    \d{2,3} MB", said)
    assert re.search(r"disk      preds.csv 0\.0 MB, and 0\.0 MB beside it", said)
    assert sorted(path.name for path in place.rglob("*")) == before


def test_a_plan_adds_up(place, monkeypatch):
    monkeypatch.chdir(place)
    plan = make_plan(
        ["catalog"],
        model=None,
        out=place / "preds.csv",
        wanted=Wanted(shard=(2, 2)),
        config=EngineConfig(),
    )
    assert plan.inputs == 151 and plan.found.read == 151
    assert plan.total == sum(plan.seconds.values())
    assert plan.seconds["score"] == pytest.approx(151 / plan.rates["score"])
    assert plan.rates["score"] <= plan.rates["feed"]
    assert plan.part_bytes == 151 * 18


def test_what_a_run_refuses_a_plan_refuses(place):
    for arguments, status in (
        (("absent", "--plan"), 1),
        (("catalog", "--plan", "--out", "x.txt"), 1),
        (("catalog", "--plan", "--top", "3"), 1),
    ):
        command("lens-infer", *arguments, cwd=place, status=status)
