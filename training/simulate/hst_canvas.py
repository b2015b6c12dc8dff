"""Where an HST-like scene is painted: a finely sampled sky, and light profiles to put on it.

Arrays are indexed (y, x); positions are in arcsec from the canvas's origin, angles in radians from
+x towards +y, brightness in e-/s per fine pixel. Everything painted is added.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

SIDE = 334
"""pixels along a cutout, as in the reference's `real_hst` files"""
PIXEL = 0.05
"""arcsec: the pixel ACS/WFC images are drizzled to by default"""
OVERSAMPLE = 2
"""fine pixels along one pixel; the PSF's width of 0.1 arcsec is then 4 fine pixels"""
FINE_SIDE = SIDE * OVERSAMPLE
FINE_PIXEL = PIXEL / OVERSAMPLE
ZERO_POINT = 25.94
"""AB magnitude that gives 1 e-/s in ACS/WFC F814W"""

Image = NDArray[np.float32]

_FAINT = 2e-5  # e-/s per fine pixel: 1/60 of the noise in a pixel, where a profile may be cut off
_CORE = 0.025  # arcsec: softens cusps that the fine grid could not integrate


def flux_of(magnitude: float) -> float:
    """Return the flux in e-/s of an AB magnitude in F814W."""
    return float(10.0 ** (-0.4 * (magnitude - ZERO_POINT)))


def magnitude_of(flux: float) -> float:
    """Return the AB magnitude in F814W of a flux in e-/s."""
    return ZERO_POINT - 2.5 * math.log10(flux)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an elliptical thing is, and how it lies: arcsec, radians, axis ratio q ≤ 1."""

    y: float = 0.0
    x: float = 0.0
    q: float = 1.0
    pa: float = 0.0
    """angle of the major axis from +x towards +y"""


@dataclass(frozen=True, slots=True)
class Patch:
    """A rectangle of a canvas: `light_HW` is a view into it, y_H1 and x_1W are arcsec."""

    light_HW: Image
    y_H1: Image
    x_1W: Image

    def axes(self, place: Place) -> tuple[Image, Image]:
        """Return (u, v) of every pixel: arcsec along the major axis, and across it over q."""
        dy, dx = self.y_H1 - np.float32(place.y), self.x_1W - np.float32(place.x)
        cos, sin = np.float32(math.cos(place.pa)), np.float32(math.sin(place.pa))
        across = (dy * cos - dx * sin) / np.float32(place.q)
        return dx * cos + dy * sin, np.asarray(across, np.float32)

    def add(self, shape_HW: Image, flux: float) -> None:
        """Add `shape_HW` scaled to hold `flux` e-/s; a shape without light adds nothing."""
        total = float(shape_HW.sum())
        if total > 0:
            self.light_HW[...] += shape_HW * np.float32(flux / total)


class Canvas:
    """A sky of FINE_SIDE × FINE_SIDE float32 fine pixels, dark at first.

    Args:
        y, x: the origin of positions, arcsec from the centre of the cutout.
    """

    def __init__(self, y: float = 0.0, x: float = 0.0) -> None:
        self.light_HW: Image = np.zeros((FINE_SIDE, FINE_SIDE), np.float32)
        centres = (np.arange(FINE_SIDE) - (FINE_SIDE - 1) / 2) * FINE_PIXEL
        self._y_H = (centres - y).astype(np.float32)
        self._x_W = (centres - x).astype(np.float32)

    def patch(self, y: float, x: float, radius: float) -> Patch:
        """Return the part of the canvas within `radius` arcsec of (y, x) along both axes.

        It may be empty where the place lies outside.
        """
        rows = _span(self._y_H, y, radius)
        cols = _span(self._x_W, x, radius)
        return Patch(self.light_HW[rows, cols], self._y_H[rows, None], self._x_W[None, cols])

    def pixels(
        self, radius: float
    ) -> tuple[slice, slice, NDArray[np.float64], NDArray[np.float64]]:
        """Return the detector's pixels within `radius` arcsec of the origin along both axes.

        Returns:
            rows and cols into an array of SIDE², and the arcsec of their centres (y_H, x_W).
        """
        y_H = self._y_H.reshape(SIDE, OVERSAMPLE).mean(1, dtype=np.float64)
        x_W = self._x_W.reshape(SIDE, OVERSAMPLE).mean(1, dtype=np.float64)
        rows, cols = _span(y_H, 0.0, radius), _span(x_W, 0.0, radius)
        return rows, cols, y_H[rows], x_W[cols]


def _span(centres: NDArray[np.floating], at: float, radius: float) -> slice:
    first, last = np.searchsorted(centres, (at - radius, at + radius))
    return slice(int(first), int(last))


def binned(light_HW: Image, factor: int) -> Image:
    """Return the sums of factor × factor blocks; the sides must be multiples of `factor`."""
    rows = light_HW[0::factor].copy()
    for step in range(1, factor):
        rows += light_HW[step::factor]
    out = rows[:, 0::factor].copy()
    for step in range(1, factor):
        out += rows[:, step::factor]
    return out


def sersic_b(index: float) -> float:
    """Return b of a Sérsic profile whose `radius` holds half of the light (Capaccioli 1989)."""
    return 1.9992 * index - 0.3271


def sersic_scale(radius: float, index: float) -> float:
    """Return the flux of a Sérsic profile that is 1 at `radius` (Graham & Driver 2005, eq. 4)."""
    b = sersic_b(index)
    shape = index * math.exp(b) * math.pow(b, -2 * index) * math.gamma(2 * index)
    return 2 * math.pi * radius**2 * shape


def sersic_shape(r2_HW: NDArray[np.floating], radius: float, index: float) -> NDArray[np.floating]:
    """Return the Sérsic profile, 1 at `radius`, at the squared elliptical radii `r2_HW`."""
    b = sersic_b(index)
    power: NDArray[np.floating] = np.log(r2_HW * (1 / radius**2))
    power *= 0.5 / index
    np.exp(power, out=power)
    power -= 1
    power *= -b
    np.exp(power, out=power)
    return power


def add_sersic(canvas: Canvas, flux: float, radius: float, index: float, place: Place) -> None:
    """Add a Sérsic galaxy.

    Args:
        flux: total, out to infinity, e-/s.
        radius: half-light radius, the geometric mean of the two axes, arcsec.
        index: Sérsic n; 1 is an exponential disc, 4 a de Vaucouleurs spheroid.
        place: centre and ellipse.
    """
    b, peak = sersic_b(index), flux * FINE_PIXEL**2 / sersic_scale(radius, index)
    extent = radius * max(1.0 + math.log(max(peak / _FAINT, 1.0)) / b, 0.2) ** index
    patch = canvas.patch(place.y, place.x, extent / math.sqrt(place.q))
    u_HW, v_HW = patch.axes(place)
    r2_HW = (u_HW * u_HW + v_HW * v_HW) * np.float32(place.q) + np.float32(_CORE**2)
    patch.light_HW[...] += sersic_shape(r2_HW, radius, index) * np.float32(peak)


def add_knots(
    canvas: Canvas,
    flux_N: NDArray[np.floating],
    y_N: NDArray[np.floating],
    x_N: NDArray[np.floating],
    sigma_N: NDArray[np.floating],
) -> None:
    """Add round Gaussian knots: flux e-/s, position and sigma arcsec."""
    for flux, y, x, sigma in zip(flux_N, y_N, x_N, sigma_N, strict=True):
        patch = canvas.patch(float(y), float(x), 5 * float(sigma))
        scale = np.float32(-0.5 / sigma**2)
        column = np.exp(scale * (patch.y_H1 - np.float32(y)) ** 2)
        row = np.exp(scale * (patch.x_1W - np.float32(x)) ** 2)
        patch.light_HW[...] += (
            column * row * np.float32(flux * FINE_PIXEL**2 / (2 * np.pi * sigma**2))
        )


def add_star(canvas: Canvas, flux: float, y: float, x: float) -> None:
    """Add a point source: one fine pixel's worth of light, shared by its four neighbours."""
    width = np.asarray([FINE_PIXEL])
    patch = canvas.patch(y, x, FINE_PIXEL)
    weight = np.clip(1 - np.abs(patch.y_H1 - np.float32(y)) / width, 0, 1) * np.clip(
        1 - np.abs(patch.x_1W - np.float32(x)) / width, 0, 1
    )
    patch.light_HW[...] += (weight * flux).astype(np.float32)


def texture(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> Image:
    """Draw a random field of mean 0 and variance 1: patchiness.

    Its power falls as k⁻⁴ below `scale` arcsec and is white above.
    """
    height, width = (fft.next_fast_len(max(side, 2), real=True) for side in shape)
    noise = rng.standard_normal((height, width), np.float32)
    ky = fft.fftfreq(height, FINE_PIXEL)[:, None]
    kx = fft.rfftfreq(width, FINE_PIXEL)[None, :]
    transfer = (1 / (ky * ky + kx * kx + 1 / scale**2)).astype(np.float32)
    field = fft.irfft2(fft.rfft2(noise) * transfer, s=(height, width))[: shape[0], : shape[1]]
    field -= field.mean()
    field /= max(float(field.std()), 1e-12)
    return np.asarray(field, np.float32)
