"""Cutouts of the task `substructure`: no substructure, subhalos, or a vortex.

The recipe was recovered from the reference's own images: the smooth part by fitting them, the
substructure by matching the residuals. It is what the reference set holds, not what cold dark
matter predicts: 3 to 5.5 % of the mass in about nine compact subhalos is far more than that.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stronglens.training.simulate.shooting import (
    PIXEL,
    SIDE,
    Line,
    blur,
    gaussian,
    profile_table,
    trace,
)

CLASSES = ("no", "sphere", "vort")
SHAPE = (1, SIDE, SIDE)
DTYPE = np.dtype(np.float64)

Orientation = Literal["reference", "any"]
Range = tuple[float, float]

NO_LINE: Line = (0.0, 0.0, 0.0, 0.0, 0.0)
SPEED_OF_LIGHT = 299792.458  # km/s
SUN_MPC = 4.785417e-20  # G M☉ / c²
ARCSEC = math.pi / 180 / 3600


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Where every number of a cutout is drawn from; a pair is a uniform range."""

    z_lens: Range = (0.4, 0.6)
    z_source: Range = (0.8, 1.2)
    hubble: float = 70.0
    """km/s/Mpc, of a flat universe"""
    omega_m: float = 0.3
    mass: float = 6.0e11
    """solar masses inside the Einstein radius"""
    mass_scatter: float = 0.08
    """dex, cut at 2 sigma"""
    shear: Range = (0.0, 0.3)
    angle_degrees: Range = (0.0, 6.28)
    """of shear and source: the published generator hands radians to code that takes degrees, so
    every reference image is stretched along x; orientation "any" draws from 0 to 180 instead"""
    source_offset: Range = (0.0, 0.5)
    """arcsec, in a random direction"""
    source_radius: float = 0.5
    """arcsec, half-light"""
    sersic_index: float = 1.5
    axis_ratio: Range = (0.4, 1.0)
    counts: Range = (92.0, 110.0)
    """per pixel at the source's half-light radius; their mean gives the reference's mean range of
    805, their scatter a little more than its (sd 62, not 47), so that the range tells no class"""
    sky: float = 10.0
    """counts per pixel"""
    psf_sigma: float = 0.087
    """arcsec"""
    fraction: Range = (0.03, 0.055)
    """of the mass inside the Einstein radius that is substructure, and is taken from the halo's"""
    subhalos: float = 9.0
    """mean of their Poisson number; at least one"""
    subhalo_radius: Range = (0.0, 2.0)
    """arcsec from the centre"""
    vortex_length: Range = (0.5, 2.0)
    """arcsec"""
    vortex_offset: float = 0.6
    """arcsec, sigma of each coordinate of its centre"""


RECIPE = Recipe()


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """What is the same for every class: lens, source and exposure, drawn before the substructure.

    Lengths in arcsec, `theta_E` the Einstein radius of the whole mass; counts per pixel.
    """

    z_lens: float
    z_source: float
    theta_E: float
    gamma1: float
    gamma2: float
    source_x: float
    source_y: float
    e1: float
    e2: float
    counts: float


@dataclass(frozen=True, slots=True)
class Substructure:
    """Compact mass on top of a scene: its share of the mass, points (x, y, θ_E²) and a line."""

    fraction: float
    points_P3: NDArray[np.float64]
    line: Line


@cache
def _comoving() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Table of the comoving distance in Mpc; interpolating it is right to 1e-6."""
    z = np.linspace(0, 2.5, 5001)
    inverse = 1 / np.sqrt(RECIPE.omega_m * (1 + z) ** 3 + 1 - RECIPE.omega_m)
    steps = (inverse[1:] + inverse[:-1]) / 2 * z[1]
    return z, np.append(0, np.cumsum(steps)) * SPEED_OF_LIGHT / RECIPE.hubble


def einstein_radius(mass: float, z_lens: float, z_source: float) -> float:
    """Return θ_E in arcsec of a mass (solar) projected inside it: sqrt(4GM/c² · D_ls/(D_l D_s))."""
    lens, source = np.interp([z_lens, z_source], *_comoving())
    distance = lens / (1 + z_lens) * source / (source - lens)
    return float(math.sqrt(4 * SUN_MPC * mass / distance) / ARCSEC)


def draw_scene(rng: np.random.Generator, orientation: Orientation = "reference") -> Scene:
    """Draw lens, source and exposure; their order is part of the recipe."""
    r = RECIPE
    degrees = r.angle_degrees if orientation == "reference" else (0.0, 180.0)
    z_lens, z_source = rng.uniform(*r.z_lens), rng.uniform(*r.z_source)
    dex = r.mass_scatter * min(max(rng.normal(), -2.0), 2.0)
    shear, shear_angle = rng.uniform(*r.shear), math.radians(rng.uniform(*degrees))
    offset, direction = rng.uniform(*r.source_offset), rng.uniform(0, 2 * math.pi)
    axis_ratio, source_angle = rng.uniform(*r.axis_ratio), math.radians(rng.uniform(*degrees))
    ellipticity = (1 - axis_ratio) / (1 + axis_ratio)
    return Scene(
        z_lens=z_lens,
        z_source=z_source,
        theta_E=einstein_radius(r.mass * 10**dex, z_lens, z_source),
        gamma1=shear * math.cos(2 * shear_angle),
        gamma2=shear * math.sin(2 * shear_angle),
        source_x=offset * math.cos(direction),
        source_y=offset * math.sin(direction),
        e1=ellipticity * math.cos(2 * source_angle),
        e2=ellipticity * math.sin(2 * source_angle),
        counts=rng.uniform(*r.counts),
    )


def draw_substructure(
    rng: np.random.Generator, cls: str, theta_E: float, strength: float = 1.0
) -> Substructure:
    """Draw what a class adds to a scene; `strength` multiplies its share of the mass."""
    r = RECIPE
    none_P3 = np.empty((0, 3))
    if cls == "no":
        return Substructure(0.0, none_P3, NO_LINE)
    fraction = strength * rng.uniform(*r.fraction)
    theta2 = fraction * theta_E**2
    if cls == "vort":
        length, angle = rng.uniform(*r.vortex_length), rng.uniform(0, math.pi)
        x, y = rng.normal(0, r.vortex_offset, 2).tolist()
        dx, dy = length / 2 * math.cos(angle), length / 2 * math.sin(angle)
        return Substructure(fraction, none_P3, (x - dx, y - dy, x + dx, y + dy, theta2))
    number = max(1, int(rng.poisson(r.subhalos)))
    radius_P, angle_P = rng.uniform(*r.subhalo_radius, number), rng.uniform(0, 2 * np.pi, number)
    theta2_P = np.full(number, theta2 / number)
    columns = [radius_P * np.cos(angle_P), radius_P * np.sin(angle_P), theta2_P]
    return Substructure(fraction, np.stack(columns, axis=1), NO_LINE)


def expose(scene: Scene, substructure: Substructure) -> NDArray[np.float64]:
    """Return the expected counts of the lensed source in each pixel, without the sky: H×W."""
    image_HW = np.empty((SIDE, SIDE))
    halo = scene.theta_E * math.sqrt(1 - substructure.fraction)
    trace(
        (halo, scene.gamma1, scene.gamma2),
        substructure.points_P3,
        substructure.line,
        (scene.source_x, scene.source_y, RECIPE.source_radius, scene.e1, scene.e2),
        profile_table(RECIPE.sersic_index),
        image_HW,
    )
    image_HW *= scene.counts
    blurred_HW: NDArray[np.float64] = blur(image_HW, gaussian(RECIPE.psf_sigma / PIXEL))
    return blurred_HW


def render(
    entropy: Sequence[int],
    cls: str,
    *,
    strength: float = 1.0,
    orientation: Orientation = "reference",
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """Make one cutout, the same for the same arguments on every call.

    Scene, substructure and noise have a random stream each, so that the scene and the noise of
    an entropy are the same whatever its class.

    Args:
        entropy: non-negative integers; see `writer.entropy` for those of a data set.
        cls: one of CLASSES.
        strength: multiplies the substructure's share of the mass, which stays below 1.
        orientation: "reference", or "any" for shear and source at all angles.

    Returns:
        float64 (1, 150, 150) in [0, 1], each pixel a whole number of counts over the range, as in
        the reference; and the parameters by name.
    """
    streams = np.random.SeedSequence(entropy).spawn(3)
    scene_rng, substructure_rng, noise_rng = map(np.random.default_rng, streams)
    scene = draw_scene(scene_rng, orientation)
    substructure = draw_substructure(substructure_rng, cls, scene.theta_E, strength)
    counts_HW = noise_rng.poisson(expose(scene, substructure) + RECIPE.sky).astype(np.float64)
    low, high = counts_HW.min(), counts_HW.max()
    params = asdict(scene) | {
        "fraction": substructure.fraction,
        "points": substructure.points_P3[:, :2].tolist(),
        "line": list(substructure.line[:4]) if substructure.line != NO_LINE else [],
        "range": int(high - low),
    }
    return ((counts_HW - low) / (high - low))[None], params
