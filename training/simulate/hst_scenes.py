"""The lens at the centre of an HST-like cutout, and what any centre has in common."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from stronglens.training.simulate.hst_canvas import (
    OVERSAMPLE,
    PIXEL,
    Canvas,
    Image,
    Place,
    binned,
    flux_of,
    magnitude_of,
)
from stronglens.training.simulate.hst_galaxies import Rng, add_early
from stronglens.training.simulate.hst_lens import NUCLEUS_SIGMA, Mass, Source, draw_source, lensed

_ARC_SAMPLES = 2 * OVERSAMPLE  # parts along a pixel: knots are as narrow as a fine pixel
_NUCLEUS_SAMPLES = 3 * OVERSAMPLE  # with a quasar, see NUCLEUS_SIGMA
_QUASARS = 0.06  # share of the sources
_TRIES = 40
_VISIBLE = (0.3, 1.3)  # square arcsec of arcs above the noise and the light of the galaxy


@dataclass(frozen=True, slots=True)
class Central:
    """The central object's brightness and size: the same distribution for both classes."""

    magnitude: float
    radius: float
    """half-light radius, arcsec"""

    @property
    def flux(self) -> float:
        """Flux in e-/s."""
        return flux_of(self.magnitude)


def draw_central(rng: Rng) -> Central:
    """Draw a magnitude of 16.8 to 22 and a radius of 0.3 to 2.8 arcsec that follows it.

    Two thirds are as bright as the lens galaxies of SLACS (17 to 18.2 in F814W, measured in five
    arcsec), the rest reach to the fainter ones of deeper surveys.
    """
    bright = rng.random() < 0.65
    magnitude = rng.normal(18.2, 0.8) if bright else rng.normal(20.3, 0.9)
    magnitude = float(np.clip(magnitude, 16.8, 22.0))
    radius = 10 ** (rng.normal(0.0, 0.14) - 0.13 * (magnitude - 19.0))
    return Central(magnitude, float(np.clip(radius, 0.3, 2.8)))


def paint_lens(canvas: Canvas, rng: Rng, central: Central, noise: float) -> dict[str, Any]:
    """Paint an early-type galaxy that lenses a source, and return what was drawn.

    Sources are drawn until the arcs could have been found over noise of `noise` e-/s a pixel; the
    best of the draws stands when none could.
    """
    place = add_early(canvas, rng, central.flux, central.radius, 0.0, 0.0)
    light_HW = binned(canvas.light_HW, OVERSAMPLE)
    wanted = float(rng.uniform(*_VISIBLE))
    best: tuple[float, Mass, Source] | None = None
    for _ in range(_TRIES):
        mass = draw_mass(rng, central.magnitude, place)
        source = _draw_lensed_source(rng, mass)
        visible = _visible_area(canvas, mass, source, light_HW, noise)
        if best is None or visible > best[0]:
            best = visible, mass, source
        if visible > wanted:
            break
    assert best is not None
    visible, mass, source = best
    _add_arcs(canvas, mass, source)
    return {
        "einstein_radius": mass.einstein_radius,
        "slope": mass.slope,
        "q": mass.q,
        "pa": mass.pa,
        "shear": mass.shear,
        "shear_pa": mass.shear_pa,
        "source_magnitude": magnitude_of(source.flux),
        "source_radius": source.radius,
        "source_y": source.place.y,
        "source_x": source.place.x,
        "quasar": _has_nucleus(source),
        "visible_area": visible,
    }


def draw_mass(rng: Rng, magnitude: float, place: Place) -> Mass:
    """Draw a lens mass that follows the galaxy's light roughly.

    Einstein radii of 0.55 to 2.3 arcsec; slopes of 1.7 to 2.5 around SLACS's 2.08 ± 0.14 (Koopmans
    et al. 2009, Auger et al. 2010); shear of about 0.05.
    """
    middle = math.log(1.15) - 0.1 * (magnitude - 19.0)
    return Mass(
        einstein_radius=float(np.clip(rng.lognormal(middle, 0.25), 0.55, 2.3)),
        slope=float(np.clip(rng.normal(2.08, 0.14), 1.7, 2.5)),
        q=float(np.clip(place.q + rng.normal(0.05, 0.1), 0.5, 0.98)),
        pa=float(place.pa + rng.normal(0, 0.15)),
        shear=float(min(rng.rayleigh(0.04), 0.2)),
        shear_pa=float(rng.uniform(0, np.pi)),
    )


def _draw_lensed_source(rng: Rng, mass: Mass) -> Source:
    """Draw a source of magnitude 22 to 25.8, evenly over a disc that is mostly multiply imaged."""
    distance = 0.68 * mass.einstein_radius * math.sqrt(rng.uniform(0.001, 1))
    angle = rng.uniform(0, 2 * np.pi)
    magnitude = float(np.clip(rng.normal(23.7, 0.8), 22, 25.8))
    y, x = float(distance * np.sin(angle)), float(distance * np.cos(angle))
    source = draw_source(rng, flux_of(magnitude), y, x)
    if rng.random() < _QUASARS:
        return source.with_nucleus(flux_of(float(rng.uniform(20.5, 23.5))))
    return source


def _has_nucleus(source: Source) -> bool:
    return NUCLEUS_SIGMA in source.knot_sigma


def _reach(mass: Mass) -> float:
    """Return the half side in arcsec of a square that holds the arcs."""
    return 3.2 * mass.einstein_radius + 0.5


def _visible_area(
    canvas: Canvas, mass: Mass, source: Source, light_HW: Image, noise: float
) -> float:
    """Return the square arcsec over which the arcs stand out of noise and the galaxy's light."""
    rows, cols, y_H, x_W = canvas.pixels(_reach(mass))
    coarse = source.at_least_as_wide_as(0.6 * PIXEL)
    arcs = gaussian_filter(lensed(mass, coarse, y_H, x_W, step=PIXEL, samples=1), 1.0)
    galaxy = light_HW[rows, cols]
    # the galaxy's own photons add to the noise; 0.09 e-/s a pixel is the sky's typical brightness
    scatter = noise * np.sqrt(1 + galaxy / np.float32(0.09))
    return float(((arcs > 1.6 * scatter) & (arcs > 0.06 * galaxy)).sum()) * PIXEL**2


def _add_arcs(canvas: Canvas, mass: Mass, source: Source) -> None:
    rows, cols, y_H, x_W = canvas.pixels(_reach(mass))
    samples = _NUCLEUS_SAMPLES if _has_nucleus(source) else _ARC_SAMPLES
    arcs = lensed(mass, source, y_H, x_W, step=PIXEL, samples=samples)
    canvas.light_HW[_fine(rows), _fine(cols)] += binned(arcs, samples // OVERSAMPLE)


def _fine(pixels: slice) -> slice:
    return slice(pixels.start * OVERSAMPLE, pixels.stop * OVERSAMPLE)
