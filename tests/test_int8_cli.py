"""lens-export --int8, and lens-infer on what it wrote."""

import sys

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_run import PER_CLASS, write_data, write_run

from stronglens.engine.backends import open_backend
from stronglens.engine.bundle import load_bundle
from stronglens.engine.cli import main as infer
from stronglens.engine.golden import replay
from stronglens.export import parity
from stronglens.export.cli import main
from stronglens.training.tasks import TASKS


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a run of the small net and its data."""
    root = tmp_path_factory.mktemp("made")
    write_data(root / "substructure", TASKS["substructure"], np.random.default_rng(5))
    write_run(root / "runs" / "substructure", root / "substructure", "substructure")
    return root


def invoke(*arguments):
    return CliRunner().invoke(main, [str(each) for each in arguments])


@pytest.fixture(scope="module")
def with_int8(made, tmp_path_factory):
    """A bundle with every graph. Of 36 cutouts and a net that learnt nothing, a few near ties
    decide the ROC AUC: its gate is opened, that of Δp stays."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(parity.GATES, "int8", parity.Gate(parity.GATES["int8"].max_abs_dp, 1))
        out = tmp_path_factory.mktemp("int8") / "bundle"
        result = invoke(made / "runs" / "substructure", "--out", out, "--fp16", "--int8")
    assert result.exit_code == 0, result.output
    return result, load_bundle(out)


def test_int8_is_recorded_and_reported(with_int8):
    result, bundle = with_int8
    assert bundle.manifest.files.keys() >= {"model.onnx", "model.fp16.onnx", "model.int8.onnx"}
    found = bundle.manifest.parity["int8"]
    assert 1e-4 < found["max_abs_dp"] <= 0.25
    assert found.keys() >= {"delta_roc_auc", "label_flips", "count"}
    assert (found["calibration"], found["calibrated_on"]) == ("min-max", 3 * PER_CLASS)
    assert (found["float_layers"], found["float_sums"]) == (["0"], False)
    assert "OpenVINO" in found["runtime"]
    assert "ONNX Runtime" in found["runtime"]
    lines = result.stdout.splitlines()
    assert any(line.split()[:2] == ["int8", "model.int8.onnx"] for line in lines)
    assert any("by min-max over 18 training cutouts" in line for line in lines)
    assert "comparing int8: min-max, 1 of 10 convolutions in float32" in result.stderr
    size = {name: (bundle.path / name).stat().st_size for name in bundle.manifest.files}
    assert size["model.int8.onnx"] < size["model.fp16.onnx"]


@pytest.mark.parametrize("openvino", [True, False])
def test_lens_infer_scores_in_int8(with_int8, made, tmp_path, monkeypatch, openvino):
    """Replays the golden batch, then scores; with either runtime, which hardly differ."""
    if not openvino:
        monkeypatch.setitem(sys.modules, "openvino", None)
    bundle = with_int8[1]
    backend = open_backend(bundle, device="cpu", precision="int8")
    assert backend.label.startswith("OpenVINO" if openvino else "ONNX Runtime")
    assert "int8" in backend.label
    replay(bundle, backend)
    golden = bundle.golden()
    off = np.abs(backend.run(golden.x_NHW) - golden.prob_NK).max()
    assert 1e-5 < off <= bundle.manifest.parity["int8"]["max_abs_dp"] * 1.01
    out = tmp_path / "preds.csv"
    result = CliRunner().invoke(
        infer,
        [
            *(str(made / "substructure" / "val"), "--model", str(bundle.path)),
            *("--out", str(out), "--precision", "int8", "--device", "cpu"),
        ],
    )
    assert result.exit_code == 0, result.output
    assert len(out.read_text().splitlines()) == 1 + 3 * PER_CLASS


def test_a_miss_is_refused_and_leaves_nothing(made, tmp_path, monkeypatch):
    """No gate can be met: every attempt is said with its figures, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(parity.GATES, "int8", parity.Gate(1e-12, 1))
    result = invoke(made / "runs" / "substructure", "--int8")
    assert result.exit_code == 1
    assert result.stderr.count("Error: int8 differs too much") == 1
    for words in ("min-max, 1 of 10", "percentile 99.95, later 99.99, 5 of 10", "without --int8"):
        assert words in result.stderr
    assert not list(tmp_path.iterdir())
