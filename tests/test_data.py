"""Data sets on disk: which cutouts are found, how they are split, what is left out and said."""

import json
import os

import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import train_test_split

from stronglens.engine.errors import InputError
from stronglens.engine.preprocess import prepare
from stronglens.training import data as data_module
from stronglens.training import listing
from stronglens.training.data import batches, load_dataset
from stronglens.training.listing import hash_files, list_dataset
from stronglens.training.tasks import TASKS

TASK = TASKS["substructure"]
LENSFINDING = TASKS["lensfinding"]
SIZE = 12


def write_class(folder, count, *, size=SIZE, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(1, count + 1):
        np.save(folder / f"{i}.npy", rng.random((1, size, size)))


@pytest.fixture
def reference_layout(tmp_path):
    for seed, (split, count) in enumerate([("train", 11), ("val", 3)]):
        for k, cls in enumerate(["vort", "no", "sphere"]):
            write_class(tmp_path / "d" / split / cls, count, seed=10 * seed + k)
    return tmp_path / "d"


def listed(root, task=TASK, seed=0, val_fraction=0.1):
    return list_dataset(task, root, seed=seed, val_fraction=val_fraction)


def load(root, task=TASK, seed=0, **options):
    return load_dataset(task, root, seed=seed, cache_dir=root.parent / "cache", **options)


def names(labelled, root):
    return [os.path.relpath(each.path, root) for each in labelled]


def test_the_reference_layout_in_the_order_of_the_task(reference_layout):
    found = listed(reference_layout)
    assert found.classes == ["no", "sphere", "vort"]
    expected = [f"train/{cls}/{i}.npy" for cls in found.classes for i in range(1, 12)]
    assert names(found.train, reference_layout) == expected
    assert [each.label for each in found.val] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_what_is_no_cutout_is_never_a_cutout_or_a_class(reference_layout):
    before = listed(reference_layout)
    (reference_layout / "train" / ".DS_Store").touch()
    (reference_layout / "train" / "no" / ".DS_Store").touch()
    (reference_layout / "train" / "no" / "._1.npy").touch()
    (reference_layout / "train" / "no" / "notes.txt").touch()
    (reference_layout / "train" / "empty").mkdir()
    (reference_layout / "manifest.json").write_text("{}")
    assert listed(reference_layout) == before


def test_the_order_of_the_folder_does_not_matter(reference_layout, monkeypatch):
    before = listed(reference_layout)
    scandir = os.scandir

    class Backwards:
        def __init__(self, folder):
            self.entries = sorted(scandir(folder), key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(listing.os, "scandir", Backwards)
    assert listed(reference_layout) == before


def test_class_folders_of_any_names_are_sorted_and_split(tmp_path):
    for cls in ("spiral", "elliptical"):
        write_class(tmp_path / cls, 20)
    found = listed(tmp_path, seed=3, val_fraction=0.25)
    assert found.classes == ["elliptical", "spiral"]
    assert [each.label for each in found.val] == [0] * 5 + [1] * 5
    both = names(found.train, tmp_path) + names(found.val, tmp_path)
    assert sorted(both) == sorted(f"{cls}/{i}.npy" for cls in found.classes for i in range(1, 21))
    assert listed(tmp_path, seed=3, val_fraction=0.25) == found
    assert listed(tmp_path, seed=4, val_fraction=0.25) != found


def test_a_train_folder_without_val_is_split(tmp_path):
    for cls in ("no", "sphere", "vort"):
        write_class(tmp_path / "train" / cls, 10)
    found = listed(tmp_path)
    assert (len(found.train), len(found.val)) == (27, 3)
    assert "held out" in found.how


def test_lens_finding_is_split_as_the_reference_was(tmp_path):
    folder = tmp_path / "real_hst"
    folder.mkdir()
    for i in range(152):
        (folder / f"l_{i}_hst.npy").touch()
    for i in range(63):
        (folder / f"nl_{i}_hst.npy").touch()
    found = listed(folder, LENSFINDING, seed=42)
    assert found.classes == ["lens", "nonlens"]
    labels = [0] * 152 + [1] * 63
    expected = train_test_split(range(215), test_size=0.1, stratify=labels, random_state=42)
    assert (len(found.train), len(found.val)) == (193, 22) == tuple(map(len, expected))
    every = [f"l_{i}_hst.npy" for i in range(152)] + [f"nl_{i}_hst.npy" for i in range(63)]
    assert names(found.val, folder) == [every[i] for i in sorted(expected[1])]
    assert all(
        each.label == ("nl_" in os.path.basename(each.path))  # noqa: PTH119
        for each in found.train + found.val
    )
    assert listed(tmp_path, LENSFINDING, seed=42) == found  # the folder around it will do


@pytest.mark.parametrize(
    ("files", "task", "message"),
    [
        ([], TASK, "expected a folder of cutouts for each class"),
        (["a/1.npy"], TASK, "found a"),
        (["1.npy"], TASK, "found none"),
        (["a/1.npy", "b/1.npy", "b/2.npy"], TASK, "cannot split: 1 cutouts of a"),
        (["train/a/1.npy", "train/b/1.npy", "val/a/1.npy", "val/c/1.npy"], TASK, "val a, c"),
        (["x/1.npy", "y/1.npy"], LENSFINDING, "those of non-lenses named nl_"),
        (["1.npy", "2.npy"], LENSFINDING, "0 cutouts of nonlens"),
    ],
)
def test_what_is_no_data_set_is_refused(tmp_path, files, task, message):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=message):
        listed(tmp_path, task)


def test_no_such_folder(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        listed(tmp_path / "nothing")


def test_cutouts_are_prepared_as_the_engine_prepares_them(reference_layout):
    data = load(reference_layout)
    assert data.classes == ["no", "sphere", "vort"]
    assert data.val.ids[4] == "val/sphere/2.npy"
    assert data.val.y_N.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    expected_HW = np.empty((SIZE, SIZE), np.float32)
    prepare(np.load(reference_layout / "val/sphere/2.npy"), data.spec, expected_HW)
    np.testing.assert_array_equal(data.val.x_NHW[4], expected_HW)
    assert data.origin["counts"]["train"] == {"no": 11, "sphere": 11, "vort": 11}
    assert not data.origin["simulated"]


def test_the_size_is_that_of_most_cutouts_and_said(reference_layout):
    np.save(reference_layout / "train" / "no" / "1.npy", np.random.default_rng(0).random((9, 9)))
    said = []
    data = load(reference_layout, say=said.append)
    assert (data.spec.size, data.spec.fit) == (SIZE, "exact")
    assert f"cutouts of {SIZE}×{SIZE} pixels" in said[0]
    assert data.origin["rejected_ids"] == ["train/no/1.npy"]


def test_oblong_cutouts_are_cropped(tmp_path):
    for cls in ("a", "b"):
        (tmp_path / cls).mkdir()
        for i in range(4):
            np.save(tmp_path / cls / f"{i}.npy", np.random.default_rng(i).random((10, 16)))
    data = load(tmp_path)
    assert (data.spec.size, data.spec.fit) == (10, "crop")


def test_unreadable_cutouts_are_left_out_counted_and_said(reference_layout):
    (reference_layout / "train" / "no" / "2.npy").write_bytes(b"\x93NUMPY broken")
    np.save(reference_layout / "train" / "vort" / "5.npy", np.full((SIZE, SIZE), np.nan))
    np.save(reference_layout / "val" / "no" / "1.npy", np.ones((SIZE, SIZE)))
    said = []
    data = load(reference_layout, say=said.append)
    left_out = ["train/no/2.npy", "train/vort/5.npy", "val/no/1.npy"]
    assert data.origin["rejected_ids"] == left_out
    assert data.origin["rejected"] == 3
    assert "3 unreadable cutouts left out" in said[-1]
    assert not set(left_out) & set(data.train.ids + data.val.ids)
    assert len(data.train.ids) == len(data.train.y_N) == len(data.train.x_NHW) == 31
    assert data.origin["counts"]["train"] == {"no": 10, "sphere": 11, "vort": 10}


def test_a_class_of_which_nothing_is_readable_stops_the_work(reference_layout):
    for path in (reference_layout / "val" / "no").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match="no readable cutout of no in the split val"):
        load(reference_layout)


def test_pictures_are_cutouts(tmp_path):
    rng = np.random.default_rng(0)
    for cls in ("a", "b"):
        (tmp_path / cls).mkdir()
        for i in range(4):
            pixels = rng.integers(0, 256, (SIZE, SIZE), np.uint8)
            Image.fromarray(pixels).save(tmp_path / cls / f"{i}.{'png' if i % 2 else 'jpg'}")
    data = load(tmp_path)
    assert len(data.train.ids) + len(data.val.ids) == 8
    assert data.train.x_NHW.max() == 1.0


def test_what_does_not_fit_in_memory_goes_to_a_file_that_leaves_nothing(
    reference_layout, monkeypatch
):
    in_memory = load(reference_layout)
    monkeypatch.setattr(data_module, "_memory", lambda: 1000)
    on_disk = load(reference_layout)
    assert isinstance(on_disk.train.x_NHW, np.memmap)
    np.testing.assert_array_equal(on_disk.train.x_NHW, in_memory.train.x_NHW)
    assert list((reference_layout.parent / "cache").iterdir()) == []


def test_only_the_simulators_manifest_makes_data_simulated(reference_layout):
    manifest = reference_layout / "manifest.json"
    for text, expected in [
        ('{"simulated": true}', True),
        ('{"simulated": false}', False),
        ("[1]", False),
        ("broken", False),
    ]:
        manifest.write_text(text)
        assert load(reference_layout).origin["simulated"] is expected
    assert json.dumps(load(reference_layout).origin)


@pytest.mark.parametrize("small", [True, False])
def test_the_hash_sees_names_and_bytes(reference_layout, monkeypatch, small):
    if not small:
        monkeypatch.setattr(listing, "HASH_ALL_BELOW", 0)
        monkeypatch.setattr(listing, "HASH_EDGE", 200)
    paths = [each.path for each in listed(reference_layout).train]
    before = hash_files(reference_layout, paths)
    assert ("bytes" in before[1]) == small
    assert hash_files(reference_layout, paths) == before
    moved = reference_layout.rename(reference_layout.with_name("elsewhere"))
    paths = [each.path for each in listed(moved).train]
    assert hash_files(moved, paths) == before
    with open(paths[0], "r+b") as file:  # noqa: PTH123
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    altered = hash_files(moved, paths)
    assert altered[0] != before[0]
    os.rename(paths[1], paths[1].replace("2.npy", "200.npy"))  # noqa: PTH104
    renamed = [each.path for each in listed(moved).train]
    assert len(renamed) == len(paths)
    assert hash_files(moved, renamed)[0] != altered[0]


def test_batches_hold_every_cutout_once_in_the_order_given(reference_layout):
    split = load(reference_layout).train
    order_N = np.random.default_rng(0).permutation(len(split.ids))
    parts = list(batches(split, order_N, 10))
    assert [len(y_B) for _, y_B in parts] == [10, 10, 10, 3]
    np.testing.assert_array_equal(np.concatenate([x for x, _ in parts]), split.x_NHW[order_N])
    np.testing.assert_array_equal(np.concatenate([y for _, y in parts]), split.y_N[order_N])
