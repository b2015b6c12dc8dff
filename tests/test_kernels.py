"""Compiled kernels against their slow twins, on arrays chosen to hurt."""

import naive
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from nasty import pixels

from stronglens.engine import asinh, fill, kernels, median

SHORT, SINGLE = ["u1", "i2", "u2"], ["f4"]


@given(pixels())
def test_finite_range(raw_P):
    assert kernels.finite_range(raw_P) == naive.finite_range(raw_P)


@given(pixels(SHORT))
def test_integer_range(raw_P):
    assert kernels.integer_range(raw_P) == naive.finite_range(raw_P)


@given(pixels(SINGLE))
def test_single_range(raw_P):
    assert kernels.single_range(raw_P) == naive.finite_range(raw_P)


def check_middle(places, raw_P, center, away, rel):
    """Compare the two values in the middle, where there is more than one value."""
    finite = np.isfinite(raw_P)
    values_P = np.abs(raw_P - np.float64(center)) if away else raw_P.astype(np.float64)
    low, high = values_P[finite].min(initial=np.inf), values_P[finite].max(initial=-np.inf)
    with np.errstate(over="ignore"):
        width = high - low
    if 0 < width < np.inf:
        words_P = np.empty(raw_P.size, np.int16)
        count = int(finite.sum())
        found = median.middle_values(places, raw_P, count, 1.0, center, away, low, high, words_P)
        assert found == pytest.approx(naive.middle(values_P[finite]), rel=rel, abs=0)


centers = st.sampled_from([0.0, 1 / 3, -1e6 - 1e-3, 3e30])


@given(pixels(["f4", "f8", "i4"]), centers, st.booleans())
@example(np.array([np.inf, np.inf, 1, 0]), 0.0, False)
def test_middle_values(raw_P, center, away):
    check_middle(median.places, raw_P, center, away, rel=0)


@given(pixels(SINGLE), centers, st.booleans())
def test_middle_values_found_in_float32(raw_P, center, away):
    check_middle(median.single_places, raw_P, center, away, rel=3e-7 if away else 0)


@given(pixels(SHORT), st.booleans(), st.data())
def test_middle_integers(raw_P, away, data):
    low, high = np.int64(raw_P.min()), np.int64(raw_P.max())
    twice = data.draw(st.integers(2 * low, 2 * high)) if away else 0
    values_P = np.abs(2 * raw_P.astype(np.int64) - twice) if away else raw_P
    found = median.middle_integers(raw_P, low, high, np.int64(twice), away)
    assert list(found) == naive.middle(values_P)


@pytest.mark.parametrize("size", [2, 3, 255, 22_500, 22_501, 40_000])
@pytest.mark.parametrize("kind", ["far outlier", "two heaps", "equal but one", "tiny and huge"])
def test_middle_values_of_what_a_sample_misjudges(rng, size, kind):
    raw_P = rng.normal(size=size) + 100
    raw_P[: size // 2] += {"two heaps": 1e9, "tiny and huge": 1e250}.get(kind, 0)
    if kind == "equal but one":
        raw_P[:] = 0.1
    raw_P[0] = -1e300
    check_middle(median.places, raw_P, 0.0, False, rel=0)
    check_middle(median.places, rng.permutation(raw_P), 0.1, True, rel=0)


def scale_of(raw_P):
    """Return what finds the scale of pixels of this dtype."""
    if raw_P.dtype == np.float32:
        return asinh.single_scale
    return asinh.integer_scale if raw_P.dtype.itemsize <= 2 else asinh.robust_scale


@given(pixels())
def test_robust_scale(raw_P):
    n_finite, low, high = kernels.finite_range(raw_P)
    if not low < high:
        return
    s, middle, sigma = scale_of(raw_P)(raw_P, n_finite, low, high)
    expected_median, expected_sigma = naive.robust_scale(raw_P)
    assert sigma > 0
    # a median of two values of opposite signs is as exact as they are
    size = float(np.abs(raw_P[np.isfinite(raw_P)].astype(np.longdouble)).max())
    assert middle / s == pytest.approx(expected_median, rel=1e-14, abs=1e-15 * size + 5e-324)
    rel = 3e-7 if raw_P.dtype == np.float32 else 1e-9
    assert sigma / s == pytest.approx(expected_sigma, rel=rel, abs=1e-14 * size + 5e-324)


@pytest.mark.parametrize("stretch", [asinh.asinh_stretch, asinh.single_stretch])
@given(st.floats(-1e300, 1e300) | st.floats(-1, 1) | st.floats(9e5, 1.1e6))
def test_arcsinh(stretch, x):
    if stretch is asinh.single_stretch:
        x = float(np.clip(x, -3e38, 3e38).astype(np.float32))
    raw_P = np.array([x], np.float32 if stretch is asinh.single_stretch else np.float64)
    found = np.zeros(1, np.float32)
    assert stretch(raw_P, 1.0, 0.0, 1.0, 0.0, abs(x), found) == (x >= 0)
    assert found[0] == pytest.approx(np.float32(np.arcsinh(np.longdouble(x))), rel=3e-7, abs=1e-45)


@given(hnp.arrays(st.sampled_from(["u2", "u4", "u8"]), st.integers(0, 40)))
def test_swap_bytes(words_P):
    expected_P = words_P.byteswap()
    fill.swap_bytes(words_P)
    np.testing.assert_array_equal(words_P, expected_P)


@given(st.integers(1, 40))
def test_transpose(side):
    image_HW = np.arange(side * side, dtype=np.float32).reshape(side, side)
    out_HW = np.empty_like(image_HW)
    fill.transpose(image_HW.ravel(), np.empty(side * side, np.float32), out_HW.ravel(), side)
    np.testing.assert_array_equal(out_HW, image_HW.T)
