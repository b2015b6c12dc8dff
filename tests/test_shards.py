"""Shards of a listing: every row once, and joined they are one run's bytes."""

import contextlib
import io
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tiny_model
from commands import command, rows, write_catalog
from hypothesis import given
from hypothesis import strategies as st

from stronglens.engine.config import EngineConfig, Wanted
from stronglens.engine.errors import InputError
from stronglens.engine.pipeline import classify
from stronglens.engine.runs.shards import find_shards, shard_path, shard_rows


@given(st.integers(0, 10**9), st.integers(1, 500))
def test_every_row_is_in_one_shard(count, n):
    ends = [shard_rows(count, (i, n)) for i in range(1, n + 1)]
    assert ends[0][0] == 0 and ends[-1][1] == count
    assert all(a[1] == b[0] for a, b in pairwise(ends))
    sizes = [stop - start for start, stop in ends]
    assert max(sizes) - min(sizes) <= 1


def test_names_of_shards(tmp_path):
    assert shard_path(tmp_path / "a.b.csv", (7, 100)) == tmp_path / "a.b.007-of-100.csv"
    assert shard_path(tmp_path / "a.csv", (1, 1)) == tmp_path / "a.csv"
    out = tmp_path / "a.csv"
    with pytest.raises(InputError, match=r"no shards of a\.csv, such as a\.01-of-10\.csv"):
        find_shards(out)
    for i in (1, 2, 10):
        shard_path(out, (i, 10)).touch()
    with pytest.raises(InputError, match="shards 3, 4, 5, 6, 7, 8, 9 of 10 are not finished"):
        find_shards(out)
    shard_path(out, (1, 2)).touch()
    with pytest.raises(InputError, match="has shards of 2, 10"):
        find_shards(out)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a catalogue, a bundle, an output made alone and one made in three shards."""
    folder = tmp_path_factory.mktemp("shards")
    tiny_model.make_bundle(folder / "bundles" / "tiny")
    write_catalog(folder / "catalog", 20, np.random.default_rng(1))
    (folder / "catalog" / "3.npy").write_bytes(b"")
    lines = [f"catalog/{i}.npy,{10 + i / 7!r},{i}" for i in range(20)]
    (folder / "table.csv").write_text("\n".join(["path,ra,object", *lines, ""]))
    for ending in ("csv", "parquet", "fits"):
        (alone := folder / "alone").mkdir(exist_ok=True)
        infer(folder, ending, (1, 1))
        for made in (f"preds.{ending}", f"{ending}.npy", f"preds.top.{ending}"):
            shutil.move(folder / made, alone / made)
        for i in (1, 2, 3):
            infer(folder, ending, (i, 3))
    return folder


def infer(folder, ending, shard):
    wanted = Wanted(shard=shard, encodings=Path(f"{ending}.npy"), top=4, target="vort")
    with contextlib.chdir(folder):
        classify(
            ["table.csv"],
            out=Path(f"preds.{ending}"),
            wanted=wanted,
            config=EngineConfig(precision="float32"),
            stderr=io.StringIO(),
        )


@pytest.mark.parametrize("ending", ["csv", "parquet", "fits"])
def test_joined_shards_are_the_bytes_of_one_run(place, tmp_path, ending):
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    options = ("--encodings", f"{ending}.npy", "--top", 4, "--target", "vort")
    done = command("lens-merge", f"preds.{ending}", *options, cwd=tmp_path, status=3)
    assert "20 cutouts = 19 ok + 0 flagged + 1 rejected" in done.stdout
    for made in (f"preds.{ending}", f"{ending}.npy", f"preds.top.{ending}"):
        assert (tmp_path / made).read_bytes() == (tmp_path / "alone" / made).read_bytes(), made
    command("lens-verify", f"preds.{ending}", "table.csv", "--sample", 5, cwd=tmp_path)
    assert [row["id"] for row in rows(tmp_path / "preds.rejected.csv")] == ["catalog/3.npy"]


def test_a_shard_as_the_command_makes_it(place, tmp_path):
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    expected = (tmp_path / "preds.2-of-3.csv").read_bytes()
    (tmp_path / "preds.2-of-3.csv").unlink()
    options = ("--encodings", "csv.npy", "--top", 4, "--target", "vort", "--precision", "float32")
    command("lens-infer", "table.csv", *options, "--shard", "2/3", cwd=tmp_path)
    assert (tmp_path / "preds.2-of-3.csv").read_bytes() == expected


def test_a_shard_can_be_verified_by_itself(place):
    done = command("lens-verify", "preds.2-of-3.csv", "table.csv", cwd=place)
    assert "7 rows: verified" in done.stdout


def test_what_is_not_of_one_run_is_not_joined(place, tmp_path):
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    second = tmp_path / "preds.2-of-3.csv"
    receipt = tmp_path / "preds.2-of-3.csv.receipt.json"
    text, said = second.read_text(), receipt.read_text()

    def refused():
        done = command("lens-merge", "preds.csv", cwd=tmp_path, status=1)
        assert not (tmp_path / "preds.csv").exists()
        return done.stderr

    second.write_text(text.replace("0.", "1.", 1))
    assert "preds.2-of-3.csv was changed since it was written" in refused()
    second.write_text(text)
    receipt.write_text(said.replace('"float32"', '"bfloat16"'))
    assert "it differs in precision" in refused()
    receipt.unlink()
    assert "has no receipt beside it" in refused()
    receipt.write_text(said)
    second.unlink()
    assert "shards 2 of 3 are not finished" in refused()


def test_shards_out_of_range_are_wrong_usage(place):
    for wrong in ("0/3", "4/3", "1", "a/b"):
        command("lens-infer", "catalog", "--shard", wrong, cwd=place, status=2)
