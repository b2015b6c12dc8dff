"""Single-plane ray shooting for one cutout: compiled, nogil, in lenstronomy's conventions.

Positions are arcseconds from the centre of the cutout, x along columns and y along rows.
Deflections are those of LensModel's SIS, SHEAR and POINT_MASS; the source is LightModel's
SERSIC_ELLIPSE; the PSF is scipy.ndimage.gaussian_filter's. A straight line mass is in none of them:
see `add_line`.
"""

import math
from functools import cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

Lens = tuple[float, float, float]
Line = tuple[float, float, float, float, float]
Source = tuple[float, float, float, float, float]

SIDE = 150
"""pixels along a side of the cutout"""
PIXEL = 0.05
"""arcseconds along a side of a pixel"""
SUBPIXELS = 2
"""rays along a side of a pixel; at 1 the sampling shows in the residuals (median chi2 4 to 12)"""

INNERMOST = 1e-5
"""arcseconds; lenstronomy, too, gives the Sérsic profile its value here for smaller radii"""
SMALLEST, LARGEST = -40, 14
"""octaves of (r/R)² that the profile's table spans"""
STEP_BITS = 5
"""log2 of the intervals to an octave"""
SOFT = 1e-20
"""arcsec²; only so that a ray on a point, or on the end of a line, gives no 0/0"""
MANTISSA_BITS = 52 - STEP_BITS
"""low bits of a double, which tell where in the interval it lies"""


@njit(nogil=True, error_model="numpy")
def add_line(x_W: NDArray[np.float64], y: float, line: Line, alpha_2W: NDArray[np.float64]) -> None:
    """Add the deflection by a uniform straight line mass (x1, y1, x2, y2, θ_E²) to a row of rays.

    In the frame of the line, of length L, and in units of θ_E²/L: along it, the log of the ratio
    of the distances to its ends; across it, the angle under which it is seen. This is the limit
    of a string of point masses.
    """
    x1, y1, x2, y2, theta2 = line
    length = math.hypot(x2 - x1, y2 - y1)
    cos = (x2 - x1) / length
    sin = (y2 - y1) / length
    scale = theta2 / length
    for j in range(x_W.size):
        u = (x_W[j] - x1) * cos + (y - y1) * sin
        v = (y - y1) * cos - (x_W[j] - x1) * sin
        w = u - length
        v2 = v * v + SOFT
        along = scale * 0.5 * math.log((u * u + v2) / (w * w + v2))
        across = scale * math.atan2(v * length, u * w + v2)
        alpha_2W[0, j] += along * cos - across * sin
        alpha_2W[1, j] += along * sin + across * cos


@njit(nogil=True, error_model="numpy")
def deflect(
    x_W: NDArray[np.float64],
    y: float,
    lens: Lens,
    points_P3: NDArray[np.float64],
    line: Line,
    alpha_2W: NDArray[np.float64],
) -> None:
    """Write the deflection of one row of rays. One loop a mass: each of them vectorises."""
    theta, gamma1, gamma2 = lens
    for j in range(x_W.size):
        x = x_W[j]
        scale = theta / math.sqrt(x * x + y * y + SOFT)
        alpha_2W[0, j] = scale * x + gamma1 * x + gamma2 * y
        alpha_2W[1, j] = scale * y + gamma2 * x - gamma1 * y
    for p in range(points_P3.shape[0]):
        px, py, theta2 = points_P3[p, 0], points_P3[p, 1], points_P3[p, 2]
        dy = y - py
        for j in range(x_W.size):
            dx = x_W[j] - px
            scale = theta2 / (dx * dx + dy * dy + SOFT)
            alpha_2W[0, j] += scale * dx
            alpha_2W[1, j] += scale * dy
    if line[4] > 0.0:
        add_line(x_W, y, line, alpha_2W)


@njit(nogil=True, error_model="numpy")
def trace(
    lens: Lens,
    points_P3: NDArray[np.float64],
    line: Line,
    source: Source,
    table_T4: NDArray[np.float64],
    image_HW: NDArray[np.float64],
) -> None:
    """Write each pixel's mean of the lensed profile over its rays, in units of the value at R.

    Args:
        lens: θ_E of the isothermal sphere in arcsec, then the external shear γ1, γ2.
        points_P3: point masses: x, y, θ_E² (P may be 0).
        line: see `add_line`; θ_E² = 0 for none.
        source: x, y, R of the Sérsic profile in arcsec, ellipticity e1, e2.
        table_T4: from `profile_table`.
        image_HW: float64, square, written.
    """
    side = image_HW.shape[0]
    rays = side * SUBPIXELS
    step = PIXEL / SUBPIXELS
    sx, sy, radius, e1, e2 = source
    norm = 1.0 / (math.sqrt(1.0 - e1 * e1 - e2 * e2) * radius)
    smallest = (INNERMOST / radius) ** 2
    largest = 2.0**LARGEST - 1.0  # a ray close to a point mass lands anywhere
    x_W = (np.arange(rays) - 0.5 * (rays - 1)) * step
    alpha_2W = np.empty((2, rays))
    r2_W = np.empty(rays)
    bits_W = r2_W.view(np.int64)
    image_HW[:] = 0.0
    for i in range(rays):
        y = (i - 0.5 * (rays - 1)) * step
        deflect(x_W, y, lens, points_P3, line, alpha_2W)
        for j in range(rays):
            bx = x_W[j] - alpha_2W[0, j] - sx
            by = y - alpha_2W[1, j] - sy
            u = ((1.0 - e1) * bx - e2 * by) * norm
            v = ((1.0 + e1) * by - e2 * bx) * norm
            r2_W[j] = min(max(u * u + v * v, smallest), largest)
        for j in range(rays):
            k = (bits_W[j] >> MANTISSA_BITS) - ((1023 + SMALLEST) << STEP_BITS)
            t = (bits_W[j] & ((1 << MANTISSA_BITS) - 1)) * (1.0 / (1 << MANTISSA_BITS))
            value = table_T4[k, 2] + t * table_T4[k, 3]
            value = table_T4[k, 0] + t * (table_T4[k, 1] + t * value)
            image_HW[i // SUBPIXELS, j // SUBPIXELS] += value
    image_HW /= SUBPIXELS * SUBPIXELS


@cache
def profile_table(index: float) -> NDArray[np.float64]:
    """Tabulate the Sérsic profile of an index: cubics in (r/R)², 32 to an octave.

    The top bits of a double are its exponent and the interval within the octave, so looking a
    value up takes no logarithm, power or exponential, which were 3/4 of the time. Error below
    1e-8 of the peak of a cutout.
    """
    steps = 1 << STEP_BITS
    octave_T = np.repeat(2.0 ** np.arange(SMALLEST, LARGEST), steps)
    width_T = octave_T / steps
    left_T = octave_T + width_T * np.tile(np.arange(steps), LARGEST - SMALLEST)
    right_T = left_T + width_T
    steepness = 1.9992 * index - 0.3271
    power = 1 / (2 * index)

    def value(r2: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.exp(-steepness * (r2**power - 1))

    def slope(r2: NDArray[np.float64]) -> NDArray[np.float64]:
        return -steepness * power * r2 ** (power - 1) * value(r2) * width_T

    a, b, da, db = value(left_T), value(right_T), slope(left_T), slope(right_T)
    return np.stack([a, da, 3 * (b - a) - 2 * da - db, 2 * (a - b) + da + db], axis=1)


def gaussian(sigma: float) -> NDArray[np.float64]:
    """Return the kernel of a Gaussian PSF, `sigma` in pixels, cut at 4 sigma; its sum is 1."""
    reach = int(4 * sigma + 0.5)
    kernel_R = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    normalised_R: NDArray[np.float64] = kernel_R / kernel_R.sum()
    return normalised_R


@njit(nogil=True, error_model="numpy")
def blur(image_HW: NDArray[np.float64], kernel_R: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convolve with a separable symmetric kernel; beyond the edge is the nearest pixel."""
    side = image_HW.shape[0]
    reach = kernel_R.size // 2
    rows_HW = np.zeros_like(image_HW)
    out_HW = np.zeros_like(image_HW)
    padded_W = np.empty(side + 2 * reach)
    for i in range(side):
        for t in range(-reach, reach + 1):
            k = min(max(i + t, 0), side - 1)
            for j in range(side):
                rows_HW[i, j] += kernel_R[t + reach] * image_HW[k, j]
        padded_W[:reach] = rows_HW[i, 0]
        padded_W[reach : reach + side] = rows_HW[i]
        padded_W[reach + side :] = rows_HW[i, side - 1]
        for t in range(kernel_R.size):
            for j in range(side):
                out_HW[i, j] += kernel_R[t] * padded_W[j + t]
    return out_HW
