"""Channels on one range and the sky on a step: the net stays what it was, int8 comes closer."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_convolutions import SIDE, Convolutions, served
from torch import nn

from stronglens.engine.backends.ort import OrtBackend
from stronglens.export.equalise import (
    NUDGES,
    Channels,
    equalising,
    groups,
    nudging,
    observe,
    rescaled,
)
from stronglens.export.graph import run_graph, serving
from stronglens.export.quantise import attempts, level, quantise
from stronglens.export.ranges import measure
from stronglens.export.to_onnx import to_onnx
from stronglens.training.models import small_cnn


def convolutions(content):
    return [node for node in onnx.load_from_string(content).graph.node if node.op_type == "Conv"]


def score(content, x_NHW, folder):
    (folder / "model.onnx").write_bytes(content)
    backend = OrtBackend(folder / "model.onnx")
    prob_NK = backend.run(x_NHW)
    backend.close()
    return prob_NK


class Grouped(nn.Sequential):
    """A grouped convolution between two others."""

    def __init__(self):
        torch.manual_seed(3)
        convs = [nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, groups=4), nn.Conv2d(8, 8, 3)]
        super().__init__(*[layer for conv in convs for layer in (conv, nn.ReLU())])


@pytest.fixture(scope="module", params=["row", "grouped", "residual"])
def net(request):
    """A graph, its file and cutouts of its size."""
    if request.param == "residual":
        torch.manual_seed(1)
        made = serving(small_cnn(3, size=SIDE, resize=32).eval())
        graph = made.graph
    else:
        graph = served(Convolutions() if request.param == "row" else Grouped())
    x_NHW = np.random.default_rng(4).random((6, SIDE, SIDE), np.float32)
    return graph, to_onnx(graph, SIDE, outputs=["prob"]), x_NHW


def test_any_factors_leave_the_net_what_it_was(net, tmp_path):
    graph, content, x_NHW = net
    found = groups(content)
    assert found
    rng = np.random.default_rng(9)
    sizes = {node.output[0]: node.input[1] for node in convolutions(content)}
    stored = {
        each.name: list(each.dims) for each in onnx.load_from_string(content).graph.initializer
    }
    factors = {
        name: np.exp(rng.normal(size=stored[sizes[group.writers[0].output[0]]][0]))
        for name, group in found.items()
    }
    other = rescaled(content, factors)
    assert other != content
    expected_NK, _ = run_graph(graph, x_NHW)
    np.testing.assert_allclose(score(other, x_NHW, tmp_path), expected_NK, atol=1e-5)


def test_channels_of_a_map_get_one_peak(net):
    _, content, x_NHW = net
    maps = sorted({node.input[0] for node in convolutions(content)} - {"unsqueeze"})
    channels = observe(content, maps, x_NHW)
    factors = equalising(content, channels)
    after = observe(rescaled(content, factors), maps, x_NHW)
    alone = [
        readers.readers[0].input[0]
        for name, readers in groups(content).items()
        if name in factors and len({conv.input[0] for conv in readers.readers}) == 1
    ]
    assert alone
    for name in alone:
        bright_C = channels[name].peak_C > 0.11 * channels[name].peak_C.max()
        peak_C = after[name].peak_C[bright_C]
        np.testing.assert_allclose(peak_C, channels[name].peak_C.max(), rtol=1e-4)


@given(st.lists(st.floats(3, 100), min_size=8, max_size=8))
def test_sky_falls_on_a_step(sky):
    content = ROW
    name = convolutions(content)[1].input[0]
    channels = {name: Channels(np.full(8, 127.0), np.array(sky))}
    factors = equalising(content, channels)
    assert len(factors) == 1
    nudged = nudging(content, channels, factors, {name: 1.0})
    (factor_C,) = nudged.values()
    steps_C = np.array(sky) * factor_C
    assert np.abs(steps_C - np.rint(steps_C)).max() < 0.15
    assert NUDGES[0] <= factor_C.min() <= factor_C.max() <= NUDGES[-1]
    kept = nudging(content, channels, factors, {})
    assert all((kept[each] == factors[each]).all() for each in factors)


ROW = to_onnx(served(Convolutions()), SIDE, outputs=["prob"])


def test_a_bright_channel_no_longer_costs_the_others_their_steps(tmp_path):
    """Planted: one channel of the second map is thirty times brighter; its readers undo it."""
    body = Convolutions()
    with torch.no_grad():
        body[2].weight[0] *= 30
        body[2].bias[0] *= 30
        body[4].weight[:, 0] /= 30
    graph = served(body)
    content = to_onnx(graph, SIDE, outputs=["prob"])
    x_NHW = np.random.default_rng(6).random((24, SIDE, SIDE), np.float32)
    way = attempts(content)[0]
    maps = [node.input[0] for node in convolutions(content)[1:]]
    plain = quantise(content, measure(content, maps, x_NHW), way)
    expected_NK, _ = run_graph(graph, x_NHW)
    before = np.abs(score(plain, x_NHW, tmp_path) - expected_NK).mean()
    after = np.abs(score(level(content, x_NHW).quantise(way), x_NHW, tmp_path) - expected_NK)
    assert after.mean() < 0.5 * before
