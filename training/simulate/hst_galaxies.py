"""Galaxies with structure, painted on a canvas: early types, discs, rings, tidal tails, shells.

Flux in e-/s, lengths in arcsec, angles in radians. Each function draws the details it needs.
"""

import math
from dataclasses import dataclass

import numpy as np

from stronglens.training.simulate.hst_canvas import (
    FINE_PIXEL,
    Canvas,
    Image,
    Patch,
    Place,
    add_knots,
    add_sersic,
    texture,
)

Rng = np.random.Generator


def add_early(canvas: Canvas, rng: Rng, flux: float, radius: float, y: float, x: float) -> Place:
    """Add an elliptical or lenticular galaxy and return how it lies."""
    q = float(np.clip(rng.beta(6, 2.2), 0.45, 1))
    place = Place(y, x, q, float(rng.uniform(0, np.pi)))
    index = float(np.clip(rng.normal(3.9, 0.8), 2.2, 5.5))
    if rng.random() < 0.3:  # a lenticular's disc, or a giant's envelope
        add_sersic(canvas, 0.7 * flux, 0.7 * radius, index, place)
        outer = Place(y, x, max(0.42, q - 0.18), place.pa)
        add_sersic(canvas, 0.3 * flux, 1.8 * radius, 1.0, outer)
    else:
        add_sersic(canvas, flux, radius, index, place)
    return place


@dataclass(frozen=True, kw_only=True, slots=True)
class Disc:
    """What a disc galaxy is made of."""

    arms: int = 0
    """number of spiral arms; 0: none, only patches"""
    pitch: float = 0.35
    contrast: float = 0.5
    sharpness: float = 1.5
    bulge: float = 0.2
    """share of the light"""
    clumps: float = 0.15
    """share of the disc's light in star-forming knots"""
    bar: float = 0.0
    """half length of the bar in scale lengths; 0: none"""
    patchiness: float = 0.28


def draw_spiral(rng: Rng) -> Disc:
    """Draw a spiral galaxy's build."""
    return Disc(
        arms=int(rng.choice([0, 2, 2, 2, 3, 4])),
        pitch=math.radians(rng.uniform(12, 34)),
        contrast=float(rng.uniform(0.3, 0.7)),
        sharpness=float(rng.choice([1.0, 1.5, 2.5, 4.0])),
        bulge=float(rng.uniform(0.05, 0.45)),
        clumps=float(rng.uniform(0.01, 0.14)),
        bar=float(rng.uniform(0.8, 1.6)) if rng.random() < 0.35 else 0.0,
        patchiness=float(rng.uniform(0.08, 0.3)),
    )


def add_disc(
    canvas: Canvas, rng: Rng, flux: float, radius: float, place: Place, disc: Disc
) -> None:
    """Add a bulge and an exponential disc of half-light radius `radius` with what `disc` says."""
    scale = radius / 1.678
    patch = canvas.patch(place.y, place.x, min(7 * scale, 10.0))
    if patch.light_HW.size == 0:
        return
    u_HW, v_HW = patch.axes(place)
    r_HW = np.sqrt(u_HW * u_HW + v_HW * v_HW) + np.float32(1e-3)
    light = np.exp(r_HW * np.float32(-1 / scale))
    # of an exponential disc at the edge of the canvas only this share of the light is inside
    inside = float(light.sum()) * FINE_PIXEL**2 / (2 * math.pi * scale**2 * place.q)
    disc_flux = flux * (1 - disc.bulge) * min(1.0, inside)
    if disc.arms:
        light *= _arms(rng, r_HW / np.float32(scale), np.arctan2(v_HW, u_HW), disc)
    patches = texture(rng, light.shape, 0.3 * radius + 0.1)
    light *= np.exp(np.float32(disc.patchiness) * patches)
    patch.add(light, disc_flux * (1 - disc.clumps))
    if disc.clumps > 0:
        allowed = light * (r_HW > 0.5 * scale) * np.exp(-((r_HW / np.float32(3 * scale)) ** 4))
        _add_clumps(canvas, rng, disc_flux * disc.clumps, patch, allowed)
    if disc.bar:
        turned = Place(place.y, place.x, 0.35, place.pa + float(rng.uniform(0, np.pi)))
        _add_bar(patch, 0.08 * flux, disc.bar * scale, turned)
    bulge = Place(place.y, place.x, min(1.0, 0.5 + 0.5 * place.q), place.pa)
    index = float(rng.uniform(1.5, 4))
    add_sersic(canvas, flux * disc.bulge, max(0.18 * radius, 0.05), index, bulge)


def _arms(rng: Rng, r_HW: Image, angle_HW: Image, disc: Disc) -> Image:
    """Return the factor by which logarithmic spiral arms and their dust change a disc.

    `r_HW` is in scale lengths. The arms wobble a little and start outside the bulge.
    """
    wobble = np.float32(0.2) * texture(rng, r_HW.shape, 2.0)
    phase = angle_HW - np.log(r_HW) * np.float32(1 / math.tan(disc.pitch)) + wobble
    phase *= np.float32(disc.arms / 2)
    wave = np.abs(np.cos(phase)) ** np.float32(2 * disc.sharpness)
    begin = 1 / (1 + np.exp((np.float32(0.6) - r_HW) * np.float32(1 / 0.15)))
    light = 1 + begin * np.float32(disc.contrast) * (np.float32(2.6) * wave - 1)
    dust = np.cos(phase + np.float32(0.125 * disc.arms)) ** 16  # along the arms' inner side
    light *= 1 - np.float32(0.35) * begin * dust
    return np.asarray(light, np.float32)


def _add_bar(patch: Patch, flux: float, half: float, place: Place) -> None:
    u_HW, v_HW = patch.axes(place)
    r2 = (u_HW * u_HW + v_HW * v_HW) * np.float32(1 / (0.7 * half) ** 2)
    patch.add(np.exp(np.float32(-0.5) * r2 * r2), flux)


def _add_clumps(canvas: Canvas, rng: Rng, flux: float, patch: Patch, allowed_HW: Image) -> None:
    """Add star-forming knots where `allowed_HW` is bright, few bright ones and many faint ones."""
    count = int(rng.poisson(60)) + 20
    ladder = np.cumsum(allowed_HW.ravel() ** np.float32(1.15), dtype=np.float64)
    if ladder[-1] <= 0:
        return
    at = np.searchsorted(ladder, rng.random(count) * ladder[-1]).clip(max=ladder.size - 1)
    row, col = np.unravel_index(at, allowed_HW.shape)
    weight = np.minimum(rng.pareto(2.5, count), 4.0) + 0.3
    sigma = rng.uniform(0.03, 0.13, count)
    add_knots(canvas, weight * (flux / weight.sum()), patch.y_H1[row, 0], patch.x_1W[0, col], sigma)


def add_edge_on(canvas: Canvas, rng: Rng, flux: float, radius: float, place: Place) -> None:
    """Add a disc seen from the side: sech² across, a dust lane, a bulge; `place.q` is unused."""
    scale, height = radius / 1.678, radius * float(rng.uniform(0.08, 0.2))
    patch = canvas.patch(place.y, place.x, min(7 * scale, 10.0))
    if patch.light_HW.size == 0:
        return
    u_HW, v_HW = patch.axes(Place(place.y, place.x, 1.0, place.pa))
    across = np.exp(-np.abs(v_HW) * np.float32(2 / height))
    light = np.exp(np.abs(u_HW) * np.float32(-1 / scale)) * across / (1 + across) ** 2
    light *= np.exp(np.float32(0.15) * texture(rng, light.shape, 0.3))
    if rng.random() < 0.6:
        offset = float(rng.normal(0, 0.3)) * height
        lane = np.exp(-0.5 * ((v_HW - offset) / np.float32(0.35 * height + 0.02)) ** 2)
        light *= 1 - np.float32(rng.uniform(0.2, 0.75)) * lane * np.exp(
            -np.abs(u_HW) * np.float32(1 / (2.5 * scale))
        )
    share = float(rng.uniform(0.08, 0.4))
    patch.add(light, flux * (1 - share))
    bulge = Place(place.y, place.x, float(rng.uniform(0.55, 0.85)), place.pa)
    add_sersic(canvas, flux * share, 0.4 * radius, float(rng.uniform(1.5, 3.5)), bulge)


def add_ring(canvas: Canvas, rng: Rng, flux: float, radius: float, place: Place) -> None:
    """Add a ring galaxy: a slightly lopsided, patchy ring of `radius` around a bulge."""
    patch = canvas.patch(place.y, place.x, 1.8 * radius)
    u_HW, v_HW = patch.axes(place)
    r_HW, angle_HW = np.hypot(u_HW, v_HW), np.arctan2(v_HW, u_HW)
    thin, uneven = radius * rng.uniform(0.08, 0.22), rng.uniform(0.1, 0.7)
    turn_1, turn_2 = rng.uniform(0, 2 * np.pi, 2).astype(np.float32)
    middle = np.float32(radius) * (1 + np.float32(0.04) * np.cos(angle_HW - turn_1))
    light = np.exp(-0.5 * ((r_HW - middle) / np.float32(thin)) ** 2)
    light *= 1 + np.float32(uneven) * np.cos(angle_HW - turn_2)
    light *= np.exp(np.float32(0.35) * texture(rng, light.shape, 0.25))
    bulge = float(rng.uniform(0.3, 0.8))
    clumps = float(rng.uniform(0.05, 0.25))
    patch.add(light, flux * (1 - bulge) * (1 - clumps))
    _add_clumps(canvas, rng, flux * (1 - bulge) * clumps, patch, light)
    round_ = Place(place.y, place.x, float(rng.uniform(0.7, 1)), place.pa)
    add_sersic(canvas, flux * bulge, 0.3 * radius, float(rng.uniform(2, 4)), round_)


def add_tail(canvas: Canvas, rng: Rng, flux: float, y: float, x: float) -> None:
    """Add a tidal tail that leaves (y, x) along a circular arc, fading and widening outwards."""
    length, width = rng.uniform(2, 6), rng.uniform(0.15, 0.35)
    bend = float(rng.choice([-1, 1]) / rng.uniform(1.5, 5))  # curvature, 1/arcsec
    heading = float(rng.uniform(0, 2 * np.pi))
    centre_y, centre_x = y + math.cos(heading) / bend, x - math.sin(heading) / bend
    patch = canvas.patch(y, x, length + 4 * width)
    dy, dx = patch.y_H1 - np.float32(centre_y), patch.x_1W - np.float32(centre_x)
    turned = np.arctan2(dy, dx) - np.float32(math.atan2(y - centre_y, x - centre_x))
    # the cut of the angle lies behind the tail's beginning, where there is no light
    turned = np.mod(turned * np.float32(np.sign(bend)) + np.float32(0.6), np.float32(2 * np.pi))
    along = (turned - np.float32(0.6)) * np.float32(1 / (abs(bend) * length))
    across = (np.hypot(dy, dx) - np.float32(1 / abs(bend))) / np.float32(width)
    spread = np.float32(0.7) + np.float32(1.4) * np.clip(along, 0, 1)
    light = np.exp(-0.5 * (across / spread) ** 2) / spread
    along = np.clip(along, -2, 3)  # no light beyond, and no overflow
    light *= 1 / (1 + np.exp((along - np.float32(0.75)) * 9)) / (1 + np.exp(-along * 12))
    light *= np.exp(np.float32(0.3) * texture(rng, light.shape, 0.6))
    patch.add(light, flux)


def add_shell(canvas: Canvas, rng: Rng, flux: float) -> None:
    """Add a stellar shell around the origin: a sector that fades inwards from a soft outer edge."""
    radius, soft = rng.uniform(1.2, 3), rng.uniform(0.04, 0.12)
    patch = canvas.patch(0, 0, 1.6 * radius)
    place = Place(0.0, 0.0, float(rng.uniform(0.75, 1)), float(rng.uniform(0, np.pi)))
    u_HW, v_HW = patch.axes(place)
    r_HW = np.hypot(u_HW, v_HW) * np.float32(1 / radius)
    edge = 1 / (1 + np.exp(np.clip((r_HW - 1) / np.float32(soft), -30, 30)))
    sector = np.exp((np.cos(np.arctan2(v_HW, u_HW)) - 1) / np.float32(rng.uniform(0.15, 0.5)))
    patch.add(edge * np.exp((r_HW - 1) * np.float32(1 / rng.uniform(0.12, 0.3))) * sector, flux)
