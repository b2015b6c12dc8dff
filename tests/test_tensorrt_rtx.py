"""What lens-export writes, through NVIDIA's real parser and builder: see rtx.py."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import rtx
from onnx import TensorProto, helper
from tiny_run import export_anyhow, write_data, write_run

from stronglens.export.assemble import Order
from stronglens.training.tasks import TASKS

if absent := rtx.missing():
    pytest.skip(
        f"no graph was tried, {absent} not installed: pip install 'stronglens[tensorrt-rtx]'",
        allow_module_level=True,
    )


def compiled(files):
    """Return what TensorRT-RTX makes of each file."""
    script = Path(rtx.__file__)
    done = subprocess.run([sys.executable, script, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(
    scope="module",
    params=[
        ("substructure", "quick"),
        ("lensfinding", "quick"),
        pytest.param(("substructure", "reference"), marks=pytest.mark.slow),
    ],
    ids=["small_cnn", "resnet18", "resnext50"],
)
def bundle(request, tmp_path_factory):
    """What lens-export writes of a net, its weights random."""
    task, recipe = request.param
    root = tmp_path_factory.mktemp(task)
    write_data(root / "data", TASKS[task], np.random.default_rng(5))
    write_run(root / "run", root / "data", task, recipe=recipe)
    export_anyhow(Order(run=root / "run", out=root / "bundle", half=True, int8=True))
    return root / "bundle"


def test_every_graph_of_a_bundle_compiles(bundle):
    files = sorted(bundle.glob("*.onnx"))
    assert len(files) == 3
    for file, found in zip(files, compiled(files), strict=True):
        assert found.get("bytes", 0) > 10_000, (file.name, found)


def without_the_casts(model):
    """Half weights meet float32 pixels."""
    for cast in [node for node in model.graph.node if node.op_type == "Cast"]:
        for node in model.graph.node:
            node.input[:] = [cast.input[0] if i == cast.output[0] else i for i in node.input]
        model.graph.node.remove(cast)


def with_a_resize_of_no_size(model):
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    model.graph.node.insert(0, helper.make_node("Resize", [conv.input[0]], ["grown"]))
    conv.input[0] = "grown"


def with_an_unknown_operator(model):
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Reluu"


def with_weights_elsewhere(model):
    weight = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="/etc/passwd")


def with_a_weight_too_few(model):
    del model.graph.initializer[0]


def with_channels(model):
    model.graph.input[0].type.tensor_type.shape.dim.add().dim_value = 1


def with_any_side(model):
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "height"


def with_a_second_input(model):
    model.graph.input.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3]))
    prob = next(node for node in model.graph.node if "prob" in node.output)
    model.graph.node.append(helper.make_node("Add", [prob.output[0], "y"], ["both"]))
    model.graph.output[0].name = "both"


def with_another_name(model):
    for node in model.graph.node:
        node.output[:] = ["scores" if name == "prob" else name for name in node.output]
    model.graph.output[0].name = "scores"


def with_the_batch_fixed(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 7


BREAKS = [
    without_the_casts, with_a_resize_of_no_size, with_an_unknown_operator, with_weights_elsewhere,
    with_a_weight_too_few, with_channels, with_any_side, with_a_second_input, with_another_name,
    with_the_batch_fixed,
]  # fmt: skip


def test_broken_graphs_are_refused(bundle, tmp_path):
    content = (bundle / "model.fp16.onnx").read_bytes()
    broken = {"empty": b"", "not a graph": b"not a graph", "cut": content[: len(content) // 2]}
    for change in BREAKS:
        model = onnx.load_from_string(content)
        change(model)
        broken[change.__name__] = model.SerializeToString()
    for name, each in broken.items():
        (tmp_path / name).write_bytes(each)
    answers = zip(broken, compiled([tmp_path / name for name in broken]), strict=True)
    for name, found in answers:
        assert "error" in found, name
        assert "no reason" not in found["error"], (name, found)
