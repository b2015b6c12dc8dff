"""classify() from files to rows, against the net's twin and `prepare`."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import tiny_model
from tiny_model import SIZE, SPEC

from stronglens.engine import report as report_module
from stronglens.engine import scoring
from stronglens.engine.backends import open_backend
from stronglens.engine.batches import Batch, Flag
from stronglens.engine.bundle import Golden
from stronglens.engine.config import EngineConfig
from stronglens.engine.errors import BackendError, ConfigError, InputError, LensError
from stronglens.engine.golden import replay, tolerance
from stronglens.engine.machine import usable_cores
from stronglens.engine.pipeline import classify
from stronglens.engine.preprocess import prepare
from stronglens.engine.scoring import auto_workers, score


@pytest.fixture
def bundle(tmp_path):
    return tiny_model.make_bundle(tmp_path / "bundles" / "tiny")


@pytest.fixture
def catalog(tmp_path, rng):
    """41 good cutouts, of which two have NaN, and three bad files."""
    folder = tmp_path / "catalog"
    folder.mkdir()
    for i in range(41):
        raw_HW = rng.normal(size=(SIZE, SIZE))
        if i in (3, 30):
            raw_HW[:2] = np.nan
        np.save(folder / f"{i}.npy", raw_HW)
    (folder / "5x.npy").write_bytes(b"")
    np.save(folder / "6x.npy", np.zeros((SIZE, SIZE)))
    np.save(folder / "7x.npy", np.zeros((3, 3)))
    (folder / "notes.txt").touch()
    return folder


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def expected_row(path):
    x_HW = np.empty((SIZE, SIZE), np.float32)
    _, nan_frac = prepare(np.load(path), SPEC, x_HW)
    return tiny_model.twin(x_HW[None])[0], nan_frac


def run(catalog, bundle, out, **config):
    stderr = io.StringIO()
    report = classify(
        [catalog], model=bundle.path, out=out, config=EngineConfig(**config), stderr=stderr
    )
    return report, stderr.getvalue()


def test_rows_are_what_the_twins_say(catalog, bundle, tmp_path):
    report, said = run(catalog, bundle, tmp_path / "preds.csv", device="cpu")
    found = rows(tmp_path / "preds.csv")
    assert len(found) == report.inputs == 44
    by_name = {Path(row["id"]).stem: row for row in found}
    for i in range(41):
        row = by_name[str(i)]
        prob_K, nan_frac = expected_row(catalog / f"{i}.npy")
        got_K = [float(row[f"p_{name}"]) for name in tiny_model.CLASSES]
        np.testing.assert_allclose(got_K, prob_K, atol=1e-5)
        assert row["label"] == tiny_model.CLASSES[int(np.argmax(prob_K))]
        assert float(row["nan_frac"]) == pytest.approx(nan_frac, rel=1e-5)
        assert (row["status"], row["reason"]) == ("ok", "")
    for name, why in {"5x": "malformed", "6x": "constant", "7x": "shape"}.items():
        row = by_name[name]
        assert (row["status"], row["reason"], row["label"]) == ("rejected", why, "")
        assert [row[f"p_{c}"] for c in tiny_model.CLASSES] == ["", "", ""]
    assert said.count("\n") == 1
    assert "OpenVINO on cpu" in said


def test_the_report_adds_up(catalog, bundle, tmp_path):
    report, _ = run(catalog, bundle, tmp_path / "preds.csv")
    assert (report.inputs, report.ok, report.filled, report.skipped) == (44, 41, 2, 1)
    assert report.rejected == {"malformed": 1, "constant": 1, "shape": 1}
    assert report.labels.total() == 41
    text = str(report)
    assert "44 cutouts = 41 ok + 0 flagged + 3 rejected" in text
    assert "2 scored with missing pixels filled, 1 other files skipped" in text
    for stage in ("start", "list", "model", "write", "wait", "read", "prepare", "bound by"):
        assert stage in text
    assert str(tmp_path / "preds.csv") in text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        ({"run": 9.0, "wait": 1.0}, "the model"),
        ({"run": 1.0, "wait": 8.0, "read": 7.0, "prepare": 1.0}, "reading"),
        ({"run": 1.0, "wait": 8.0, "read": 1.0, "prepare": 7.0}, "preparing"),
        ({"run": 1.0, "wait": 1.0, "write": 8.0}, "writing"),
    ],
)
def test_what_bounded_a_run(seconds, words):
    report = report_module.RunReport(Path("o.csv"), ["a", "b"], Path("m"), "label", 2, wall=10.0)
    report.seconds.update(seconds)
    assert words in report.bound()


def test_bytes_do_not_depend_on_how_the_run_is_cut_up(catalog, bundle, tmp_path):
    made = set()
    for i, config in enumerate(
        ({}, {"batch_size": 1, "workers": 1}, {"batch_size": 7, "workers": 5, "threads": 9})
    ):
        out = tmp_path / f"{i}.csv"
        run(catalog, bundle, out, precision="float32", device="cpu", **config)
        made.add(out.read_bytes())
    assert len(made) == 1


def test_what_the_model_cannot_score_is_rejected(catalog, tmp_path):
    bundle = tiny_model.make_bundle(
        tmp_path / "bundles" / "nan", onnx_bytes=tiny_model.graph(nan_above=0.5)
    )
    report, _ = run(catalog, bundle, tmp_path / "preds.csv", precision="float32")
    assert report.rejected["unscored"] > 5
    assert report.ok + report.rejected.total() == 44
    for row in rows(tmp_path / "preds.csv"):
        assert (row["status"] == "ok") == (row["p_no"] != "") == (row["label"] != "")
        assert "nan" not in row["p_no"]


def test_a_batch_without_any_cutout_to_score_is_not_run():
    class Never:
        def run(self, x_BHW):
            raise AssertionError("there is nothing to run")

    batch = Batch(["a"], np.zeros((1, 4, 4), np.float32), np.uint16([Flag.MISSING]), np.ones(1))
    scores = score(batch, Never(), 3, 2)
    assert scores.prob_BK.shape == (1, 3) and scores.encoding_BD.shape == (1, 2)
    assert np.isnan(scores.prob_BK).all() and np.isnan(scores.encoding_BD).all()


def wrong(golden, **changed):
    arrays = {"raw_NHW": golden.raw_NHW, "x_NHW": golden.x_NHW, "prob_NK": golden.prob_NK}
    return Golden(**{**arrays, **changed})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda g: {"prob_NK": g.prob_NK + np.float32(1e-3)}, "probabilities are off by 0.001"),
        (lambda g: {"prob_NK": g.prob_NK[:, ::-1].copy()}, "probabilities are off"),
        (lambda g: {"prob_NK": g.prob_NK * np.float32(np.nan)}, "off by nan"),
        (lambda g: {"prob_NK": g.prob_NK[:, :2]}, "probabilities of shape"),
        (lambda g: {"prob_NK": g.prob_NK[:2]}, "probabilities of shape"),
        (lambda g: {"x_NHW": g.x_NHW + np.float32(1e-4)}, "prepared differently here"),
        (lambda g: {"raw_NHW": g.raw_NHW[:, :-1]}, "cannot be prepared"),
    ],
)
def test_a_model_that_answers_otherwise_is_refused(catalog, tmp_path, changed, message):
    golden = tiny_model.make_golden()
    bundle = tiny_model.make_bundle(
        tmp_path / "bundles" / "wrong", golden=wrong(golden, **changed(golden))
    )
    out = tmp_path / "preds.csv"
    with pytest.raises(BackendError, match=message):
        run(catalog, bundle, out, precision="float32", device="cpu")
    assert not out.exists()
    assert not list(tmp_path.glob(".*.partial"))


def test_columns_that_are_not_the_classes_are_refused(catalog, tmp_path):
    bundle = tiny_model.make_bundle(tmp_path / "bundles" / "two", classes=["lens", "nonlens"])
    with pytest.raises(BackendError, match="3 probabilities for the classes lens, nonlens"):
        run(catalog, bundle, tmp_path / "preds.csv", precision="float32", device="cpu")


def test_the_tolerance_of_a_precision(tmp_path):
    parity = {"bfloat16": {"max_abs_dp": 0.004}, "float32": {"max_abs_dp": 1e-6}}
    bundle = tiny_model.make_bundle(tmp_path / "b", parity=parity)
    assert tolerance(bundle, "float32") == 1e-4
    assert tolerance(bundle, "bfloat16") == pytest.approx(0.009)
    assert tolerance(bundle, "float16") == 5e-2
    replay(bundle, open_backend(bundle, device="cpu", precision="float32"))


def test_nothing_is_left_where_a_run_fails(catalog, bundle, tmp_path, monkeypatch):
    def broken(*args):
        raise BackendError("the device fell off the bus")

    monkeypatch.setattr(scoring, "score", broken)
    (tmp_path / "out").mkdir()
    with pytest.raises(BackendError, match="fell off"):
        run(catalog, bundle, tmp_path / "out" / "preds.csv")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("steps", range(1, 9))
def test_a_check_ends_a_run_wherever_it_raises(catalog, bundle, tmp_path, steps):
    """What is done is kept, and the next run goes on from there."""
    left = iter(range(steps))

    def check():
        if next(left, None) is None:
            raise KeyboardInterrupt

    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt):
        classify(
            [catalog],
            model=bundle.path,
            out=tmp_path / "out" / "preds.csv",
            config=EngineConfig(batch_size=16, precision="float32"),
            stderr=io.StringIO(),
            check=check,
        )
    out, undisturbed = tmp_path / "out" / "preds.csv", tmp_path / "undisturbed.csv"
    kept = [path.name for path in (tmp_path / "out").iterdir()]
    assert kept == (["preds.csv.parts"] if steps > 4 else [])
    report, _ = run(catalog, bundle, out, precision="float32")
    assert report.resumed == min(max(0, steps - 4) * 16, 44) and report.inputs == 44
    run(catalog, bundle, undisturbed, precision="float32")
    assert out.read_bytes() == undisturbed.read_bytes()


def test_refusals_before_any_work(catalog, bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "catalog")
    with pytest.raises(ConfigError, match="no model: there is no bundle under bundles"):
        classify([catalog], out=tmp_path / "preds.csv")
    with pytest.raises(ConfigError, match="ending"):
        classify([catalog], model=bundle.path, out=tmp_path / "preds.txt")
    with pytest.raises(InputError, match="no such file"):
        classify(["absent"], model=bundle.path, out=tmp_path / "preds.csv")
    with pytest.raises(LensError, match="not a model bundle"):
        classify([catalog], model=tmp_path, out=tmp_path / "preds.csv")
    monkeypatch.chdir(tmp_path)
    assert classify([catalog], out=Path("preds.csv"), stderr=io.StringIO()).model == Path(
        "bundles/tiny"
    )


@pytest.mark.parametrize(
    "setting",
    [
        {"device": "gpu"},
        {"precision": "fp16"},
        {"workers": -1},
        {"batch_size": 10**6},
        {"ahead": 0},
    ],
)
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        EngineConfig(**setting)


def test_numbers_chosen_for_the_user():
    assert auto_workers("cpu", 64) == 2
    assert auto_workers("cuda", 64) == 4
    assert auto_workers("cuda", 1) == 2
    assert usable_cores() >= 1


class GoneAway(io.StringIO):
    def write(self, text):
        raise BrokenPipeError


def test_a_reader_of_the_progress_may_go_away(catalog, bundle, tmp_path):
    out = tmp_path / "preds.csv"
    report = classify([catalog], model=bundle.path, out=out, stderr=GoneAway())
    assert len(rows(out)) == report.inputs == 44
