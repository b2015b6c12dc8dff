"""From a sky without noise to a drizzled ACS cutout: exposure, noise, cosmic rays, missing pixels.

Everything here is a nuisance: it is drawn without knowing the class. Units are e-/s.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve1d

from stronglens.training.simulate.hst_canvas import SIDE, Image

_TIMES = (1000.0, 2000.0, 2000.0, 2100.0, 2400.0, 4200.0)  # s: one orbit is about 2,100 s
_SUB_EXPOSURE = 500.0  # s
_SKY = 0.08  # e-/s in a pixel; the reference's first file has 0.082
_READ_NOISE = 4.6  # e- (ACS/WFC after 2009: 3.9 to 4.7; dark current's share included)
# Drizzle shares each detector pixel among neighbours: adjacent pixels correlate by about 0.25 and
# the scatter falls to 0.67 of its uncorrelated value, which gives the real corner scatter of 0.005.
_DRIZZLE = np.array([0.098, 0.804, 0.098], np.float32)
_RAYS = {2: 5.0, 4: 1.2}  # rays that survive the rejection, by number of exposures; otherwise 0.4
_GROUPS = {2: 5.0, 4: 1.6}  # pixels with no good exposure; otherwise 0.8


@dataclass(frozen=True, slots=True)
class Exposure:
    """How one cutout was taken."""

    seconds: float
    count: int
    """number of exposures that were combined"""
    sky: float
    """e-/s in a pixel at the centre"""
    slope_y: float
    slope_x: float
    """relative change of the sky from the centre to the edge"""

    @property
    def noise(self) -> float:
        """Scatter of an empty pixel after drizzling, e-/s."""
        return math.sqrt(self.sky / self.seconds + self.read_variance) * float((_DRIZZLE**2).sum())

    @property
    def read_variance(self) -> float:
        """Variance of the read noise of all exposures, (e-/s)²."""
        return self.count * _READ_NOISE**2 / self.seconds**2


def draw_exposure(rng: np.random.Generator) -> Exposure:
    """Draw an exposure time of 1 to 4.2 ks and a sky of 0.045 to 0.15 e-/s."""
    seconds = float(rng.choice(_TIMES) * rng.uniform(0.95, 1.05))
    sky = float(np.clip(rng.lognormal(math.log(_SKY), 0.18), 0.045, 0.15))
    slope_y, slope_x = (float(slope) for slope in rng.normal(0, 0.004, 2))
    return Exposure(seconds, max(2, round(seconds / _SUB_EXPOSURE)), sky, slope_y, slope_x)


def expose(scene_HW: Image, exposure: Exposure, rng: np.random.Generator) -> Image:
    """Return the scene (SIDE² e-/s) with its sky and correlated Poisson and read noise."""
    ramp = np.linspace(-1, 1, SIDE, dtype=np.float32)
    tilt = 1 + exposure.slope_y * ramp[:, None] + exposure.slope_x * ramp[None, :]
    expected = scene_HW + (exposure.sky * tilt).astype(np.float32)
    variance = expected / np.float32(exposure.seconds) + np.float32(exposure.read_variance)
    noise = np.pad(np.sqrt(variance), 1, mode="edge")
    noise *= rng.standard_normal(noise.shape, np.float32)
    noise = convolve1d(convolve1d(noise, _DRIZZLE, 0), _DRIZZLE, 1)
    return np.asarray(expected + noise[1:-1, 1:-1], np.float32)


def draw_rays(exposure: Exposure, rng: np.random.Generator) -> Image:
    """Draw the cosmic rays that survived the rejection: short sharp streaks, (SIDE, SIDE) e-/s."""
    rays_HW = np.zeros((SIDE, SIDE), np.float32)
    for _ in range(rng.poisson(_RAYS.get(exposure.count, 0.4))):
        rows, cols = _streak(rng, int(rng.integers(1, 12)))
        strength = rng.lognormal(-1.6, 0.8)
        rays_HW[rows, cols] += (strength * rng.uniform(0.5, 1, rows.size)).astype(np.float32)
    return rays_HW


def draw_missing(exposure: Exposure, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw where no exposure was good, (SIDE, SIDE) bool.

    Groups of cosmic rays and hot pixels in most cutouts; the edge of the frame (5 %) or a gap
    between the chips (2.5 %) in a few. Chosen so that a sample of 215 has the real one's fractions
    (0.195 % of the lenses' pixels, 0.125 % of the others').
    """
    missing_HW = np.zeros((SIDE, SIDE), bool)
    for _ in range(rng.poisson(_GROUPS.get(exposure.count, 0.8))):
        rows, cols = _streak(rng, int(rng.integers(1, 9)))
        width = int(rng.integers(1, 3))
        for row, col in zip(rows, cols, strict=True):
            missing_HW[row : row + width, col : col + width] = True
    kind = rng.random()
    if kind < 0.05:
        distance = _distance(float(rng.uniform(0, 2 * np.pi)))
        missing_HW |= distance > np.quantile(distance, 1 - rng.uniform(0.004, 0.045))
    elif kind < 0.075:
        distance = _distance(float(rng.choice([0, np.pi / 2]) + rng.normal(0, 0.3)))
        middle = rng.choice([-1, 1]) * rng.uniform(60, 160)
        missing_HW |= np.abs(distance - middle) < rng.uniform(1, 7) / 2
    return missing_HW


def _streak(rng: np.random.Generator, length: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return (rows, cols) of the pixels along a short line anywhere; those outside are left out."""
    row, col = rng.uniform(0, SIDE, 2)
    angle = rng.uniform(0, 2 * np.pi)
    steps = np.arange(length)
    rows = np.floor(row + steps * np.sin(angle)).astype(np.intp)
    cols = np.floor(col + steps * np.cos(angle)).astype(np.intp)
    inside = (rows >= 0) & (rows < SIDE) & (cols >= 0) & (cols < SIDE)
    return rows[inside], cols[inside]


def _distance(angle: float) -> NDArray[np.float64]:
    """Return each pixel's distance in pixels from the centre along the direction `angle`."""
    axis = np.arange(SIDE) - (SIDE - 1) / 2
    return np.asarray(axis[:, None] * math.sin(angle) + axis[None, :] * math.cos(angle))
