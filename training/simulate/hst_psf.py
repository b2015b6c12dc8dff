"""The point-spread function of HST's camera ACS in F814W, and convolution with it.

Fraunhofer diffraction of the telescope's pupil at five wavelengths, with small aberrations, charge
diffusion, jitter and the drizzle drop. Pupil: 2.4 m, central obstruction 0.33, four vanes 0.0264
of the radius wide, three mirror pads at 0.8921 (Krist, Hook & Stoehr 2011, the Tiny Tim manual).
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import gaussian_filter, uniform_filter1d

from stronglens.training.simulate.hst_canvas import FINE_PIXEL, FINE_SIDE, OVERSAMPLE, Image

_MIRROR = 2.4  # m
_WAVELENGTHS = np.linspace(730e-9, 920e-9, 5)  # m, across F814W
_NOMINAL = 814e-9  # m, at which aberrations are quoted
_ARCSEC = 206264.8  # in a radian
_GRID = 384  # cells: 9.6 arcsec of fine pixels
_HALF = 191  # fine pixels from the kernel's centre to its edge
_ABERRATION = np.array([0.02, 0.012, 0.012, 0.012, 0.012])  # waves rms: breathing, alignment
_DIFFUSION = 0.019  # arcsec, sigma of the CCD's charge diffusion: about 0.4 pixels of the detector
_FFT_SIDE = fft.next_fast_len(FINE_SIDE + _HALF, real=True)


@dataclass(frozen=True, slots=True)
class Psf:
    """What the PSF of one cutout depends on."""

    roll: float
    """angle of the vanes, radians: the telescope's orientation"""
    aberrations: tuple[float, ...]
    """defocus, astigmatism × 2, coma × 2, waves rms at 814 nm"""
    jitter: float
    """sigma of the pointing, arcsec"""


def draw_psf(rng: np.random.Generator) -> Psf:
    """Draw a roll angle, aberrations and jitter as they vary between visits."""
    return Psf(
        roll=float(rng.uniform(0, 2 * np.pi)),
        aberrations=tuple(float(a) for a in rng.normal(0, _ABERRATION)),
        jitter=float(rng.uniform(0.004, 0.009)),
    )


def kernel(psf: Psf) -> Image:
    """Return the PSF on fine pixels: (383, 383) float32, centred, sum 1."""
    sharp = sum((_monochromatic(psf, float(wave)) for wave in _WAVELENGTHS), np.zeros(()))
    blur = float(np.hypot(_DIFFUSION, psf.jitter)) / FINE_PIXEL
    soft = gaussian_filter(sharp, blur)
    # two pixels wide on the fine grid, so centred by averaging a left and a right box
    for axis in (0, 1):
        left = uniform_filter1d(soft, OVERSAMPLE, axis=axis)
        soft = (left + uniform_filter1d(soft, OVERSAMPLE, axis=axis, origin=-1)) / 2
    middle = _GRID // 2
    cut = slice(middle - _HALF, middle + _HALF + 1)
    out = soft[cut, cut] * _taper()
    return np.asarray(out / out.sum(), np.float32)


def convolve(light_HW: Image, kernel_HW: Image) -> Image:
    """Return `light_HW` (FINE_SIDE²) seen through the kernel; darkness lies outside the canvas."""
    padded = np.zeros((_FFT_SIDE, _FFT_SIDE), np.float32)
    padded[: kernel_HW.shape[0], : kernel_HW.shape[1]] = kernel_HW
    spectrum = fft.rfft2(padded)
    padded[:] = 0
    padded[:FINE_SIDE, :FINE_SIDE] = light_HW
    spectrum *= fft.rfft2(padded, overwrite_x=True)
    wide = fft.irfft2(spectrum, s=(_FFT_SIDE, _FFT_SIDE), overwrite_x=True)
    # what would lie beyond one edge wraps around to the other side, past the part kept here
    shift = -(kernel_HW.shape[0] // 2)
    return np.asarray(np.roll(wide, (shift, shift), (0, 1))[:FINE_SIDE, :FINE_SIDE], np.float32)


@cache
def _plane() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    axis = np.arange(_GRID) - _GRID // 2
    return np.meshgrid(axis, axis, indexing="ij")


@cache
def _taper() -> NDArray[np.float64]:
    """Bring the kernel to 0 at its rim, so that no square edge shows around bright stars."""
    axis = np.arange(-_HALF, _HALF + 1) / _HALF
    radius = np.hypot(axis[:, None], axis[None, :])
    return np.asarray(0.5 * (1 + np.cos(np.pi * np.clip((radius - 0.7) / 0.3, 0, 1))))


def _monochromatic(psf: Psf, wave: float) -> NDArray[np.float32]:
    """Return |F(pupil)|² at `wave` metres, sum 1, (_GRID, _GRID)."""
    cells = _GRID * FINE_PIXEL / (_ARCSEC * wave / _MIRROR) / 2  # the pupil's radius in cells
    y_HW, x_HW = (plane / cells for plane in _plane())
    field = _aperture(y_HW, x_HW, psf.roll) * np.exp(
        2j * np.pi * _wavefront(y_HW, x_HW, psf.aberrations) * (_NOMINAL / wave)
    )
    amplitude = fft.fftshift(fft.fft2(field.astype(np.complex64), overwrite_x=True))
    power = amplitude.real**2 + amplitude.imag**2
    return np.asarray(power / power.sum())


def _aperture(
    y_HW: NDArray[np.float64], x_HW: NDArray[np.float64], roll: float
) -> NDArray[np.bool_]:
    """Return where light gets through, in units of the pupil's radius."""
    r2 = y_HW**2 + x_HW**2
    cos, sin = np.cos(roll), np.sin(roll)
    open_HW = (r2 <= 1) & (r2 >= 0.33**2)
    open_HW &= np.abs(x_HW * cos + y_HW * sin) > 0.0132
    open_HW &= np.abs(y_HW * cos - x_HW * sin) > 0.0132
    for pad in range(3):
        angle = roll + np.pi / 4 + 2 * np.pi * pad / 3
        at_y, at_x = 0.8921 * np.sin(angle), 0.8921 * np.cos(angle)
        open_HW &= (x_HW - at_x) ** 2 + (y_HW - at_y) ** 2 > 0.065**2
    return np.asarray(open_HW)


def _wavefront(
    y: NDArray[np.float64], x: NDArray[np.float64], aberrations: tuple[float, ...]
) -> NDArray[np.float64]:
    """Return the Zernike polynomials 4 to 8 (Noll) in Cartesian form, waves."""
    r2 = y * y + x * x
    coma = np.sqrt(8) * (3 * r2 - 2)
    defocus, astigmatism_0, astigmatism_45, coma_x, coma_y = aberrations
    return np.asarray(
        defocus * np.sqrt(3) * (2 * r2 - 1)
        + np.sqrt(6) * (astigmatism_0 * (x * x - y * y) + astigmatism_45 * 2 * x * y)
        + coma * (coma_x * x + coma_y * y)
    )
