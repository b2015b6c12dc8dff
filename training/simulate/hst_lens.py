"""Gravitational lensing of the HST-like cutouts: an elliptical power law with external shear.

Positions are arcsec from the centre of the lens, angles radians from +x towards +y. The mass
follows lenstronomy's conventions for EPL and SHEAR, against which it is tested.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stronglens.training.simulate.hst_canvas import Place, sersic_scale, sersic_shape

Plane = NDArray[np.floating]
NUCLEUS_SIGMA = 0.006
"""arcsec: narrow beside the PSF, yet wide enough to sample at a sixth of a pixel"""
_PRECISION = 1e-10  # relative size of the first term of the series that is left out


@dataclass(frozen=True, slots=True)
class Mass:
    """A lens at the origin."""

    einstein_radius: float
    """arcsec; of the circle with the area of the critical ellipse"""
    slope: float
    """gamma of the density r^-gamma; 2 is isothermal"""
    q: float
    """axis ratio of the convergence"""
    pa: float
    shear: float
    shear_pa: float


def deflect(mass: Mass, y: Plane, x: Plane) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the deflection (alpha_y, alpha_x) in arcsec at image positions y, x (broadcast).

    The elliptical power law is the series of Tessore & Metcalf 2015 (arXiv:1507.01819, eq. 23-29):
    each term is smaller than the one before by at least (1 - q) / (1 + q).
    """
    cos, sin = math.cos(mass.pa), math.sin(mass.pa)
    y, x = np.asarray(y, np.float64), np.asarray(x, np.float64)
    z = _power_law(mass, x * cos + y * sin, y * cos - x * sin) * complex(cos, sin)
    gamma_1 = mass.shear * math.cos(2 * mass.shear_pa)
    gamma_2 = mass.shear * math.sin(2 * mass.shear_pa)
    return z.imag + gamma_2 * x - gamma_1 * y, z.real + gamma_1 * x + gamma_2 * y


def _power_law(mass: Mass, u: Plane, v: Plane) -> NDArray[np.complex128]:
    """Return the deflection, complex along (u, v), of the mass without shear in its own axes."""
    q, t = mass.q, mass.slope - 1
    b = mass.einstein_radius * math.sqrt(q)
    flattening = (1 - q) / (1 + q)
    along = q * u + 1j * v
    radius = np.maximum(np.abs(along), 1e-9)
    term = along / radius  # e^(i phi), phi the elliptical angle
    turn = -flattening * term * term
    total = term.copy()
    for n in range(1, 1 + math.ceil(math.log(_PRECISION) / math.log(max(flattening, 1e-9)))):
        term = term * turn
        term *= (2 * n - (2 - t)) / (2 * n + (2 - t))
        total += term
    total *= 2 * b / (1 + q) * (b / radius) ** (t - 1)
    return np.asarray(total)


@dataclass(frozen=True, slots=True)
class Source:
    """A galaxy behind the lens: a Sérsic profile and round Gaussian knots."""

    flux: float
    """of everything, unlensed, e-/s"""
    radius: float
    index: float
    place: Place
    knot_flux: tuple[float, ...]
    knot_y: tuple[float, ...]
    knot_x: tuple[float, ...]
    knot_sigma: tuple[float, ...]

    def with_nucleus(self, flux: float) -> "Source":
        """Return the same galaxy with a quasar at its centre: a knot too narrow to resolve."""
        return replace(
            self,
            flux=self.flux + flux,
            knot_flux=(*self.knot_flux, flux),
            knot_y=(*self.knot_y, self.place.y),
            knot_x=(*self.knot_x, self.place.x),
            knot_sigma=(*self.knot_sigma, NUCLEUS_SIGMA),
        )

    def at_least_as_wide_as(self, sigma: float) -> "Source":
        """Return the same galaxy with knots of at least `sigma` arcsec, for a coarse look."""
        return replace(self, knot_sigma=tuple(max(sigma, wide) for wide in self.knot_sigma))


def brightness(source: Source, y_HW: Plane, x_HW: Plane) -> NDArray[np.float32]:
    """Return the source's brightness in e-/s per square arcsec at source-plane positions."""
    place = source.place
    dy, dx = y_HW - place.y, x_HW - place.x
    cos, sin = math.cos(place.pa), math.sin(place.pa)
    r2 = place.q * (dx * cos + dy * sin) ** 2 + (dy * cos - dx * sin) ** 2 / place.q
    smooth = source.flux - sum(source.knot_flux)
    profile = sersic_shape(np.asarray(r2 + 1e-6, np.float32), source.radius, source.index)
    light = profile * (smooth / sersic_scale(source.radius, source.index))
    knots = zip(source.knot_flux, source.knot_y, source.knot_x, source.knot_sigma, strict=True)
    for flux, knot_y, knot_x, sigma in knots:
        r2 = np.asarray((y_HW - knot_y) ** 2 + (x_HW - knot_x) ** 2, np.float32)
        light += np.exp(r2 * (-0.5 / sigma**2)) * (flux / (2 * math.pi * sigma**2))
    return np.asarray(light, np.float32)


def draw_source(rng: np.random.Generator, magnitude_flux: float, y: float, x: float) -> Source:
    """Draw a disc or compact spheroid at (y, x) with about four star-forming knots.

    Half-light radii of 0.06 to 0.6 arcsec, median 0.18: galaxies at z ~ 0.5 to 2.
    """
    radius = float(np.clip(10 ** rng.normal(-0.75, 0.2), 0.06, 0.6))
    index = float(rng.choice([1.0, 1.0, 1.5, 2.5]))
    place = Place(y, x, float(rng.uniform(0.35, 1)), float(rng.uniform(0, np.pi)))
    count = int(rng.poisson(4))
    weight = rng.pareto(1.5, count) + 0.3
    weight *= rng.uniform(0, 0.35) / max(float(weight.sum()), 0.3)
    angle, distance = rng.uniform(0, 2 * np.pi, count), radius * rng.rayleigh(0.7, count)
    return Source(
        flux=magnitude_flux,
        radius=radius,
        index=index,
        place=place,
        knot_flux=tuple((weight * magnitude_flux).tolist()),
        knot_y=tuple((y + distance * np.sin(angle)).tolist()),
        knot_x=tuple((x + distance * np.cos(angle)).tolist()),
        knot_sigma=tuple(rng.uniform(0.015, 0.045, count).tolist()),
    )


def lensed(
    mass: Mass, source: Source, y_H: Plane, x_W: Plane, *, step: float, samples: int
) -> NDArray[np.float32]:
    """Return the lensed source, e-/s in each of samples × samples parts of each pixel.

    Args:
        y_H, x_W: centres of the pixels, arcsec from the lens.
        step: the pixels' side, arcsec.
        samples: parts along a pixel.

    Returns:
        (H · samples, W · samples) float32.
    """
    offset = ((np.arange(samples) + 0.5) / samples - 0.5) * step
    y_H1 = (y_H[:, None] + offset).reshape(-1, 1)
    x_1W = (x_W[:, None] + offset).reshape(1, -1)
    alpha_y, alpha_x = deflect(mass, y_H1, x_1W)
    light = brightness(source, y_H1 - alpha_y, x_1W - alpha_x)
    light *= np.float32((step / samples) ** 2)
    return light
