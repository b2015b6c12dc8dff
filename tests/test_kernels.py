"""Compiled kernels against their slow twins, on arrays chosen to hurt."""

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from nasty import pixels

from stronglens.engine import fill, kernels, median


@given(pixels())
def test_finite_range(raw_P):
    assert kernels.finite_range(raw_P) == naive.finite_range(raw_P)


@given(hnp.arrays(np.float64, st.integers(1, 50), elements=st.floats(allow_nan=False)))
def test_keys_sort_as_the_floats_and_stand_for_them(raw_P):
    keys_P = [median.key_of(v) for v in raw_P]
    assert [median.value_of(key) for key in keys_P] == raw_P.tolist()
    assert all(
        (a < b) <= (key_a < key_b)
        for a, key_a in zip(raw_P, keys_P, strict=True)
        for b, key_b in zip(raw_P, keys_P, strict=True)
    )


@given(pixels(["f4", "f8"]), st.integers(0, 3))
def test_middle_keys(raw_P, missing):
    finite = np.isfinite(raw_P)
    keys_P = np.array(
        [median.key_of(v) if ok else median.MISSING for v, ok in zip(raw_P, finite, strict=True)]
        + [median.MISSING] * missing
    )
    if not finite.any():
        return
    words_P = (keys_P >> 32).astype(np.int32)
    found = median.middle_keys(keys_P, words_P, int(finite.sum()))
    assert [median.value_of(key) for key in found] == naive.middle(raw_P[finite])


@given(pixels())
def test_robust_scale(raw_P):
    n_finite, low, high = kernels.finite_range(raw_P)
    if not low < high:
        return
    s, middle, sigma = kernels.robust_scale(raw_P, n_finite, low, high)
    expected_median, expected_sigma = naive.robust_scale(raw_P)
    assert sigma > 0
    # a median of two values of opposite signs is as exact as they are
    size = float(np.abs(raw_P[np.isfinite(raw_P)].astype(np.longdouble)).max())
    assert middle / s == pytest.approx(expected_median, rel=1e-14, abs=1e-15 * size + 5e-324)
    assert sigma / s == pytest.approx(expected_sigma, rel=1e-9, abs=1e-14 * size + 5e-324)


@given(st.floats(-1e300, 1e300) | st.floats(-2e-4, 2e-4) | st.floats(0.999e8, 1.001e8))
def test_arcsinh(x):
    found = np.zeros(1, np.float32)
    kernels.asinh_stretch(np.array([x]), 1.0, 0.0, 1.0, np.inf, found)
    assert found[0] == pytest.approx(np.float32(np.arcsinh(np.longdouble(x))), rel=6e-8, abs=1e-45)


@given(hnp.arrays(st.sampled_from(["u2", "u4", "u8"]), st.integers(0, 40)))
def test_swap_bytes(words_P):
    expected_P = words_P.byteswap()
    fill.swap_bytes(words_P)
    np.testing.assert_array_equal(words_P, expected_P)


@given(st.integers(1, 40))
def test_transpose(side):
    image_HW = np.arange(side * side, dtype=np.float32).reshape(side, side)
    out_HW = np.empty_like(image_HW)
    fill.transpose(image_HW.ravel(), out_HW.ravel(), side)
    np.testing.assert_array_equal(out_HW, image_HW.T)
