"""Where int8's scales come from, and the remedies that are tried until a graph passes."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiny_convolutions import SIDE, Convolutions, inner, served
from torch import nn

from stronglens.engine.errors import BackendError
from stronglens.export.graph import run_graph
from stronglens.export.parity import Reference, run_backends
from stronglens.export.quantise import CALIBRATIONS, REMEDIES, attempts, find_int8
from stronglens.export.ranges import Histogram, measure
from stronglens.export.to_onnx import to_onnx

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


def test_every_cutout_counts_once(rng):
    content = to_onnx(served(Convolutions()), SIDE, outputs=["prob"])
    x_NHW = rng.random((5, SIDE, SIDE), np.float32)
    names = [name for name in inner(content) if "relu" in name]
    found = measure(content, names, x_NHW)  # more than one batch, the last not full
    assert len(names) == 4
    one_by_one = [measure(content, names, x_NHW[i : i + 1]) for i in range(5)]
    for name in names:
        total = sum(each[name].counts for each in one_by_one)
        np.testing.assert_array_equal(found[name].counts, total)
        assert found[name].peak == max(each[name].peak for each in one_by_one)


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
