"""The int8 graph: what is quantised, and that it computes what its slow twin does."""

import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from tiny_convolutions import SIDE, Convolutions, inner, served
from torch import nn

from stronglens.engine.backends.openvino import OpenVinoBackend
from stronglens.engine.backends.ort import OrtBackend
from stronglens.export.graph import run_graph, serving
from stronglens.export.quantise import CALIBRATIONS, REMEDIES, attempts, quantise
from stronglens.export.ranges import measure
from stronglens.export.to_onnx import to_onnx
from stronglens.training.models import small_cnn

INT8 = onnx.TensorProto.INT8


@pytest.fixture(scope="module")
def small():
    """The float32 file of a net with a front, residual blocks and a head, and cutouts."""
    torch.manual_seed(1)
    net = small_cnn(3, size=60, resize=72)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
    served = serving(net.eval())
    x_NHW = np.random.default_rng(4).random((12, 60, 60), np.float32)
    return to_onnx(served.graph, 60, outputs=served.outputs), x_NHW


@pytest.fixture(scope="module")
def ranges(small):
    content, x_NHW = small
    return measure(content, inner(content), x_NHW)


def quantised(small, ranges, number):
    """The model of one attempt, by its number."""
    way = attempts(small[0])[number]
    return way, onnx.load_from_string(quantise(small[0], ranges, way))


def score(backend, content, x_NHW, folder, **options):
    path = folder / "model.onnx"
    path.write_bytes(content)
    opened = backend(path, **options)
    prob_NK = opened.run(x_NHW)
    opened.close()
    return prob_NK


@pytest.mark.parametrize("number", range(0, len(REMEDIES) * len(CALIBRATIONS), len(CALIBRATIONS)))
def test_only_the_chosen_layers_read_int8(small, ranges, number):
    way, model = quantised(small, ranges, number)
    graph = model.graph
    dequantised = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    readers = [node for node in graph.node if dequantised & set(node.input)]
    convs = [node for node in readers if node.op_type == "Conv"]
    weights = {f"body.{name}.weight_dequantised" for name in way.layers[way.kept :]}
    assert {conv.input[1] for conv in convs} == weights
    assert all(conv.input[0] in dequantised for conv in convs)
    sums = [node for node in readers if node.op_type == "Add"]
    assert bool(sums) == way.shortcuts
    made = {conv.output[0] for conv in convs}
    assert all(node.input[0] in made and node.input[1] in dequantised for node in sums)
    assert len(convs) + len(sums) == len(readers)
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            assert node.input[0] not in {"x", "prob"}


def test_pixels_and_head_are_never_int8(small):
    for way in attempts(small[0]):
        assert 1 <= way.kept < len(way.layers)
        assert len(way.layers) == 10  # not the two that blur, in front
        assert not any("head" in name for name in way.layers)


def test_scales_are_symmetric_and_weights_are_stored_as_int8(small, ranges):
    way, model = quantised(small, ranges, 0)
    stored = {each.name: each for each in model.graph.initializer}
    before = {each.name: each for each in onnx.load_from_string(small[0]).graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale, zero = stored[node.input[1]], stored[node.input[2]]
            assert zero.data_type == INT8
            assert (numpy_helper.to_array(zero) == 0).all()
            assert (numpy_helper.to_array(scale) > 0).all()
            assert zero.dims == scale.dims
    for name in (f"body.{layer}.weight" for layer in way.layers[way.kept :]):
        w_OIHW = numpy_helper.to_array(before[name])
        steps_OIHW = numpy_helper.to_array(stored[f"{name}_int8"])
        scale_O = numpy_helper.to_array(stored[f"{name}_scale"])
        assert steps_OIHW.dtype == np.int8
        assert (np.abs(steps_OIHW).max(axis=(1, 2, 3)) == 127).all()
        off_OIHW = steps_OIHW * scale_O[:, None, None, None] - w_OIHW
        assert (np.abs(off_OIHW).max(axis=(1, 2, 3)) <= scale_O * 0.5001).all()
        assert name not in stored


def test_file_is_one_and_says_nothing_of_its_maker(small, ranges, tmp_path):
    _, model = quantised(small, ranges, 0)
    onnx.checker.check_model(model, full_check=True)
    assert not any(
        each.HasField("data_location") and each.data_location for each in model.graph.initializer
    )
    for each in (model, model.graph, *model.graph.node, *model.graph.value_info):
        assert not each.doc_string
        assert not each.metadata_props
    assert model.ByteSize() < 0.5 * len(small[0])
    before = onnx.load_from_string(small[0])
    assert [each.name for each in model.graph.output] == [e.name for e in before.graph.output]
    assert model.opset_import == before.opset_import


BYTES = """
import hashlib, sys
import numpy as np
from stronglens.export.quantise import attempts, quantise, _all_tensors
from stronglens.export.ranges import measure
content = open(sys.argv[1], "rb").read()
x_NHW = np.random.default_rng(4).random((12, 60, 60), np.float32)
ranges = measure(content, _all_tensors(content), x_NHW)
print(hashlib.sha256(quantise(content, ranges, attempts(content)[0])).hexdigest())
"""


def test_bytes_do_not_depend_on_the_process(small, tmp_path):
    (tmp_path / "model.onnx").write_bytes(small[0])
    found = {
        subprocess.run(
            [sys.executable, "-c", BYTES, tmp_path / "model.onnx"],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_runtimes_agree(small, ranges, tmp_path):
    content, x_NHW = small
    graph = quantise(content, ranges, attempts(content)[0])
    exact_NK = score(OrtBackend, content, x_NHW, tmp_path)
    ort_NK = score(OrtBackend, graph, x_NHW, tmp_path, precision="int8")
    openvino_NK = score(OpenVinoBackend, graph, x_NHW, tmp_path, precision="int8")
    apart = np.abs(ort_NK - openvino_NK).max()
    rounded = np.abs(ort_NK - exact_NK).max()
    assert 1e-4 < rounded < 0.05
    assert apart < 0.5 * rounded + 1e-4


def fake(value, scale):
    """Round to int8 steps and back, as QuantizeLinear and DequantizeLinear do."""
    return torch.clamp(torch.round(value / scale), -128, 127) * scale


@torch.no_grad()
def twin(graph, x_NHW, *, kept, peaks):
    """What the quantised row of convolutions gives, layer by layer in float."""
    maps = torch.from_numpy(x_NHW)[:, None]
    convs = [layer for layer in graph.body if isinstance(layer, nn.Conv2d)]
    for i, conv in enumerate(convs):
        weight = conv.weight
        if i >= kept:
            maps = fake(maps, np.float32(peaks[i] / 127))
            weight = fake(weight, weight.abs().amax(dim=(1, 2, 3), keepdim=True) / 127)
        maps = torch.relu(torch.conv2d(maps, weight, conv.bias))
    return graph.tail(maps).numpy()


@pytest.fixture(scope="module")
def row():
    """The net by hand, its file, and what its convolutions read on some cutouts."""
    graph = served(Convolutions())
    content = to_onnx(graph, SIDE, outputs=["prob"])
    x_NHW = np.random.default_rng(8).random((20, SIDE, SIDE), np.float32)
    peaks, maps = [], torch.from_numpy(x_NHW)[:, None]
    with torch.no_grad():
        for layer in graph.body:
            if isinstance(layer, nn.Conv2d):
                peaks.append(float(maps.abs().max()))
            maps = layer(maps)
    return graph, content, x_NHW, peaks


@pytest.mark.parametrize("backend", [OrtBackend, OpenVinoBackend])
@pytest.mark.parametrize("number", [0, -1])
def test_equals_its_slow_twin(row, tmp_path, backend, number):
    graph, content, x_NHW, peaks = row
    way = [each for each in attempts(content) if each.calibration == "min-max"][number]
    ranges = measure(content, inner(content), x_NHW)
    expected_NK = twin(graph, x_NHW, kept=way.kept, peaks=peaks)
    found_NK = score(backend, quantise(content, ranges, way), x_NHW, tmp_path, precision="int8")
    exact_NK, _ = run_graph(graph, x_NHW)
    assert np.abs(exact_NK - expected_NK).max() > 1e-4
    # a value that falls on the edge between two steps may go either way
    assert np.abs(found_NK - expected_NK).mean() < 0.2 * np.abs(exact_NK - expected_NK).mean()


def test_a_dead_channel_and_a_dead_tensor_are_allowed(row, tmp_path):
    graph, _, x_NHW, _ = row
    body = Convolutions()
    body.load_state_dict(graph.body.state_dict())
    with torch.no_grad():
        body[2].weight[3] = 0
        body[4].weight.zero_()
        body[4].bias.fill_(-1)  # its ReLU gives 0 everywhere
    dead = served(body)
    content = to_onnx(dead, SIDE, outputs=["prob"])
    ranges = measure(content, inner(content), x_NHW)
    found_NK = score(OrtBackend, quantise(content, ranges, attempts(content)[0]), x_NHW, tmp_path)
    np.testing.assert_allclose(found_NK, run_graph(dead, x_NHW)[0], atol=1e-5)
