"""`prepare` against its slow twin, over every dtype, order and kind of damage."""

import naive
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nasty import REAL, images, not_pixels, wrong_shapes

from stronglens.engine.batches import Flag, flag_words, status
from stronglens.engine.errors import BundleError, ConfigError, CutoutError
from stronglens.engine.preprocess import PreprocessSpec, prepare

MODES = ("none", "minmax", "asinh")


def prepared(raw, spec):
    out_HW = np.full((spec.size, spec.size), 7, np.float32)
    return out_HW, *prepare(raw, spec, out_HW)


@given(images(), st.sampled_from(MODES))
@settings(max_examples=400, deadline=None)
def test_prepare_matches_its_twin(raw, mode):
    spec = PreprocessSpec(mode=mode, size=raw.shape[-1])
    x_HW, flags, nan_frac = prepared(raw, spec)
    expected_HW, n_filled, scored = naive.prepare(raw, spec)
    assert np.isfinite(x_HW).all()
    np.testing.assert_allclose(x_HW, expected_HW, rtol=3e-6, atol=1e-6 if mode == "asinh" else 2e-7)
    assert nan_frac == pytest.approx(n_filled / raw.size)
    assert bool(flags & Flag.NONFINITE) == (n_filled > 0)
    assert bool(flags & (Flag.EMPTY | Flag.CONSTANT)) == (not scored)
    if scored:
        assert set(flag_words(flags).split("|")) - {""} == naive.flags(raw)


@pytest.mark.parametrize(("held", "expected"), [(7, "ok"), (8, "flagged"), (39, "flagged")])
@pytest.mark.parametrize("mode", MODES)
def test_a_plateau_at_the_top_is_saturation(rng, mode, held, expected):
    raw = rng.normal(size=(40, 40))
    raw.flat[rng.choice(1600, held, replace=False)] = 50.0
    assert status(prepared(raw, PreprocessSpec(mode=mode, size=40))[1]) == expected
    wide = rng.normal(size=(200, 200))
    wide[:3, :13] = 50.0  # 39 of 40,000: fewer than 1 in 1000
    assert status(prepared(wide, PreprocessSpec(mode=mode, size=200))[1]) == "ok"


def test_more_than_half_missing_is_flagged(rng):
    raw = rng.normal(size=(4, 4))
    raw[:2] = np.nan
    assert prepared(raw, PreprocessSpec(size=4))[1] == Flag.NONFINITE
    raw[2, 0] = np.inf
    assert prepared(raw, PreprocessSpec(size=4))[1] == Flag.NONFINITE | Flag.MOSTLY_MISSING


@pytest.mark.parametrize("dtype", REAL)
def test_byte_and_memory_order_change_nothing(dtype, rng):
    raw = rng.integers(0, 100, (20, 20)).astype(dtype)
    spec = PreprocessSpec(size=20)
    native, *_ = prepared(raw, spec)
    for same in (raw.astype(raw.dtype.newbyteorder(">")), np.asfortranarray(raw), raw[None]):
        np.testing.assert_array_equal(prepared(same, spec)[0], native)


def test_reference_images_pass_through_minmax_unchanged(rng):
    counts = rng.integers(0, 800, (150, 150))
    counts.flat[:2] = 0, 800
    raw = counts[None] / 800
    x_HW, flags, _ = prepared(raw, PreprocessSpec())
    np.testing.assert_array_equal(x_HW, raw[0].astype(np.float32))
    assert flags == Flag.OK


@pytest.mark.parametrize("mode", MODES)
def test_float64_extremes_do_not_overflow(mode):
    top = np.finfo(np.float64).max
    raw = np.array([[-top, top, 0], [top, np.nan, -top], [1, 5e-324, top]])
    x_HW, flags, nan_frac = prepared(raw, PreprocessSpec(mode=mode, size=3))
    assert np.isfinite(x_HW).all() and x_HW[0, 0] < x_HW[0, 2] < x_HW[0, 1]
    assert (flags, nan_frac) == (Flag.NONFINITE, pytest.approx(1 / 9))


@pytest.mark.parametrize("mode", ["minmax", "asinh"])
def test_the_smallest_floats_are_scaled_as_any(mode):
    raw = np.array([[2e-313, 0, 0], [0, 1e-313, 0], [0, 0, 4e-313]])
    spec = PreprocessSpec(mode=mode, size=3)
    tiny, usual = prepared(raw, spec)[0], prepared(raw * 2.0**1000, spec)[0]
    np.testing.assert_allclose(tiny, usual, rtol=1e-6)


@pytest.mark.parametrize(
    ("raw", "flag"),
    [
        (np.full((4, 4), np.nan), Flag.EMPTY),
        (np.full((4, 4), np.inf), Flag.EMPTY),
        (np.full((4, 4), 3e38), Flag.CONSTANT),
        (np.zeros((4, 4), np.uint8), Flag.CONSTANT),
        (np.where(np.eye(4), np.nan, 2.0), Flag.CONSTANT),
    ],
)
def test_nothing_to_score_is_flagged_and_zero(raw, flag):
    x_HW, flags, _ = prepared(raw, PreprocessSpec(size=4))
    assert flags & flag and not x_HW.any()


@given(not_pixels(4))
def test_pixels_must_be_real_numbers(raw):
    out_HW = np.full((4, 4), 7, np.float32)
    with pytest.raises(CutoutError, match="expected integers or floats") as err:
        prepare(raw, PreprocessSpec(size=4), out_HW)
    assert err.value.flag == Flag.DTYPE and not out_HW.any()


@given(wrong_shapes(4))
@example((3, 4, 4))
@example(())
def test_other_shapes_are_refused(shape):
    out_HW = np.full((4, 4), 7, np.float32)
    with pytest.raises(CutoutError) as err:
        prepare(np.ones(shape), PreprocessSpec(size=4), out_HW)
    assert err.value.flag == Flag.SHAPE and not out_HW.any()


@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from(MODES))
@settings(deadline=None)
def test_crop_takes_the_centre_and_counts_the_border_as_missing(height, width, mode):
    size = 6
    raw = np.random.default_rng(height * 13 + width).normal(size=(height, width))
    x_HW, _, nan_frac = prepared(raw, PreprocessSpec(mode=mode, size=size, fit="crop"))
    framed = np.full((24, 24), np.nan)
    top, left = (max(size - n, 0) // 2 - max(n - size, 0) // 2 for n in (height, width))
    framed[9 + top : 9 + top + height, 9 + left : 9 + left + width] = raw
    expected_HW, n_filled, _ = naive.prepare(framed[9:15, 9:15], PreprocessSpec(mode=mode, size=6))
    np.testing.assert_allclose(x_HW, expected_HW, rtol=3e-6, atol=1e-6)
    assert nan_frac == pytest.approx(n_filled / size**2)


def test_asinh_survives_noise_free_simulations():
    raw = np.zeros((10, 10))
    raw[4:6, 4:6] = [[1, 2], [3, 4]]
    x_HW, flags, _ = prepared(raw, PreprocessSpec(mode="asinh", size=10))
    assert flags == Flag.OK and x_HW.max() > 1 and np.isfinite(x_HW).all()


def test_spec_survives_json_and_refuses_what_it_does_not_know():
    spec = PreprocessSpec(mode="asinh", size=64, fit="crop", softening=0.2)
    assert PreprocessSpec.from_dict(spec.to_dict()) == spec
    with pytest.raises(BundleError, match="version 99"):
        PreprocessSpec.from_dict({**spec.to_dict(), "version": 99})
    with pytest.raises(BundleError, match="unknown: gamma"):
        PreprocessSpec.from_dict({**spec.to_dict(), "gamma": 1})


@pytest.mark.parametrize("wrong", [{"mode": "log"}, {"fit": "pad"}, {"size": 0}, {"softening": -1}])
def test_spec_checks_itself(wrong):
    with pytest.raises(ConfigError, match=f"preprocess {next(iter(wrong))}"):
        PreprocessSpec(**wrong)
