"""The int8 graph: what is quantised, how it computes, and the remedies until one passes."""

import os
import subprocess
import sys
from functools import partial

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import numpy_helper
from torch import nn

from stronglens.engine.backends.openvino import OpenVinoBackend
from stronglens.engine.backends.ort import OrtBackend
from stronglens.engine.errors import BackendError
from stronglens.export.graph import ClassifierTail, ServingGraph, run_graph, serving
from stronglens.export.parity import Reference, run_backends
from stronglens.export.quantise import CALIBRATIONS, REMEDIES, attempts, find_int8, quantise
from stronglens.export.ranges import Histogram, measure
from stronglens.export.to_onnx import to_onnx
from stronglens.training.models import small_cnn

SIDE = 24
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


def inner(content):
    """Every tensor that a node of the graph makes, the outputs aside."""
    graph = onnx.load_from_string(content).graph
    outputs = {each.name for each in graph.output}
    floats = {
        each.name
        for each in graph.value_info
        if each.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    made = {name for node in graph.node for name in node.output}
    return sorted((made & floats) - outputs)


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


# ── a net by hand, and its slow twin ─────────────────────────────────────────────────────────────


class Convolutions(nn.Sequential):
    """Four convolutions in a row, each with its ReLU."""

    def __init__(self, channels=8):
        torch.manual_seed(2)
        layers = []
        for i in range(4):
            layers += [nn.Conv2d(channels if i else 1, channels, 3), nn.ReLU()]
            nn.init.kaiming_normal_(layers[-2].weight)
        super().__init__(*layers)


def served(body):
    torch.manual_seed(5)
    head = nn.Linear(8, 2)
    with torch.no_grad():
        head.weight.normal_(std=1.0)
    return ServingGraph(nn.Identity(), body, ClassifierTail(head)).eval()


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


# ── histograms ───────────────────────────────────────────────────────────────────────────────────

values = arrays(
    np.float32,
    st.integers(1, 400),
    elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
)


@given(values, values, st.sampled_from([100.0, 99.0, 90.0, 50.0]))
def test_limit_holds_its_share_and_hardly_more(first, second, percent):
    histogram = Histogram()
    histogram.add(first)
    histogram.add(second.reshape(1, -1))
    magnitude = np.sort(np.abs(np.concatenate([first, second])))
    needed = magnitude[max(0, int(np.ceil(len(magnitude) * percent / 100 - 1e-9)) - 1)]
    limit = histogram.limit(percent)
    assert needed <= limit <= max(needed * (1 + 2**-7) + 1e-37, 0)
    assert histogram.limit(100) == magnitude[-1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(BackendError, match="not finite"):
        Histogram().add(np.array([1, bad, 2], np.float32))


def test_every_cutout_counts_once(row):
    _, content, x_NHW, _ = row
    names = [name for name in inner(content) if "relu" in name]
    found = measure(content, names, x_NHW[:5])  # more than one batch, the last not full
    assert len(names) == 4
    one_by_one = [measure(content, names, x_NHW[i : i + 1]) for i in range(5)]
    for name in names:
        total = sum(each[name].counts for each in one_by_one)
        np.testing.assert_array_equal(found[name].counts, total)
        assert found[name].peak == max(each[name].peak for each in one_by_one)


# ── remedies ─────────────────────────────────────────────────────────────────────────────────────


def ask(graph, x_NHW, calibration_NHW, folder):
    """Return what was said, and the search for a graph that passes on cutouts of two classes."""
    content = to_onnx(graph, SIDE, outputs=["prob"])
    prob_NK, _ = run_graph(graph, x_NHW)
    y_N = (np.arange(len(x_NHW)) >= len(x_NHW) // 2).astype(np.int64)
    reference = Reference(x_NHW, prob_NK, y_N)
    said = []

    def compare(content):
        path = folder / "model.int8.onnx"
        path.write_bytes(content)
        return run_backends(path, "int8", reference)

    return said, partial(find_int8, content, calibration_NHW, compare, said.append)


def cutouts(rng, count=64):
    """Half of them faint, half bright, with noise."""
    level_N = np.where(np.arange(count) < count // 2, 0.3, 0.8)[:, None, None]
    return (level_N * rng.random((count, SIDE, SIDE))).astype(np.float32)


def test_a_good_net_passes_at_once(rng, tmp_path):
    x_NHW = cutouts(rng)
    said, find = ask(served(Convolutions()), x_NHW, x_NHW[::2], tmp_path)
    _, found = find()
    assert found.passed
    assert (found.calibration, found.calibrated_on) == ("min-max", 32)
    assert (found.float_layers, found.float_sums) == (["0"], False)
    assert "OpenVINO" in found.runtime and "ONNX Runtime" in found.runtime
    assert said[0] == "calibrating int8 on 32 training cutouts"
    assert said[1:] == ["comparing int8: min-max, 1 of 4 convolutions in float32"]


def test_a_hot_pixel_among_the_training_cutouts_is_clipped(rng, tmp_path):
    x_NHW = cutouts(rng)
    hot_NHW = cutouts(rng)
    hot_NHW[0, 0, 0] = 3e3  # a corner: one pixel of the first map
    said, find = ask(served(Convolutions()), x_NHW, hot_NHW, tmp_path)
    _, found = find()
    assert found.passed
    assert found.calibration.startswith("percentile")
    assert found.float_layers == ["0"]
    assert "int8 missed: max |Δp|" in said[2]


def with_a_bright_channel(layers):
    """A net one of whose channels is 10,000 times brighter, and goes nowhere after `layers`."""
    body = Convolutions()
    convs = [layer for layer in body if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        for i, conv in enumerate(convs[:layers]):
            conv.weight[0] = 0
            conv.bias[0] = 0
            conv.weight[0, 0, 1, 1] = 1 if i else 1e4
            conv.weight[1:, 0] = conv.weight[1:, 0] if not i else 0
        if layers < len(convs):
            convs[layers].weight[:, 0] = 0
    return served(body)


def test_layers_that_cannot_be_int8_stay_float(rng, tmp_path):
    x_NHW = cutouts(rng)
    said, find = ask(with_a_bright_channel(1), x_NHW, x_NHW, tmp_path)
    _, found = find()
    assert found.passed
    assert found.float_layers == ["0", "2"]
    assert found.float_sums is True
    misses = [line for line in said if line.startswith("int8 missed")]
    assert len(misses) == (len(REMEDIES) - 1) * len(CALIBRATIONS)


def test_what_nothing_saves_is_refused_with_all_figures(rng, tmp_path):
    x_NHW = cutouts(rng)
    _, find = ask(with_a_bright_channel(3), x_NHW, x_NHW, tmp_path)
    with pytest.raises(BackendError, match=r"without --int8\. No bundle was written") as refused:
        find()
    lines = str(refused.value).splitlines()
    assert "64 cutouts" in lines[0]
    assert len(lines) == 2 + len(REMEDIES) * len(CALIBRATIONS)
    assert all("max |Δp|" in line and "labels flip" in line for line in lines[1:-1])
    assert "allowed are max |Δp| 0.25, |ΔROC AUC| 0.001" in lines[-1]


def test_a_net_without_enough_convolutions_is_refused():
    graph = served(nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU()))
    with pytest.raises(BackendError, match="nothing to quantise"):
        attempts(to_onnx(graph, SIDE, outputs=["prob"]))
