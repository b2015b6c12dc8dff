"""lens-export from a run's folder to a checked bundle, and everything that stops it."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from tiny_run import PER_CLASS, write_data, write_predictions, write_run

from stronglens.engine.backends import open_backend
from stronglens.engine.bundle import load_bundle
from stronglens.engine.golden import replay
from stronglens.export import assemble, parity
from stronglens.export.cli import main
from stronglens.training.checkpoint import RunConfig
from stronglens.training.method import method_of
from stronglens.training.tasks import TASKS
from stronglens.training.weights import RANDOM

COMMAND = Path(sys.executable).with_name("lens-export")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with both tasks' data and runs, the lens finder's the newer."""
    root = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(5)
    for name in TASKS:
        write_data(root / name, TASKS[name], rng)
        write_run(root / "runs" / name, root / name, name)
    return root


@pytest.fixture
def at(made, tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*arguments):
    return CliRunner().invoke(main, [str(each) for each in arguments])


def stops(result, *words):
    """Exit 1 with one message and no bundle."""
    assert result.exit_code == 1, result.output
    assert result.stderr.count("Error: ") == 1
    for word in words:
        assert word in result.stderr
    assert not list(Path.cwd().rglob("*.onnx"))


@pytest.fixture(scope="module")
def exported(made, tmp_path_factory):
    """The installed command with its defaults and --fp16, run in the folder of the runs.

    Its terminal has no Δ: that must not cost the user the summary.
    """
    env = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(
        [COMMAND, "--fp16"], cwd=made, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done, made / "bundles" / "lensfinding"


def test_newest_run_becomes_the_bundle_of_its_task(exported):
    bundle = load_bundle(exported[1])
    manifest = bundle.manifest
    assert (manifest.task, manifest.classes) == ("lensfinding", ["lens", "nonlens"])
    assert manifest.outputs == ["prob", "encoding"]
    assert manifest.metrics == {"accuracy": 0.5}
    assert manifest.data["simulated"] is True
    assert manifest.recipe["net"] == "resnet18"
    assert manifest.versions["torch (training)"] == "0.1"
    assert {"onnx", "onnxruntime", "openvino", "torch"} <= manifest.versions.keys()


def test_parity_is_recorded(exported):
    found = load_bundle(exported[1]).manifest.parity
    assert 0 < found["float32"]["max_abs_dp"] <= 1e-4
    assert "ONNX Runtime" in found["float32"]["runtime"]
    assert "OpenVINO" in found["float32"]["runtime"]
    assert found["float32"]["max_abs_dp"] < found["float16"]["max_abs_dp"] <= 5e-3
    assert 0 < found["float16"]["max_abs_activation"] < 65504
    assert 0 < found["float16"]["rounded_max_abs_dp"] <= 5e-2
    for each in found.values():
        assert each["count"] == 4 * PER_CLASS
        assert sum(each["from"].values()) == each["count"]


def test_summary_says_what_was_made_and_what_is_next(exported):
    lines = exported[0].stdout.splitlines()
    assert "max |\\u0394p|" in lines[2]
    assert any(line.split()[:2] == ["float32", "model.onnx"] for line in lines)
    assert any(line.split()[:2] == ["float16", "model.fp16.onnx"] for line in lines)
    assert "p_lens is the probability of a lens" in lines
    assert lines[-2] == "written: bundles/lensfinding/"
    assert lines[-1].startswith("next:    lens-infer ")
    assert "--model bundles/lensfinding" in lines[-1]


def test_nothing_of_the_tools_beneath_reaches_the_user(exported):
    lines = exported[0].stderr.splitlines()
    assert all(line.startswith(("exporting ", "comparing ")) for line in lines), lines


def test_engine_accepts_its_golden_batch(exported):
    bundle = load_bundle(exported[1])
    golden = bundle.golden()
    assert golden.raw_NHW.dtype == np.float64
    assert np.isnan(golden.raw_NHW).any()
    for precision in {"float32", "bfloat16"} & bundle.manifest.parity.keys():
        backend = open_backend(bundle, device="cpu", precision=precision)
        replay(bundle, backend)
        backend.close()


def test_folded_lens_finder_equals_sklearn(made, exported):
    weights = load_file(made / "runs" / "lensfinding" / "model.safetensors")
    regression = LogisticRegression()
    regression.classes_ = np.array([0, 1])
    regression.coef_ = weights["head.weight"].numpy().astype(float)
    regression.intercept_ = weights["head.bias"].numpy().astype(float)
    session = onnxruntime.InferenceSession(
        exported[1] / "model.onnx", providers=["CPUExecutionProvider"]
    )
    x_NHW = load_bundle(exported[1]).golden().x_NHW
    prob_NK, encoding_ND = session.run(["prob", "encoding"], {"x": x_NHW})
    assert encoding_ND.shape == (len(x_NHW), 128)
    expected_NK = regression.predict_proba(encoding_ND.astype(float))
    assert np.abs(prob_NK - expected_NK).max() <= 1e-5


def test_classifier_from_a_named_run_to_a_named_bundle_that_is_replaced(made, at):
    run = made / "runs" / "substructure"
    assert invoke(run, "--out", "mine", "--fp16").exit_code == 0
    assert load_bundle(at / "mine").manifest.parity.keys() >= {"float32", "float16"}
    result = invoke(run, "--out", "mine", "--parity-count", 9)
    assert result.exit_code == 0, result.output
    manifest = load_bundle(at / "mine").manifest
    assert manifest.classes == ["no", "sphere", "vort"]
    assert manifest.outputs == ["prob"]
    assert manifest.files.keys() == {"model.onnx", "golden.npz"}
    assert not (at / "mine" / "model.fp16.onnx").exists()
    assert manifest.parity["float32"]["count"] == 9
    assert manifest.parity["float32"]["from"] == {"val": 9, "train": 0}
    assert "p_lens" not in result.stdout


@pytest.mark.parametrize(("precision", "options"), [("float32", ()), ("float16", ("--fp16",))])
def test_a_miss_fails_the_export(made, at, monkeypatch, precision, options):
    monkeypatch.setitem(parity.GATES, precision, parity.Gate(1e-12, 1))
    result = invoke(made / "runs" / "substructure", *options)
    stops(result, precision, "max |Δp|", "allowed are max |Δp| 1e-12")
    assert not (at / "bundles").exists()


def test_a_failed_export_leaves_the_older_bundle(made, at, exported, monkeypatch):
    shutil.copytree(exported[1], at / "mine")
    before = load_bundle(at / "mine").manifest
    monkeypatch.setitem(parity.GATES, "float32", parity.Gate(1e-12, 1))
    result = invoke(made / "runs" / "substructure", "--out", "mine")
    assert result.exit_code == 1
    assert load_bundle(at / "mine").manifest == before
    assert [path.name for path in at.iterdir()] == ["mine"]


def test_a_miss_in_bfloat16_is_only_remarked_on(made, at, monkeypatch):
    monkeypatch.setattr(assemble, "computes_bfloat16", lambda: True)
    monkeypatch.setitem(parity.GATES, "bfloat16", parity.Gate(-1, 0))
    result = invoke(made / "runs" / "substructure")
    assert result.exit_code == 0
    assert "bfloat16 is left out" in result.stdout
    assert load_bundle(at / "bundles" / "substructure").manifest.parity.keys() == {"float32"}


def test_cpu_without_bfloat16_is_said(made, at, monkeypatch):
    monkeypatch.setattr(assemble, "computes_bfloat16", lambda: False)
    result = invoke(made / "runs" / "substructure")
    assert "this CPU does not compute in it" in result.stdout
    assert load_bundle(at / "bundles" / "substructure").manifest.parity.keys() == {"float32"}


def changed_run(made, at, name, change):
    """Copy a run with its weights changed, and its predictions made anew."""
    source, run = made / "runs" / name, at / "runs" / "changed"
    run.mkdir(parents=True)
    weights = load_file(source / "model.safetensors")
    change(weights)
    save_file(weights, run / "model.safetensors")
    config = RunConfig.from_json((source / "config.json").read_text())
    (run / "config.json").write_text(config.to_json())
    (run / "metrics.json").write_text("{}")
    net = method_of(config.recipe).build(config.recipe, 3, config.preprocess, RANDOM)
    net.load_state_dict(weights)
    write_predictions(run, config, net.eval())
    return run


def test_activations_beyond_half_refuse_fp16_only(made, at):
    def swell(weights):
        """Make the last maps 1e6 times larger, and the head as much smaller."""
        for name in ("bn2.weight", "bn2.bias", "shortcut.weight"):
            weights[f"body.5.{name}"] *= 1e6
        weights["head.1.weight"] /= 1e6

    run = changed_run(made, at, "substructure", swell)
    stops(invoke(run, "--fp16"), "float16 could overflow", "without --fp16")
    assert invoke(run).exit_code == 0


def test_data_that_moved_can_be_named(made, at):
    source = made / "runs" / "substructure"
    config = RunConfig.from_json((source / "config.json").read_text())
    run = changed_run(made, at, "substructure", lambda weights: None)
    moved = replace(config, data=config.data | {"path": str(at / "gone")})
    (run / "config.json").write_text(moved.to_json())
    stops(invoke(run), "gone", "--data DIR")
    assert invoke(run, "--data", made / "substructure").exit_code == 0


def test_predictions_that_the_net_no_longer_makes_stop_the_export(made, at):
    run = changed_run(made, at, "substructure", lambda weights: None)
    weights = load_file(run / "model.safetensors")
    weights["head.1.bias"] = weights["head.1.bias"] + torch.tensor([0.0, 3.0, 0.0])
    save_file(weights, run / "model.safetensors")
    stops(invoke(run), "val_predictions.csv", "--data DIR")


def test_data_of_other_classes_are_refused(made, at, rng):
    for cls in ("axion", "cdm"):
        for i in range(20):
            (at / "other" / cls).mkdir(parents=True, exist_ok=True)
            np.save(at / "other" / cls / f"{i}.npy", rng.random((40, 40)))
    result = invoke(made / "runs" / "substructure", "--data", "other")
    stops(result, "axion, cdm", "no, sphere, vort")


def test_folder_that_is_no_bundle_is_left_alone(made, at):
    (at / "mine").mkdir()
    (at / "mine" / "thesis.tex").write_text("x")
    stops(invoke(made / "runs" / "substructure", "--out", "mine"), "not a model bundle")
    (at / "file").write_text("x")
    stops(invoke(made / "runs" / "substructure", "--out", "file"), "not a model bundle")
    assert (at / "mine" / "thesis.tex").read_text() == (at / "file").read_text() == "x"


def test_without_a_run_it_says_how_to_make_one(at):
    stops(invoke(), "lens-train")
    stops(invoke("nowhere"), "nowhere", "lens-train")


@pytest.mark.parametrize("count", ["0", "-3", "many", "1.5"])
def test_wrong_count_is_wrong_usage(at, count):
    result = invoke("--parity-count", count)
    assert result.exit_code == 2
    assert "--parity-count" in result.stderr


def test_help_loads_nothing_heavy():
    probe = (
        "import sys; import stronglens.export.cli; "
        "heavy = {'torch', 'numpy', 'onnx', 'onnxruntime', 'openvino', 'sklearn', 'numba'}; "
        "sys.exit(str(heavy & set(sys.modules) or ''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=False
    )
    assert done.stderr.strip() == ""
    helped = subprocess.run([COMMAND, "--help"], capture_output=True, text=True, check=True)
    for option in ("--out", "--fp16", "--int8", "--data", "--parity-count"):
        assert option in helped.stdout
