import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stronglens.engine.errors import ConfigError, InputError
from stronglens.training.simulate import lensfinding, substructure
from stronglens.training.simulate.layout import CLASSES, plan
from stronglens.training.simulate.writer import mosaic_path, simulate

SMALL = {"train": 3, "val": 2, "seed": 5}


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def truth(folder):
    with (folder / "params.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A small data set of substructure: read it, change it nowhere."""
    out = tmp_path_factory.mktemp("simulated") / "dataset"
    simulate("substructure", out, **SMALL, workers=2)
    return out


@pytest.fixture
def copied(dataset, tmp_path):
    return Path(shutil.copytree(dataset, tmp_path / "dataset"))


class Stopped(Exception): ...


def stop_after(count):
    def progress(done, total):
        if done >= count:
            raise Stopped

    return progress


# ---------------------------------------------------------------- the plan


@pytest.mark.parametrize("task", CLASSES)
def test_classes_are_those_of_the_renderers_and_of_the_tasks(task):
    from stronglens.training.tasks import TASKS

    renderer = {"substructure": substructure, "lensfinding": lensfinding}[task]
    assert CLASSES[task] == renderer.CLASSES == tuple(TASKS[task].classes)


def test_no_two_files_of_a_seed_share_a_scene():
    planned = [
        target
        for task in CLASSES
        for flat in (False, True)
        for target in plan(task, train=50, val=20, seed=1, flat=flat)
    ]
    assert len({target.entropy for target in planned}) == len(planned)


def test_more_files_leave_the_first_as_they_were():
    few, many = (plan("substructure", train=n, val=n, seed=1) for n in (3, 7))
    assert set(few) < set(many)


# ---------------------------------------------------------------- what is written


def test_substructure_has_the_layout_of_the_reference(dataset):
    images = {
        f"{split}/{cls}/{n}.npy"
        for split, count in (("train", 3), ("val", 2))
        for cls in ("no", "sphere", "vort")
        for n in range(1, count + 1)
    }
    beside = {"manifest.json", "params.csv", "mosaic.png", ".params.jsonl"}
    assert contents(dataset).keys() == images | beside


def test_lensfinding_has_the_layout_of_the_reference(tmp_path):
    out = tmp_path / "real_hst"
    simulate("lensfinding", out, train=3, val=2, seed=5)
    cutouts = {"l_1_hst.npy", "l_2_hst.npy", "l_3_hst.npy", "nl_1_hst.npy", "nl_2_hst.npy"}
    assert contents(out).keys() == cutouts | {"manifest.json", "params.csv", ".params.jsonl"}
    cutout = np.load(out / "nl_2_hst.npy", allow_pickle=False)
    assert (cutout.shape, cutout.dtype) == ((334, 334), np.float32)
    assert json.loads((out / "manifest.json").read_text())["counts"] == {"lens": 3, "nonlens": 2}
    assert [row["class"] for row in truth(out)] == 3 * ["lens"] + 2 * ["nonlens"]
    assert mosaic_path(out, "lensfinding") == tmp_path / "real_hst_mosaic.png"
    sheet_HW = np.asarray(Image.open(tmp_path / "real_hst_mosaic.png"))
    assert sheet_HW.shape == (2 * 338 + 4, 8 * 338 + 4)


def test_any_image_can_be_made_again_alone(dataset):
    for target in plan("substructure", **SMALL):
        alone, params = substructure.render(target.entropy, target.cls)
        saved = np.load(dataset / target.path, allow_pickle=False)
        assert saved.dtype == np.float64
        assert np.array_equal(saved, alone)
        row = next(row for row in truth(dataset) if row["file"] == target.path)
        assert row["class"] == target.cls
        assert float(row["theta_E"]) == params["theta_E"]
        assert json.loads(row["points"]) == params["points"]


def test_number_of_workers_changes_no_byte(dataset, tmp_path):
    simulate("substructure", tmp_path / "one", **SMALL, workers=1)
    assert contents(tmp_path / "one") == contents(dataset)


def test_manifest_tells_how_it_was_made(dataset):
    manifest = json.loads((dataset / "manifest.json").read_text())
    assert manifest["simulated"] is True
    assert (manifest["task"], manifest["seed"]) == ("substructure", 5)
    assert manifest["counts"]["train/no"] == 3
    assert manifest["counts"]["val/vort"] == 2
    assert manifest["recipe"]["fraction"] == [0.03, 0.055]
    assert manifest["versions"].keys() >= {"stronglens", "numpy"}


def test_mosaic_shows_a_row_a_class(dataset):
    sheet_HW = np.asarray(Image.open(dataset / "mosaic.png"))
    assert sheet_HW.shape == (3 * 154 + 4, 8 * 154 + 4)
    # three images in train and two in val: five tiles, then blank paper
    assert (sheet_HW[:, 5 * 154 + 4 :] == 255).all()
    assert all((sheet_HW[4:150, j * 154 + 4 : j * 154 + 154] < 255).any() for j in range(5))


def test_catalogue_hides_the_classes(tmp_path):
    out = tmp_path / "catalog"
    simulate("substructure", out, train=10, val=2, seed=5, flat=True)
    names = {f"{n}.npy" for n in range(1, 13)}
    assert contents(out).keys() == names | {"manifest.json", "params.csv", ".params.jsonl"}
    classes = [row["class"] for row in truth(out)]
    assert Counter(classes) == {"no": 4, "sphere": 4, "vort": 4}
    assert classes != sorted(classes)
    for row in truth(out):
        assert (row["points"] != "[]", row["line"] != "[]") == (
            row["class"] == "sphere",
            row["class"] == "vort",
        )


@pytest.mark.parametrize(
    "option", [{"strength": 3.0}, {"orientation": "any"}, {"seed": 6}], ids=str
)
def test_each_option_changes_the_images(dataset, tmp_path, option):
    simulate("substructure", tmp_path / "other", **(SMALL | option))
    name = "train/vort/1.npy"
    assert (tmp_path / "other" / name).read_bytes() != (dataset / name).read_bytes()


# ---------------------------------------------------------------- stopped and gone on with


def test_stopped_run_is_gone_on_with(dataset, tmp_path):
    out = tmp_path / "dataset"
    with pytest.raises(Stopped):
        simulate("substructure", out, **SMALL, workers=1, progress=stop_after(4))
    assert not (out / "params.csv").exists()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.npy")}
    assert len(before) < 15
    with (out / ".params.jsonl").open("a") as ledger:
        ledger.write('{"file": "train/no/')  # as a kill in the midst of a line leaves it
    told = []
    simulate("substructure", out, **SMALL, progress=lambda done, total: told.append((done, total)))
    assert told[0][0] > 4
    assert told[-1] == (15, 15)
    assert contents(out).keys() == contents(dataset).keys()
    ledger = ".params.jsonl"  # the one file whose lines are in the order they were made
    assert {k: v for k, v in contents(out).items() if k != ledger} == {
        k: v for k, v in contents(dataset).items() if k != ledger
    }
    kept = [out / target.path for target in plan("substructure", **SMALL)[:4]]
    assert all(path.stat().st_mtime_ns == before[path] for path in kept)


def test_finished_set_is_left_alone(copied):
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*.npy")}
    told = []
    simulate("substructure", copied, **SMALL, progress=lambda *counts: told.append(counts))
    assert told == []
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*.npy")} == before


@pytest.mark.parametrize("harm", ["missing", "truncated"])
def test_harmed_files_are_made_again(dataset, copied, harm):
    path = copied / "val" / "sphere" / "2.npy"
    whole = path.read_bytes()
    path.unlink()
    if harm == "truncated":
        path.write_bytes(whole[:1000])
    simulate("substructure", copied, **SMALL)
    assert path.read_bytes() == whole
    assert truth(copied) == truth(dataset)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"seed": 6}, "seed 5, not 6"),
        ({"train": 4}, "counts"),
        ({"strength": 2.0}, "options"),
        ({"flat": True}, "layout"),
    ],
)
def test_data_set_made_otherwise_is_refused(dataset, change, word):
    before = contents(dataset)
    with pytest.raises(ConfigError, match=rf"made with {word}.*choose another folder"):
        simulate("substructure", dataset, **(SMALL | change))
    assert contents(dataset) == before


def test_other_versions_are_no_reason_to_refuse(copied):
    path = copied / "manifest.json"
    path.write_text(path.read_text().replace('"numpy": "', '"numpy": "0.'))
    simulate("substructure", copied, **SMALL)
    assert '"numpy": "0.' in path.read_text()


@pytest.mark.parametrize("name", ["train/no/4.npy", "notes.txt", "train/no/1.npy.bak"])
def test_files_of_others_are_refused(copied, name):
    (copied / name).write_bytes(b"mine")
    with pytest.raises(InputError, match=rf"holds {name}, .*new or empty folder"):
        simulate("substructure", copied, **SMALL)
    assert (copied / name).read_bytes() == b"mine"


def test_folder_of_real_images_is_refused(tmp_path):
    real = tmp_path / "train" / "no" / "1.npy"
    real.parent.mkdir(parents=True)
    real.write_bytes(b"real")
    with pytest.raises(InputError, match="new or empty folder"):
        simulate("substructure", tmp_path, **SMALL)
    assert contents(tmp_path) == {"train/no/1.npy": b"real"}


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1, "task": "substructure"}'])
def test_manifest_of_others_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match="not the manifest of a simulated data set"):
        simulate("substructure", tmp_path, **SMALL)
    assert contents(tmp_path) == {"manifest.json": text.encode()}


def test_hidden_files_are_tolerated(copied):
    (copied / "train" / ".DS_Store").write_bytes(b"\0")
    simulate("substructure", copied, **SMALL)


def test_full_disk_is_seen_before_any_work(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"needs 6\.75 GB.*0\.00 GB free"):
        simulate("substructure", tmp_path / "dataset", train=10_000, val=2_500, seed=1)
    assert not list(tmp_path.rglob("*.npy"))


def test_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be written"):
        simulate("substructure", tmp_path / "file" / "dataset", **SMALL)
