"""What stands at the centre of a cutout that is no lens, and the field around any centre."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from stronglens.training.simulate.hst_canvas import (
    FINE_PIXEL,
    FINE_SIDE,
    Canvas,
    Place,
    add_sersic,
    add_star,
    flux_of,
)
from stronglens.training.simulate.hst_galaxies import (
    Disc,
    Rng,
    add_disc,
    add_early,
    add_edge_on,
    add_ring,
    add_shell,
    add_tail,
    draw_spiral,
)
from stronglens.training.simulate.hst_scenes import Central

_HALF = FINE_SIDE * FINE_PIXEL / 2  # arcsec from the centre to the edge of a cutout
_CLEAR = 3.0  # arcsec around the centre without bright neighbours: those belong to the centre


def paint_nonlens(canvas: Canvas, rng: Rng, central: Central, *, kind: str | None = None) -> str:
    """Paint a galaxy, several, or a star, and return which kind it was.

    `kind` is one of `KINDS`; without it one is drawn with the shares given there.
    """
    if kind is None:
        shares = np.array([share for share, _ in KINDS.values()])
        kind = tuple(KINDS)[int(rng.choice(len(KINDS), p=shares / shares.sum()))]
    KINDS[kind][1](canvas, rng, central)
    return kind


def paint_field(canvas: Canvas, rng: Rng) -> int:
    """Paint neighbours anywhere in the cutout and return how many there are.

    Galaxies down to 26.2 mag whose number rises by 0.32 dex a magnitude, about nine a cutout, and
    one star in four cutouts.
    """
    count = int(rng.poisson(9))
    for _ in range(count):
        magnitude = float(np.clip(26.2 + np.log10(rng.random() + 1e-6) / 0.32, 19.8, 26.2))
        radius = float(np.clip(10 ** rng.normal(-0.62 - 0.06 * (magnitude - 24), 0.2), 0.06, 1.2))
        y, x = (float(at) for at in rng.uniform(-_HALF, _HALF, 2))
        place = Place(y, x, float(rng.uniform(0.25, 1)), float(rng.uniform(0, np.pi)))
        index = float(rng.choice([1.0, 1.0, 1.0, 1.5, 2.5, 4.0]))
        structured = rng.random() < 0.7
        detail = rng.spawn(1)[0]
        if math.hypot(y, x) < _CLEAR and magnitude < 23.5:
            continue
        if magnitude < 23.5 and index < 2 and structured and place.q > 0.35:
            add_disc(canvas, detail, flux_of(magnitude), radius, place, draw_spiral(detail))
        else:
            add_sersic(canvas, flux_of(magnitude), radius, index, place)
    for _ in range(rng.poisson(0.25)):
        y, x = (float(at) for at in rng.uniform(-_HALF, _HALF, 2))
        add_star(canvas, flux_of(float(rng.uniform(18, 25))), y, x)
    return count


def _around(rng: Rng, nearest: float, farthest: float) -> tuple[float, float, float]:
    """Return (y, x, angle) of a random place between two distances from the origin, arcsec."""
    angle, distance = float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(nearest, farthest))
    return distance * math.sin(angle), distance * math.cos(angle), angle


def _place(rng: Rng, y: float, x: float, flattest: float) -> Place:
    return Place(y, x, float(rng.uniform(flattest, 1)), float(rng.uniform(0, np.pi)))


def _early(canvas: Canvas, rng: Rng, central: Central) -> None:
    add_early(canvas, rng, central.flux, central.radius, 0.0, 0.0)
    for _ in range(rng.poisson(1.2)):  # satellites and projected galaxies, where arcs might be
        y, x, _ = _around(rng, 0.6, 3.5)
        flux, radius = flux_of(float(rng.uniform(21.5, 24.5))), float(rng.uniform(0.08, 0.35))
        add_sersic(canvas, flux, radius, float(rng.uniform(0.8, 3)), _place(rng, y, x, 0.3))


def _spiral(canvas: Canvas, rng: Rng, central: Central) -> None:
    place = _place(rng, 0.0, 0.0, 0.3)
    add_disc(canvas, rng, central.flux, 1.5 * central.radius, place, draw_spiral(rng))


def _irregular(canvas: Canvas, rng: Rng, central: Central) -> None:
    """A faint patchy disc, often with a second one beside it."""
    disc = Disc(bulge=0.05, clumps=float(rng.uniform(0.1, 0.35)), patchiness=0.4)
    fainter = central.flux * 10 ** (-0.4 * float(rng.uniform(0.5, 2.5)))
    add_disc(canvas, rng, fainter, central.radius, _place(rng, 0.0, 0.0, 0.35), disc)
    if rng.random() < 0.5:
        y, x, _ = _around(rng, 0.3, 1.2)
        place = _place(rng, y, x, 0.3)
        add_disc(canvas, rng, 0.4 * fainter, 0.5 * central.radius, place, replace(disc, bulge=0.0))


def _ring(canvas: Canvas, rng: Rng, central: Central) -> None:
    place = _place(rng, 0.0, 0.0, 0.45)
    radius = float(np.clip(central.radius * rng.uniform(0.8, 1.8), 0.6, 2.4))
    add_ring(canvas, rng, central.flux, radius, place)
    if rng.random() < 0.5:
        add_sersic(canvas, 0.35 * central.flux, 1.6 * central.radius, 1.0, place)


def _edge_on(canvas: Canvas, rng: Rng, central: Central) -> None:
    add_edge_on(canvas, rng, central.flux, 1.2 * central.radius, _place(rng, 0.0, 0.0, 0.1))


def _merger(canvas: Canvas, rng: Rng, central: Central) -> None:
    y, x, _ = _around(rng, 0.25, 1.1)
    ratio = float(rng.uniform(0.15, 0.9))
    _progenitor(canvas, rng, central.flux / (1 + ratio), central.radius, -y, -x)
    _progenitor(canvas, rng, central.flux * ratio / (1 + ratio), 0.8 * central.radius, y, x)
    for _ in range(rng.integers(1, 4)):
        side = int(rng.choice([-1, 1]))
        add_tail(canvas, rng, central.flux * float(rng.uniform(0.03, 0.12)), side * y, side * x)


def _progenitor(canvas: Canvas, rng: Rng, flux: float, radius: float, y: float, x: float) -> None:
    if rng.random() < 0.6:
        disc = replace(draw_spiral(rng), arms=2)
        add_disc(canvas, rng, flux, 1.3 * radius, _place(rng, y, x, 0.35), disc)
    else:
        add_sersic(canvas, flux, 0.8 * radius, float(rng.uniform(2, 4.5)), _place(rng, y, x, 0.5))


def _group(canvas: Canvas, rng: Rng, central: Central) -> None:
    count = int(rng.integers(2, 6))
    for member, share in enumerate(rng.dirichlet(np.full(count, 1.5))):
        y, x, _ = _around(rng, 0.5, 3.0) if member else (0.0, 0.0, 0.0)
        radius = float(np.clip(0.6 * central.radius * math.sqrt(share * count), 0.1, 2))
        flux = central.flux * float(share) + flux_of(23.0)
        add_sersic(canvas, flux, radius, float(rng.uniform(1, 5)), _place(rng, y, x, 0.4))


def _arc_mimic(canvas: Canvas, rng: Rng, central: Central) -> None:
    """An early type with thin discs that happen to lie along circles around it, or a shell."""
    add_early(canvas, rng, central.flux, central.radius, 0.0, 0.0)
    for _ in range(rng.integers(1, 3)):
        y, x, angle = _around(rng, 0.8, 2.4)
        tangent = angle + np.pi / 2 + float(rng.normal(0, 0.25))
        place = Place(y, x, float(rng.uniform(0.15, 0.35)), tangent)
        flux, radius = flux_of(float(rng.uniform(21.3, 23.5))), float(rng.uniform(0.2, 0.5))
        add_sersic(canvas, flux, radius, 1.0, place)
    if rng.random() < 0.4:
        add_shell(canvas, rng, 0.04 * central.flux)


def _star(canvas: Canvas, rng: Rng, central: Central) -> None:
    y, x = (float(at) for at in rng.normal(0, 0.1, 2))
    add_star(canvas, flux_of(float(rng.uniform(16.8, 20.5))), y, x)
    if rng.random() < 0.6:
        y, x = (float(at) for at in rng.normal(0, 1, 2))
        flux = flux_of(float(rng.uniform(19, 21.5)))
        add_disc(canvas, rng, flux, central.radius, _place(rng, y, x, 0.4), draw_spiral(rng))


KINDS: dict[str, tuple[float, Callable[[Canvas, Rng, Central], None]]] = {
    "early": (0.22, _early),
    "spiral": (0.26, _spiral),
    "irregular": (0.09, _irregular),
    "ring": (0.07, _ring),
    "edge_on": (0.08, _edge_on),
    "merger": (0.10, _merger),
    "group": (0.10, _group),
    "arc_mimic": (0.05, _arc_mimic),
    "star": (0.03, _star),
}
"""share of the non-lenses (any scale) and the painter of each kind"""
