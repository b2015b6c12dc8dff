"""Faults of files that need the system's help: each costs its own row, or is refused at once."""

import errno
import io
import json
import os
import pickle
import subprocess
import sys
import tracemalloc
from collections import deque

import numpy as np
import onnx
import pytest
import tiny_model
from commands import command, rows
from tiny_model import SIZE, SPEC

from stronglens.engine.batches import Flag, Scores
from stronglens.engine.bundle import MANIFEST, sha256
from stronglens.engine.errors import CutoutError, LensError
from stronglens.engine.feed import feed
from stronglens.engine.pipeline import classify
from stronglens.engine.sources import files, open_source
from stronglens.engine.sources.npy import NpyCutout


@pytest.fixture
def bundle(tmp_path):
    return tiny_model.make_bundle(tmp_path / "bundles" / "tiny").path


@pytest.fixture
def good(tmp_path, rng):
    np.save(tmp_path / "good.npy", rng.normal(size=(SIZE, SIZE)))
    return tmp_path / "good.npy"


def flags_of(*paths):
    """What becomes of files in the feed, whose compiled code reads them after the first."""
    cutouts = [NpyCutout(str(path)) for path in paths]
    (batch,) = feed(cutouts, SPEC, batch_size=len(paths), workers=1)
    return [Flag(flag) for flag in batch.flags_B]


def test_a_file_that_is_still_being_written(tmp_path, bundle, good):
    whole = good.read_bytes()
    late = tmp_path / "late.npy"
    arguments = ("good.npy", "late.npy", "--model", bundle)
    for so_far in (0, 60, 128, len(whole) - 1):
        late.write_bytes(whole[:so_far])
        assert flags_of(good, late, good) == [Flag.OK, Flag.MALFORMED, Flag.OK]
    command("lens-infer", *arguments, cwd=tmp_path, status=3)
    assert [row["reason"] for row in rows(tmp_path / "preds.csv")] == ["", "malformed"]
    late.write_bytes(whole)  # now it is there: only it is read again
    done = command("lens-infer", *arguments, "--retry", cwd=tmp_path)
    assert "tried 1 rejected cutouts again: 1 are scored now" in done.stderr
    first, second = rows(tmp_path / "preds.csv")
    assert {**first, "id": ""} == {**second, "id": ""}


def test_a_file_that_shrinks_while_it_is_read(good, monkeypatch):
    whole = good.stat().st_size
    monkeypatch.setattr(files, "regular_size", lambda fd: whole + 1)
    with pytest.raises(CutoutError, match="shrank while it was read") as caught:
        NpyCutout(str(good)).read()
    assert caught.value.flag == Flag.MALFORMED


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOMEM])
def test_an_error_of_the_disk_or_of_the_network_is_a_rejected_row(good, monkeypatch, code):
    def fail(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "read", fail)
    with pytest.raises(CutoutError, match=os.strerror(code)) as caught:
        NpyCutout(str(good)).read()
    assert caught.value.flag == Flag.UNREADABLE


def test_a_file_that_cannot_be_read_though_it_can_be_opened(tmp_path, good):
    """A real one, for the compiled code too: this one of Linux answers every read by an error."""
    source = "/sys/class/net/lo/speed"
    try:
        with open(source, "rb", buffering=0) as file:  # noqa: PTH123
            file.read(1)
        pytest.skip(f"{source} can be read here")
    except FileNotFoundError:
        pytest.skip(f"there is no {source} here")
    except OSError:
        (tmp_path / "broken.npy").symlink_to(source)
    flags = flags_of(good, tmp_path / "broken.npy", good)
    assert flags == [Flag.OK, Flag.UNREADABLE, Flag.OK]


NOBODY = 65534
WITHOUT_RIGHTS = f"""
import os
from stronglens.engine.errors import CutoutError, InputError
from stronglens.engine.sources import open_source
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})
for cutout in open_source(["open.npy", "secret.npy", "closed/a.npy"]):
    try:
        print(cutout.id, cutout.read().shape)
    except CutoutError as err:
        print(cutout.id, err.flag.name, err)
try:
    open_source(["closed"])
except InputError as err:
    print(err)
"""


def test_files_and_folders_of_somebody_else(tmp_path, good):
    tmp_path.chmod(0o755)
    good.rename(tmp_path / "open.npy").chmod(0o644)
    (tmp_path / "secret.npy").touch(mode=0)
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "a.npy").touch()
    (tmp_path / "closed").chmod(0)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RIGHTS], cwd=tmp_path, capture_output=True, text=True
    )
    (tmp_path / "closed").chmod(0o755)
    assert done.stderr == ""
    assert done.stdout.splitlines()[:3] == [
        f"open.npy {(SIZE, SIZE)}",
        "secret.npy UNREADABLE Permission denied",
        "closed/a.npy UNREADABLE Permission denied",
    ]
    assert "closed: " in done.stdout and "Permission denied" in done.stdout.splitlines()[3]


def test_one_name_in_two_folders_is_two_rows(tmp_path, good, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        os.link(good, tmp_path / folder / "same.npy")
    source = open_source(["first", "second", "first"])
    assert [cutout.id for cutout in source] == ["first/same.npy", "second/same.npy"]
    assert source.duplicates == 1


@pytest.mark.parametrize("count", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_many_files_in_one_folder(tmp_path, count):
    """Ten times as many need no more memory."""
    (tmp_path / "catalog").mkdir()
    for i in range(count):
        if i % 50_000 == 0:  # a file has room for so many names, roughly
            (tmp_path / "catalog" / f"{i}.npy").touch()
        else:
            os.link(
                tmp_path / "catalog" / f"{i - i % 50_000}.npy", tmp_path / "catalog" / f"{i}.npy"
            )
    tracemalloc.start()
    source = open_source([tmp_path / "catalog"])
    assert len(source) == count
    (last,) = deque(source, maxlen=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert last.id == f"{tmp_path}/catalog/{count - 1}.npy"
    assert peak < 40e6


def test_a_score_that_is_no_number_is_a_rejected_row(rng):
    """As when float16 overflows: inf in the logits, NaN in the probabilities."""
    from stronglens.engine.batches import Batch
    from stronglens.engine.scoring import score

    class Overflows:
        def run(self, x_BHW):
            with np.errstate(over="ignore", invalid="ignore"):
                logits_BK = np.float16(x_BHW[:, 0, :2] * 1e6)
                e_BK = np.exp(logits_BK - logits_BK.max(axis=1, keepdims=True))
                return np.float32(e_BK / e_BK.sum(axis=1, keepdims=True))

    x_BHW = np.zeros((2, 4, 4), np.float32)
    x_BHW[1] = 1
    batch = Batch(["fine", "bright"], x_BHW, np.zeros(2, np.uint16), np.zeros(2, np.float32))
    scores: Scores = score(batch, Overflows(), 2, 0)
    assert [Flag(flag).name for flag in scores.flags_B] == ["OK", "UNSCORED"]
    assert np.isnan(scores.prob_BK[1]).all() and not np.isnan(scores.prob_BK[0]).any()


# ---------------------------------------------------------------- models


def changed_manifest(bundle, **changes):
    file = bundle / MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("name", ["model.pth", "folder"])
def test_a_pickled_checkpoint_is_no_model(tmp_path, good, name):
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "model.pth", tmp_path / "folder" / "model.pth"):
        path.write_bytes(pickle.dumps(Untouchable()))
    done = command("lens-infer", "good.npy", "--model", name, cwd=tmp_path, status=1)
    assert f"{name} is not a model bundle: it has no manifest.json" in done.stderr


class Untouchable:
    def __reduce__(self):
        return (os._exit, (77,))


def refused(bundle, good, message):
    out = good.parent / "preds.csv"
    with pytest.raises(LensError, match=message):
        classify([good], model=bundle, out=out, stderr=io.StringIO())
    assert {path.name for path in good.parent.iterdir()} == {"bundles", "good.npy"}


def test_other_classes_and_other_preprocessing_are_refused(bundle, good):
    changed_manifest(bundle, classes=tiny_model.CLASSES[::-1])
    refused(bundle, good, "was made for the classes no, sphere, vort, and its manifest says vort")
    spec = {**SPEC.to_dict(), "mode": "asinh"}
    changed_manifest(bundle, classes=tiny_model.CLASSES, preprocess=spec)
    refused(bundle, good, "golden cutout 0 is prepared differently here")


def test_a_graph_of_operators_that_nobody_knows_is_refused(bundle, good):
    model = onnx.load(bundle / "model.onnx")
    model.opset_import[0].version = 99
    model.graph.node[0].op_type = "OfTheFuture"
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    files = json.loads((bundle / MANIFEST).read_text())["files"]
    changed_manifest(bundle, files=files | {"model.onnx": sha256(bundle / "model.onnx")})
    refused(bundle, good, "cannot load")
