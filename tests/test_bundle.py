"""A bundle comes back as it was written, and anything that was tampered with is refused."""

import io
import json
import pickle

import numpy as np
import pytest

from stronglens.engine.bundle import (
    GOLDEN,
    GOLDEN_LIMIT,
    MANIFEST,
    Golden,
    load_bundle,
    newest_bundle,
    sha256,
    write_bundle,
)
from stronglens.engine.errors import BundleError, ConfigError
from stronglens.engine.manifest import FORMAT
from stronglens.engine.preprocess import PreprocessSpec

GRAPH = b"\x0a\x05graph"  # as little as is a protocol buffer: field 1, five bytes
FACTS = {
    "task": "substructure",
    "classes": ["no", "sphere", "vort"],
    "preprocess": PreprocessSpec(size=8),
    "outputs": ["prob"],
    "metrics": {"roc_auc": {"macro": {"value": 0.9, "low": 0.8, "high": 0.95}}},
    "data": {"path": "dataset", "simulated": True},
    "recipe": {"name": "quick"},
    "versions": {"torch": "2.9"},
    "parity": {"float32": {"max_abs_dp": 1e-6}},
}


@pytest.fixture
def golden(rng):
    x_NHW = rng.random((2, 8, 8), np.float32)
    return Golden(x_NHW.astype(">f8"), x_NHW, np.full((2, 3), 1 / 3, np.float32))


@pytest.fixture
def bundle(tmp_path, golden):
    return write_bundle(tmp_path / "model", {"model.onnx": GRAPH}, golden=golden, **FACTS)


def archive(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def stored(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def edit_manifest(bundle, **changes):
    file = bundle.path / MANIFEST
    d = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in d.items() if v is not None}))


def test_bundle_comes_back_as_written(bundle, golden):
    loaded = load_bundle(bundle.path)
    assert loaded == bundle
    assert {name: getattr(loaded.manifest, name) for name in FACTS} == FACTS
    for name in ("raw_NHW", "x_NHW", "prob_NK"):
        np.testing.assert_array_equal(getattr(loaded.golden(), name), getattr(golden, name))
    assert loaded.graph("float32").read_bytes() == GRAPH == loaded.graph("bfloat16").read_bytes()


def test_writing_again_replaces_the_older_bundle_and_leaves_nothing_else(bundle, golden):
    again = write_bundle(
        bundle.path, {"model.onnx": GRAPH.replace(b"g", b"h")}, golden=golden, **FACTS
    )
    assert load_bundle(bundle.path) == again != bundle
    assert [p.name for p in bundle.path.parent.iterdir()] == ["model"]


def test_writing_over_something_else_is_refused(tmp_path, golden):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.tex").touch()
    with pytest.raises(BundleError, match="not a model bundle: choose another"):
        write_bundle(tmp_path / "model", {"model.onnx": b""}, golden=golden, **FACTS)
    assert (tmp_path / "model" / "thesis.tex").exists()
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="not a model bundle: choose another"):
        write_bundle(tmp_path / "file", {"model.onnx": b""}, golden=golden, **FACTS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": FORMAT + 1}, "this version reads"),
        ({"task": None}, "missing or unknown: task"),
        ({"shoe_size": 43}, "missing or unknown: shoe_size"),
        ({"classes": "no"}, "expected a list"),
        ({"classes": []}, "expected names"),
        ({"classes": ["no", "no"]}, "repeat"),
        ({"preprocess": {"version": 1}}, "preprocess keys missing"),
        ({"preprocess": {**PreprocessSpec().to_dict(), "mode": "log"}}, "mode 'log'"),
        ({"preprocess": {**PreprocessSpec().to_dict(), "size": "8"}}, "size is '8', expected int"),
        ({"preprocess": {**PreprocessSpec().to_dict(), "size": True}}, "size is True"),
        ({"preprocess": {**PreprocessSpec().to_dict(), "softening": None}}, "softening is None"),
        ({"preprocess": {**PreprocessSpec().to_dict(), "softening": np.inf}}, "be positive"),
        ({"parity": {"float16": None}}, "parity of float16"),
        ({"parity": {"float16": {"max_abs_dp": "none"}}}, "parity of float16"),
        ({"parity": {"float16": {"max_abs_dp": np.inf}}}, "parity of float16"),
        ({"parity": {"float16": {"rounded_max_abs_dp": 1.5}}}, "parity of float16"),
        ({"files": {"model.onnx": 3}}, "names and their sha256"),
        ({"files": {}}, "does not list model.onnx"),
    ],
)
def test_manifests_of_other_kinds_are_refused(bundle, changes, message):
    edit_manifest(bundle, **changes)
    with pytest.raises(BundleError, match=message):
        load_bundle(bundle.path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000, "\xff", "1" * (1 << 21)])
def test_a_manifest_that_is_not_one_is_refused(bundle, text):
    (bundle.path / MANIFEST).write_text(text, encoding="latin-1")
    with pytest.raises(BundleError):
        load_bundle(bundle.path)


def test_altered_missing_linked_and_foreign_files_are_refused(bundle):
    graph = bundle.path / "model.onnx"
    graph.write_bytes(GRAPH[:-1])
    with pytest.raises(BundleError, match=r"model\.onnx was altered"):
        load_bundle(bundle.path)
    graph.rename(bundle.path.parent / "elsewhere")
    with pytest.raises(BundleError, match="missing"):
        load_bundle(bundle.path)
    graph.symlink_to(bundle.path.parent / "elsewhere")
    with pytest.raises(BundleError, match="is a link"):
        load_bundle(bundle.path)
    edit_manifest(bundle, files={**bundle.manifest.files, "../elsewhere": "0"})
    graph.unlink()
    graph.write_bytes(GRAPH)
    with pytest.raises(BundleError, match="no bundle of this format has"):
        load_bundle(bundle.path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 no archive",
        pickle.dumps({"raw": 1}),
        stored(np.zeros((2, 8, 8))),
        archive(raw=np.full((2, 8, 8), None), x=np.zeros((2, 8, 8)), prob=np.zeros((2, 3))),
        archive(raw=np.zeros((2, 8, 8)), prob=np.zeros((2, 3))),
        archive(raw=np.zeros((2, 8, 8)), x=np.zeros((2, 8, 8)), prob=np.zeros(GOLDEN_LIMIT // 8)),
    ],
    ids=["empty", "no archive", "pickle", "an array", "objects", "an array too few", "bomb"],
)
def test_a_golden_batch_that_is_not_one_is_refused(bundle, content):
    (bundle.path / GOLDEN).write_bytes(content)
    edit_manifest(bundle, files=bundle.manifest.files | {GOLDEN: sha256(bundle.path / GOLDEN)})
    with pytest.raises(BundleError, match=r"golden\.npz is not a golden batch"):
        load_bundle(bundle.path).golden()


def test_classes_in_another_order_are_refused(bundle):
    edit_manifest(bundle, classes=["sphere", "no", "vort"])
    with pytest.raises(BundleError, match=r"classes no, sphere, vort.*says sphere, no, vort"):
        load_bundle(bundle.path).golden()


def test_a_golden_batch_of_before_names_no_classes(bundle, golden):
    arrays = {"raw": golden.raw_NHW, "x": golden.x_NHW, "prob": golden.prob_NK}
    (bundle.path / GOLDEN).write_bytes(archive(**arrays))
    edit_manifest(bundle, files=bundle.manifest.files | {GOLDEN: sha256(bundle.path / GOLDEN)})
    np.testing.assert_array_equal(load_bundle(bundle.path).golden().raw_NHW, golden.raw_NHW)


def test_missing_precision_says_what_there_is_and_how_to_make_it(bundle):
    with pytest.raises(BundleError, match="only bfloat16, float32: export it again with --fp16"):
        bundle.graph("float16")


def test_newest_bundle(bundle, golden):
    root = bundle.path.parent
    assert newest_bundle(root) == bundle.path
    with pytest.raises(ConfigError, match="lens-export"):
        newest_bundle(root / "nowhere")
