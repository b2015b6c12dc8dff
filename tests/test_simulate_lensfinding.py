"""The HST-like cutouts: lensing against lenstronomy, optics, noise, and what the classes share."""

import hashlib
import math
import subprocess
import sys

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import roc_auc_score

from stronglens.engine.errors import ConfigError
from stronglens.training.simulate import (
    hst_canvas,
    hst_detector,
    hst_galaxies,
    hst_lens,
    hst_psf,
    hst_scenes,
)
from stronglens.training.simulate.hst_contaminants import KINDS, paint_nonlens
from stronglens.training.simulate.lensfinding import CLASSES, render

SHARED = (
    *("seconds", "count", "sky", "slope_y", "slope_x"),
    *("roll", "jitter", "defocus", "astigmatism_0", "astigmatism_45", "coma_x", "coma_y"),
    *("centre_y", "centre_x", "magnitude", "radius", "neighbours", "missing"),
)


# ---------------------------------------------------------------- lensing


def drawn_masses(count):
    rng = np.random.default_rng(3)
    for _ in range(count):
        light = hst_canvas.Place(q=rng.uniform(0.45, 1), pa=rng.uniform(0, np.pi))
        yield hst_scenes.draw_mass(rng, float(rng.uniform(16.8, 22)), light)


def lenstronomy_deflection(mass, y, x):
    from lenstronomy.LensModel.lens_model import LensModel

    e = (1 - mass.q) / (1 + mass.q)
    epl = {
        "theta_E": mass.einstein_radius,
        "gamma": mass.slope,
        "e1": e * math.cos(2 * mass.pa),
        "e2": e * math.sin(2 * mass.pa),
    }
    shear = {
        "gamma1": mass.shear * math.cos(2 * mass.shear_pa),
        "gamma2": mass.shear * math.sin(2 * mass.shear_pa),
    }
    alpha_x, alpha_y = LensModel(["EPL", "SHEAR"]).alpha(x, y, [epl, shear])
    return alpha_y, alpha_x


def test_deflection_equals_lenstronomy_over_the_drawn_range():
    y, x = np.random.default_rng(1).uniform(-8, 8, (2, 2000))
    for mass in drawn_masses(60):
        found = hst_lens.deflect(mass, y, x)
        np.testing.assert_allclose(found, lenstronomy_deflection(mass, y, x), rtol=0, atol=1e-8)


def test_deflection_is_finite_at_the_lens_itself():
    zero = np.zeros(1)
    mass = hst_lens.Mass(1.0, 2.3, 0.7, 0.3, 0.05, 1.0)
    assert np.isfinite(hst_lens.deflect(mass, zero, zero)).all()


def test_isothermal_sphere_magnifies_by_twice_theta_e_over_beta():
    beta, step = 0.4, 0.02
    mass = hst_lens.Mass(1.0, 2.0, 1.0, 0.0, 0.0, 0.0)
    place = hst_canvas.Place(y=0.0, x=beta)
    source = hst_lens.Source(3.0, 0.05, 1.0, place, (), (), (), ())
    centres = (np.arange(300) - 149.5) * step
    light = hst_lens.lensed(mass, source, centres, centres, step=step, samples=4)
    assert light.sum() == pytest.approx(3.0 * 2 / beta, rel=0.02)


def test_lensed_quasar_keeps_its_magnification_at_the_sampling_used_for_it():
    beta, fluxes = 0.4, []
    mass = hst_lens.Mass(1.0, 2.0, 1.0, 0.0, 0.0, 0.0)
    for shift in (0.0, 0.011, 0.024):  # of the pixels under the images
        place = hst_canvas.Place(y=0.0, x=beta)
        host = hst_lens.Source(1e-6, 0.05, 1.0, place, (), (), (), ())
        centres = (np.arange(100) - 49.5) * 0.05 + shift
        source = host.with_nucleus(3.0)
        fluxes.append(hst_lens.lensed(mass, source, centres, centres, step=0.05, samples=6).sum())
    np.testing.assert_allclose(fluxes, 3.0 * 2 / beta, rtol=0.05)


def test_lensed_source_keeps_its_light_without_a_lens():
    mass = hst_lens.Mass(1e-9, 2.0, 1.0, 0.0, 0.0, 0.0)
    source = hst_lens.draw_source(np.random.default_rng(5), 7.0, 0.1, -0.2)
    centres = (np.arange(400) - 199.5) * 0.02
    light = hst_lens.lensed(mass, source, centres, centres, step=0.02, samples=2)
    assert light.sum() == pytest.approx(7.0, rel=0.02)


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


# ---------------------------------------------------------------- whole cutouts


def test_classes_share_everything_but_the_centre():
    for index in range(4):
        (lens, of_lens), (other, of_other) = (render((8, index), cls) for cls in CLASSES)
        assert {name: of_lens[name] for name in SHARED} == {name: of_other[name] for name in SHARED}
        np.testing.assert_array_equal(np.isnan(lens), np.isnan(other))
        assert int(np.isnan(lens).sum()) == of_lens["missing"]
        assert (lens != other)[160:174, 160:174].any()


def test_sky_far_from_a_faint_centre_does_not_depend_on_the_class():
    checked = 0
    for index in range(12):
        (lens, of_lens), (other, _) = (render((9, index), cls) for cls in CLASSES)
        if of_lens["magnitude"] < 20 or of_lens["radius"] > 0.8:
            continue
        checked += 1
        edge = np.ones(lens.shape, bool)
        edge[40:-40, 40:-40] = False
        difference = (lens - other)[edge & np.isfinite(lens)]
        assert np.abs(difference).max() < 0.002  # under half of the noise, which is the same
    assert checked >= 2


@pytest.mark.parametrize("cls", CLASSES)
def test_render_gives_a_cutout_like_the_reference(cls):
    cutout, params = render((1, 2, 3), cls)
    assert cutout.shape == (334, 334)
    assert cutout.dtype == np.float32
    assert not np.isinf(cutout).any()
    assert params["class"] == cls
    assert all(isinstance(value, str | int | float) for value in params.values())


@pytest.mark.parametrize("cls", CLASSES)
def test_render_depends_on_nothing_but_its_arguments(cls):
    render((5, 5), "nonlens")
    cutout, params = render((4, 2), cls)
    code = (
        "import hashlib; from stronglens.training.simulate.lensfinding import render; "
        f"c, p = render((4, 2), {cls!r}); "
        "print(hashlib.sha256(c.tobytes()).hexdigest(), p)"
    )
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert again.stdout.strip() == f"{hashlib.sha256(cutout.tobytes()).hexdigest()} {params}"
    assert not np.array_equal(cutout, render((4, 3), cls)[0], equal_nan=True)


def test_render_refuses_an_unknown_class():
    with pytest.raises(ConfigError, match="lens, nonlens"):
        render((1,), "galaxy")


@pytest.mark.slow
def test_nuisances_do_not_tell_the_classes_apart():
    count = 150
    rows, visible = [], []
    for cls, offset in zip(CLASSES, (0, count), strict=True):
        for index in range(offset, offset + count):
            cutout, params = render((11, index), cls)
            border = np.concatenate([cutout[:12].ravel(), cutout[-12:].ravel()])
            border = border[np.isfinite(border)]
            middle = np.median(border)
            scatter = np.median(np.abs(border - middle))
            rows.append((middle, scatter, np.isnan(cutout).mean(), params["sky"]))
            if cls == "lens":
                visible.append(params["visible_area"])
    sky, scatter, missing, true_sky = np.array(rows).T
    is_lens = np.arange(2 * count) < count
    for statistic in (sky, scatter, missing, true_sky):
        auc = roc_auc_score(is_lens, statistic)
        assert 0.4 < auc < 0.6  # 3 standard deviations of the ROC AUC at this sample's size
    assert np.median(sky) == pytest.approx(0.08, abs=0.01)
    assert np.median(1.4826 * scatter) == pytest.approx(0.005, abs=0.001)
    assert np.mean(np.array(visible) > 0.3) > 0.9  # nearly all lenses could have been found
