"""The HST-like cutouts from light to pixels: profiles, optics, noise and missing pixels."""

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stronglens.training.simulate import (
    hst_canvas,
    hst_detector,
    hst_galaxies,
    hst_psf,
    hst_scenes,
)
from stronglens.training.simulate.hst_contaminants import KINDS, paint_nonlens

# ---------------------------------------------------------------- light and optics


@given(
    st.integers(1, 4).flatmap(
        lambda factor: st.tuples(
            st.just(factor),
            arrays(
                np.float32,
                st.tuples(st.integers(1, 5), st.integers(1, 5)).map(
                    lambda shape: (shape[0] * factor, shape[1] * factor)
                ),
                elements=st.integers(-1000, 1000),
            ),
        )
    )
)
def test_binned_matches_naive(drawn):
    factor, light = drawn
    np.testing.assert_array_equal(hst_canvas.binned(light, factor), naive.hst_binned(light, factor))


@pytest.mark.parametrize("index", [1.0, 2.5, 4.0])
@pytest.mark.parametrize("q", [1.0, 0.5])
def test_sersic_holds_its_flux_and_half_of_it_within_its_radius(index, q):
    place = hst_canvas.Place(y=0.7, x=-0.4, q=q, pa=0.9)
    canvas = hst_canvas.Canvas()
    hst_canvas.add_sersic(canvas, 100.0, 0.5, index, place)
    patch = canvas.patch(0.0, 0.0, 100.0)
    u, v = patch.axes(place)
    inside = q * (u * u + v * v) <= 0.5**2
    # the softened cusp costs an n = 4 galaxy 3 % of its light, the canvas's edge 1 %
    rel = 0.01 if index == 1 else 0.07
    assert canvas.light_HW.sum() == pytest.approx(100.0, rel=rel)
    assert canvas.light_HW[inside].sum() == pytest.approx(50.0, rel=rel)


def test_disc_across_the_edge_leaves_half_of_its_light_outside():
    place = hst_canvas.Place(y=-8.35, x=0.0, q=0.7, pa=0.4)
    canvas = hst_canvas.Canvas()
    disc = hst_galaxies.Disc(arms=2, bulge=0.0)
    hst_galaxies.add_disc(canvas, np.random.default_rng(3), 100.0, 0.8, place, disc)
    assert canvas.light_HW.sum() == pytest.approx(50.0, rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_nonlens_is_finite_and_has_light(kind):
    for seed in range(3):
        canvas, rng = hst_canvas.Canvas(), np.random.default_rng(seed)
        central = hst_scenes.draw_central(rng)
        assert paint_nonlens(canvas, rng, central, kind=kind) == kind
        assert np.isfinite(canvas.light_HW).all()
        assert (canvas.light_HW >= 0).all()
        assert canvas.light_HW.sum() > 0.03 * central.flux


def test_star_keeps_flux_and_position():
    canvas = hst_canvas.Canvas(y=0.11, x=-0.07)
    hst_canvas.add_star(canvas, 40.0, 1.003, -2.011)
    patch = canvas.patch(0.0, 0.0, 100.0)
    assert canvas.light_HW.sum() == pytest.approx(40.0, rel=1e-4)
    assert (canvas.light_HW * patch.y_H1).sum() / 40 == pytest.approx(1.003, abs=1e-3)
    assert (canvas.light_HW * patch.x_1W).sum() / 40 == pytest.approx(-2.011, abs=1e-3)


def test_patch_outside_the_canvas_is_empty_and_takes_light():
    canvas = hst_canvas.Canvas()
    hst_canvas.add_star(canvas, 5.0, 50.0, 50.0)
    hst_canvas.add_sersic(canvas, 5.0, 0.3, 1.0, hst_canvas.Place(y=-60.0))
    assert not canvas.light_HW.any()


def test_kernel_of_a_perfect_mirror_is_centred_and_as_sharp_as_hubble():
    kernel = hst_psf.kernel(hst_psf.Psf(0.3, (0.0,) * 5, 0.006))
    # |F(pupil)|² of a real pupil is symmetric about its centre
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-6)
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    middle = kernel.shape[0] // 2
    assert kernel.argmax() == middle * kernel.shape[1] + middle
    above_half = (kernel[middle] > kernel.max() / 2).sum() * hst_canvas.FINE_PIXEL
    assert 0.07 <= above_half <= 0.13  # ACS F814W drizzled to 0.05 arcsec: about 0.1


def test_convolve_matches_naive_within_and_at_the_edges():
    rng = np.random.default_rng(2)
    kernel = rng.random((383, 383), np.float32)
    kernel /= kernel.sum()
    side = hst_canvas.FINE_SIDE
    light = rng.random((side, side), np.float32)
    seen = hst_psf.convolve(light, kernel)
    for row, col in ((0, 0), (0, side - 1), (side - 1, side - 1), (side - 1, 3), (300, 341)):
        expected = naive.hst_convolve_at(light, kernel, row, col)
        assert seen[row, col] == pytest.approx(expected, rel=1e-4)


# ---------------------------------------------------------------- detector


def test_noise_of_an_empty_sky_is_as_promised_and_like_the_real_one():
    rng = np.random.default_rng(4)
    exposure = hst_detector.Exposure(2000.0, 4, 0.082, 0.0, 0.0)
    seen = hst_detector.expose(np.zeros((334, 334), np.float32), exposure, rng)
    assert seen.mean() == pytest.approx(0.082, abs=2e-4)
    assert seen.std() == pytest.approx(exposure.noise, rel=0.02)
    assert exposure.noise == pytest.approx(0.005, abs=0.0007)  # the reference's first file
    residual = seen - seen.mean()
    neighbours = (residual[:, 1:] * residual[:, :-1]).mean() / residual.var()
    assert neighbours == pytest.approx(0.24, abs=0.03)


def test_missing_pixels_are_as_rare_as_in_the_real_cutouts():
    rng = np.random.default_rng(6)
    fractions = [
        hst_detector.draw_missing(hst_detector.draw_exposure(rng), rng).mean() for _ in range(2000)
    ]
    # real: 0.195 % of the lenses' pixels, 0.125 % of the others'; a few cutouts hold most of them
    assert 0.0008 < np.mean(fractions) < 0.0030
    assert np.median(fractions) < 0.0003
    assert max(fractions) > 0.02
