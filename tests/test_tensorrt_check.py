"""A new TensorRT plan is checked before it is used: its answers and the types it computes in."""

import json

import numpy as np
import pytest
import tiny_model
from fake_machine import HALF_LAYERS

from stronglens.engine.backends.tensorrt_check import count_convolutions, fixed_batch
from stronglens.engine.errors import BackendError
from stronglens.engine.golden import tolerance

pytest_plugins = ["gpu_fixtures"]


def test_a_plan_that_answers_otherwise_is_refused_and_not_kept(one, bundle, cache):
    one.gpu.spoil = lambda prob_BK: prob_BK * np.float32(1.01)
    words = (
        r"new plan is refused: its probabilities are off by 0\.0\d+ in float16, more than 0\.003"
    )
    with pytest.raises(BackendError, match=words):
        one.open(bundle)
    assert not cache.exists()
    assert (one.gpu.memory, one.gpu.held) == ({}, set())
    one.gpu.spoil = lambda prob_BK: prob_BK * np.nan
    with pytest.raises(BackendError, match="off by nan"):
        one.open(bundle)


def test_one_wrong_row_in_one_lane_is_found(one, bundle):
    """The second slice, and there the last row of all."""
    seen = []

    def spoil(prob_BK):
        seen.append(1)
        wrong_BK = prob_BK.copy()
        if len(seen) == 7:  # after two trial runs of two slices each; the third is waited for first
            wrong_BK[-1] = wrong_BK[-1, ::-1]
        return wrong_BK

    one.gpu.spoil = spoil
    with pytest.raises(BackendError, match="worst: row 255 of"):
        one.open(bundle)


@pytest.mark.parametrize(
    ("layers", "outcome"),
    [
        (HALF_LAYERS["Layers"][:1] * 5, "asked for float16, but of its convolutions: 0 in half, 5"),
        (HALF_LAYERS["Layers"][:1] * 3 + HALF_LAYERS["Layers"][1:2], "1 in half, 3 in float32"),
        (HALF_LAYERS["Layers"], None),
        ([], None),
        (["conv1"], None),
    ],
)
def test_a_float16_plan_must_compute_in_half(one, bundle, layers, outcome):
    one.trt.information = {"Layers": layers}
    if outcome is None:
        one.open(bundle).close()
    else:
        with pytest.raises(BackendError, match=outcome):
            one.open(bundle)
    one.open(bundle, precision="float32").close()


def test_what_the_inspector_does_not_tell_is_said():
    assert count_convolutions(json.dumps(HALF_LAYERS)) == (2, 1, 0)
    other = [{"LayerType": "conv", "Inputs": [{"Format/Datatype": "Int8"}]}, "conv2 + relu", "pool"]
    assert count_convolutions(json.dumps({"Layers": other})) == (0, 0, 2)
    for nothing in ("{}", "", '{"Layers": [nan'):
        assert count_convolutions(nothing) == (0, 0, 0)
    assert count_convolutions('{"Layers": [{"LayerType": "CaskConvolution"}]}') == (0, 0, 1)


def test_the_fixed_batch_holds_what_is_hard(bundle):
    x_NHW = fixed_batch(bundle)
    golden = bundle.golden().x_NHW
    np.testing.assert_array_equal(x_NHW[: len(golden)], golden)
    holes, constant, tiny, huge, empty = x_NHW[len(golden) :]
    assert np.isfinite(x_NHW).all()
    assert (holes[::3, ::5] == 0).all()
    assert holes.max() == 1
    assert not constant.any()
    assert not empty.any()
    for each in (tiny, huge):  # to the same as the cutout they are made of
        np.testing.assert_allclose(each, golden[0], atol=1e-4)


def test_a_gpu_may_differ_as_much_as_the_export_estimated(bundle, tmp_path):
    assert tolerance(bundle, "float16") == pytest.approx(0.003)
    parity = {"float16": {"max_abs_dp": 1e-4, "rounded_max_abs_dp": 0.01}}
    made = tiny_model.make_bundle(tmp_path / "made", parity=parity)
    assert tolerance(made, "float16") == pytest.approx(0.021)
    assert tolerance(made, "int8") == 0.05
