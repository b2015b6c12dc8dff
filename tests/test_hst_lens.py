"""The lensing of the HST-like cutouts: against lenstronomy, and what theory says it keeps."""

import math

import numpy as np
import pytest

from stronglens.training.simulate import (
    hst_canvas,
    hst_lens,
    hst_scenes,
)


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
