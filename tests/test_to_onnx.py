"""The exported files: what is in them, and that they compute what the net computes."""

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from stronglens.engine.backends.openvino import OpenVinoBackend
from stronglens.engine.backends.ort import OrtBackend
from stronglens.engine.errors import BackendError
from stronglens.export.graph import ServingGraph, run_graph, serving
from stronglens.export.half import (
    HALF_LIMIT,
    HALF_MAX,
    check_range,
    half_graph,
    halve,
    run_rounded,
)
from stronglens.export.to_onnx import to_onnx
from stronglens.training.models import LensFinder, resnet18_encoder, resnext50, small_cnn

FLOAT, FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def randomise(net):
    """Give batch norms statistics, so that fusing them wrongly shows."""
    torch.manual_seed(1)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
    return net.eval()


def lens_finder():
    projection = nn.Sequential(nn.Linear(512, 128, bias=False), nn.BatchNorm1d(128))
    net = LensFinder(resnet18_encoder(), projection, 128)
    nn.init.normal_(net.head.weight, std=0.2)
    return net


@pytest.fixture(scope="module")
def small():
    net = randomise(small_cnn(3, size=60, resize=72))
    served = serving(net)
    return served, to_onnx(served.graph, 60, outputs=served.outputs)


@pytest.fixture(scope="module")
def half_bytes(small):
    """Exported after the float graph, which must stay as it was."""
    return to_onnx(half_graph(halve(small[0].graph)), 60, outputs=small[0].outputs)


def operators(onnx_bytes):
    return Counter(node.op_type for node in onnx.load_from_string(onnx_bytes).graph.node)


def run_file(backend, onnx_bytes, x_BHW, folder):
    path = folder / "model.onnx"
    path.write_bytes(onnx_bytes)
    opened = backend(path)
    prob_BK = opened.run(x_BHW)
    opened.close()
    return prob_BK


def signature(value):
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def test_input_and_output_are_as_the_engine_expects(small):
    model = onnx.load_from_string(small[1])
    (x,), (prob,) = model.graph.input, model.graph.output
    assert (x.name, signature(x), x.type.tensor_type.elem_type) == ("x", ["batch", 60, 60], FLOAT)
    assert (prob.name, signature(prob)) == ("prob", ["batch", 3])
    assert model.opset_import[0].version >= 18
    assert all(not weight.external_data for weight in model.graph.initializer)


def test_resize_is_two_gathers_and_batch_norm_is_gone(small):
    found = operators(small[1])
    assert found["Gather"] == 2
    assert not {"Resize", "BatchNormalization", "Dropout", "Cast"} & set(found)


def test_nothing_of_the_machine_is_in_the_file(small):
    assert b".py" not in small[1]
    assert b"stack_trace" not in small[1]


def test_exporting_again_after_halving_gives_the_same_bytes_and_says_nothing(
    small, half_bytes, capfd
):
    assert to_onnx(small[0].graph, 60, outputs=small[0].outputs) == small[1]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("batch", [1, 3, 32])
@pytest.mark.parametrize("backend", [OrtBackend, OpenVinoBackend])
def test_runtimes_equal_torch_at_any_batch_size(small, backend, batch, tmp_path):
    served, onnx_bytes = small
    x_BHW = torch.rand(batch, 60, 60).numpy()
    expected_BK, _ = run_graph(served.graph, x_BHW)
    prob_BK = run_file(backend, onnx_bytes, x_BHW, tmp_path)
    np.testing.assert_allclose(prob_BK, expected_BK, rtol=0, atol=1e-5)


def test_half_is_half_in_the_body_only(small, half_bytes):
    model = onnx.load_from_string(half_bytes)
    weights = {weight.name: weight.data_type for weight in model.graph.initializer}
    convolutions = [n for n in model.graph.node if n.op_type == "Conv"]
    types = [weights[node.input[1]] for node in convolutions]
    # the high-pass, row and column, and the first learned convolution stay
    assert types == [FLOAT] * 3 + [FLOAT16] * (len(types) - 3)
    assert all(weights[n.input[1]] == FLOAT for n in model.graph.node if n.op_type == "Gemm")
    assert operators(half_bytes) == operators(small[1]) + Counter(Cast=2)
    assert model.graph.input[0].type.tensor_type.elem_type == FLOAT
    assert model.graph.output[0].type.tensor_type.elem_type == FLOAT
    assert len(half_bytes) < 0.6 * len(small[1])


def test_half_file_and_its_rounded_twin_are_near_float(small, half_bytes, tmp_path):
    served, _ = small
    half = halve(served.graph)
    x_BHW = torch.rand(4, 60, 60)
    expected_BK, _ = run_graph(served.graph, x_BHW.numpy())
    rounded_BK, largest = run_rounded(half, x_BHW)
    file_BK = run_file(OrtBackend, half_bytes, x_BHW.numpy(), tmp_path)
    for prob_BK in (rounded_BK.numpy(), file_BK):
        assert 0 < np.abs(prob_BK - expected_BK).max() < 5e-3
    assert 1 < largest < HALF_MAX


class Convolve(nn.Module):
    """A body of two convolutions that multiply by known factors."""

    def __init__(self, first, second):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 1, 1, bias=False)
        self.conv2 = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.constant_(self.conv1.weight, first)
        nn.init.constant_(self.conv2.weight, second)

    def forward(self, x_BCHW):
        return self.conv2(self.conv1(x_BCHW))


class Mean(nn.Module):
    def forward(self, maps_BDHW):
        return maps_BDHW.float().mean(dim=(2, 3))


def test_largest_activation_is_that_of_the_body_and_overflow_shows():
    x_BHW = torch.full((1, 4, 4), 2.0)
    half = halve(ServingGraph(nn.Identity(), Convolve(3.0, 100.0), Mean()))
    mean_BK, largest = run_rounded(half, x_BHW)
    assert (largest, mean_BK.item()) == (600.0, 600.0)
    half = halve(ServingGraph(nn.Identity(), Convolve(3.0, 20_000.0), Mean()))
    mean_BK, largest = run_rounded(half, x_BHW)
    assert largest == 120_000.0
    assert torch.isinf(mean_BK).all()


def test_bright_pixels_are_not_cast_before_the_first_convolution():
    half = halve(ServingGraph(nn.Identity(), Convolve(1e-4, 1.0), Mean()))
    mean_BK, largest = run_rounded(half, torch.full((1, 4, 4), 1e6))
    assert largest == pytest.approx(100, rel=1e-3)
    assert mean_BK.item() == pytest.approx(100, rel=1e-3)


@pytest.mark.parametrize("largest", [HALF_LIMIT * 1.01, float("inf"), float("nan")])
def test_activations_near_the_limit_are_refused(largest):
    with pytest.raises(BackendError, match=r"limit is 32,752.*without --fp16"):
        check_range(largest)


def test_activations_within_the_limit_pass():
    check_range(HALF_LIMIT)


class Forked(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)

    def forward(self, x_BCHW):
        return self.conv(x_BCHW) + x_BCHW


def test_body_that_passes_pixels_around_its_first_convolution_is_refused():
    with pytest.raises(BackendError, match="input in more than one place"):
        halve(ServingGraph(nn.Identity(), Forked(), Mean()))


NETS = {
    "resnext50": (lambda: resnext50(3, size=150, resize=224), 150),
    "resnet18": (lens_finder, 334),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_full_nets_equal_torch_in_both_precisions(name, tmp_path):
    torch.manual_seed(0)
    make, size = NETS[name]
    served = serving(randomise(make()))
    half = halve(served.graph)
    x_BHW = torch.rand(3, size, size)
    expected_BK, _ = run_graph(served.graph, x_BHW.numpy())
    float_bytes = to_onnx(served.graph, size, outputs=served.outputs)
    half_bytes = to_onnx(half_graph(half), size, outputs=served.outputs)
    assert operators(half_bytes)["Cast"] == 2
    assert len(half_bytes) < 0.55 * len(float_bytes)
    for onnx_bytes, limit in {float_bytes: 1e-4, half_bytes: 5e-3}.items():
        for backend in (OrtBackend, OpenVinoBackend):
            prob_BK = run_file(backend, onnx_bytes, x_BHW.numpy(), tmp_path)
            assert np.abs(prob_BK - expected_BK).max() <= limit
    rounded_BK, largest = run_rounded(half, x_BHW)
    assert np.abs(rounded_BK.numpy() - expected_BK).max() <= 5e-3
    check_range(largest)
