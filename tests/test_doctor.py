"""lens-infer --doctor: what it says on a CPU, with a GPU, and of what is broken."""

import sys
from pathlib import Path

import pytest
import tiny_model
from click.testing import CliRunner
from fake_machine import Machine

from stronglens.engine.backends.tensorrt_open import open_tensorrt
from stronglens.engine.bundle import load_bundle
from stronglens.engine.cli import main
from stronglens.engine.machine import count_gpus

pytestmark = pytest.mark.usefixtures("cache", "folder")

TITLES = ["machine", "python", "packages", "cpu", "gpu", "onnxruntime", "tensorrt", "plans"]
DEVICES = ["--device auto", "--device cpu", "--device cuda", "--device tensorrt"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_model.make_bundle(tmp_path_factory.mktemp("bundles") / "tiny").path


def diagnosed(*arguments):
    """Return the answers by their titles."""
    done = CliRunner().invoke(main, ["--doctor", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    lines = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    return {line[:18].strip(): line[18:] for line in lines}


def test_it_answers_all_questions_and_writes_nothing(bundle):
    found = diagnosed("--model", bundle)
    assert list(found) == [*TITLES, "bundle", *DEVICES]
    assert not [title for title in (*TITLES, *DEVICES[:2]) if "fails" in found[title]]
    assert "openvino 20" in found["packages"]
    assert "float32" in found["cpu"]
    assert "CPUExecutionProvider" in found["onnxruntime"]
    assert found["plans"].endswith("stronglens: 0 files")
    assert found["bundle"].endswith(": float32")
    assert "float32" in found["--device cpu"]
    assert list(Path().iterdir()) == []


@pytest.mark.skipif(count_gpus() > 0, reason="there is a GPU")
def test_without_a_gpu_it_says_what_is_missing(bundle):
    found = diagnosed("--model", bundle)
    assert found["gpu"].startswith("none, and no driver")
    assert found["--device auto"].endswith("no GPU was found)")
    assert found["--device cuda"].startswith("no: ")


def test_without_a_bundle_it_says_so_and_stops():
    found = diagnosed()
    assert list(found) == [*TITLES, "bundle"]
    assert found["bundle"].startswith("no model: there is no bundle under bundles/")


def test_with_a_plan_and_without_one(bundle, monkeypatch):
    machine = Machine(monkeypatch)
    found = diagnosed("--model", bundle)
    assert found["tensorrt"] == "11.4.0.106"
    why = "float32 (the bundle has no float16 that passed); "
    assert found["--device tensorrt"] == why + "the first run builds the plan, for minutes"
    assert machine.builds == 0
    open_tensorrt(load_bundle(bundle), say=machine.said.append).close()
    found = diagnosed("--model", bundle)
    assert found["plans"].endswith(": 2 files")
    assert found["--device tensorrt"] == why + "its plan is kept"


def test_what_is_broken_leaves_the_other_answers(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = diagnosed("--model", bundle)
    assert found["onnxruntime"].startswith("fails: ModuleNotFoundError(")
    assert list(found) == [*TITLES, "bundle", *DEVICES]
    assert "float32" in found["--device cpu"]
