"""lens-export --tensorrt: plans for this machine, or what is missing for them."""

import numpy as np
import pytest
import tiny_model
from click.testing import CliRunner
from fake_machine import PARITY, Machine
from tiny_run import write_data, write_run

from stronglens.engine.bundle import load_bundle
from stronglens.engine.errors import BackendError
from stronglens.engine.machine import count_gpus
from stronglens.export.cli import main
from stronglens.export.to_tensorrt import build_plans, precisions
from stronglens.training.tasks import TASKS

pytestmark = pytest.mark.usefixtures("cache", "folder")


@pytest.fixture
def run(folder):
    write_data(folder / "data", TASKS["substructure"], np.random.default_rng(5))
    write_run(folder / "run", folder / "data", "substructure")
    return folder / "run"


def test_a_bundle_and_its_plan_in_one_command(run, folder, monkeypatch):
    machine = Machine(monkeypatch)
    arguments = [str(run), "--fp16", "--tensorrt", "--out", "bundle"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "building the TensorRT plan for float16 on Fake 1: takes minutes" in done.stderr
    assert "TensorRT 11.4.0.106 on Fake 1, float16, batches of 512" in done.stdout
    assert "its plan is kept on this machine, for lens-infer --device tensorrt" in done.stdout
    machine.open(load_bundle(folder / "bundle")).close()
    assert machine.builds == 0
    assert not list((folder / "bundle").glob("*plan*"))


@pytest.mark.skipif(count_gpus() > 0, reason="there is a GPU")
def test_without_tensorrt_it_stops_before_the_work(run, folder):
    done = CliRunner().invoke(main, [str(run), "--tensorrt", "--out", "bundle"])
    assert done.exit_code == 1
    assert "--tensorrt builds for the GPU of this machine, and cannot: " in done.stderr
    assert "lens-infer --device tensorrt builds the plan" in done.stderr
    assert "exporting" not in done.stderr
    assert not (folder / "bundle").exists()


def test_which_plans_are_built(folder):
    files = {name: tiny_model.graph() for name in ("model.fp16.onnx", "model.int8.onnx")}
    for given, expected in (
        ([], ["float32"]),
        (["model.fp16.onnx"], ["float16"]),
        (["model.int8.onnx"], ["int8"]),
        (list(files), ["float16", "int8"]),
    ):
        bundle = tiny_model.make_bundle(
            folder / "made", files={name: files[name] for name in given}
        )
        assert precisions(bundle) == expected


def test_a_plan_that_cannot_be_built_leaves_the_bundle(folder, monkeypatch):
    machine = Machine(monkeypatch)
    bundle = tiny_model.make_bundle(folder / "made", parity=PARITY)
    machine.trt.fail = {"Builder.build_serialized_network": (None, "no kernel for conv1")}
    with pytest.raises(BackendError, match=r"made is written, but has no TensorRT plan: .*conv1"):
        list(build_plans(bundle, machine.said.append))
    assert load_bundle(folder / "made")
