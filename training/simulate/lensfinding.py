"""HST-like cutouts of lenses and non-lenses, as in the reference's `real_hst`.

Drizzled ACS/WFC F814W in e-/s, sky not subtracted, 0.05 arcsec a pixel, NaN where no exposure was
good. The classes differ in the central object alone: each other ingredient has its own random
stream, so nothing that the centre draws can shift it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.errors import ConfigError
from stronglens.training.simulate.hst_canvas import OVERSAMPLE, Canvas, binned
from stronglens.training.simulate.hst_contaminants import paint_field, paint_nonlens
from stronglens.training.simulate.hst_detector import (
    Exposure,
    draw_exposure,
    draw_missing,
    draw_rays,
    expose,
)
from stronglens.training.simulate.hst_psf import Psf, convolve, draw_psf, kernel
from stronglens.training.simulate.hst_scenes import Central, draw_central, paint_lens

CLASSES = ("lens", "nonlens")
"""in label order"""

_STREAMS = ("exposure", "psf", "field", "missing", "rays", "noise", "centre", "object")
_CENTRING = 0.06  # arcsec, sigma on each axis: error of the catalogue the cutouts were made from


@dataclass(frozen=True, slots=True)
class _Nuisances:
    """What is drawn without knowing the class."""

    exposure: Exposure
    psf: Psf
    centre_y: float
    centre_x: float
    central: Central


def render(entropy: Sequence[int], cls: str) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Make one cutout; the same `entropy` and `cls` always make the same one.

    With the same entropy, both classes get the same exposure, PSF, neighbours, cosmic rays, missing
    pixels, noise realisation, centring, and magnitude and size of the central object.

    Args:
        entropy: numbers for `numpy.random.SeedSequence`.
        cls: one of `CLASSES`.

    Returns:
        (334, 334) float32 indexed (y, x), e-/s, NaN where nothing was measured; and what was drawn,
        by name: arcsec, radians, AB magnitudes, seconds.

    Raises:
        ConfigError: `cls` is no class.
    """
    if cls not in CLASSES:
        raise ConfigError(f"no class {cls!r}; choose from {', '.join(CLASSES)}")
    children = np.random.SeedSequence(entropy).spawn(len(_STREAMS))
    rng = {name: np.random.default_rng(s) for name, s in zip(_STREAMS, children, strict=True)}
    drawn = _draw_nuisances(rng)
    sky = Canvas()
    neighbours = paint_field(sky, rng["field"])
    target = Canvas(drawn.centre_y, drawn.centre_x)
    scene = _paint_target(target, rng["object"], cls, drawn)
    sky.light_HW += target.light_HW

    seen_HW = convolve(sky.light_HW, kernel(drawn.psf))
    cutout_HW = expose(
        binned(np.maximum(seen_HW, 0), OVERSAMPLE), drawn.exposure, rng["noise"]
    ) + draw_rays(drawn.exposure, rng["rays"])
    missing_HW = draw_missing(drawn.exposure, rng["missing"])
    cutout_HW[missing_HW] = np.nan
    counts = {"neighbours": neighbours, "missing": int(missing_HW.sum())}
    return cutout_HW, {"class": cls} | _params(drawn) | counts | scene


def _draw_nuisances(rng: dict[str, np.random.Generator]) -> _Nuisances:
    y, x = (float(offset) for offset in rng["centre"].normal(0, _CENTRING, 2))
    return _Nuisances(
        exposure=draw_exposure(rng["exposure"]),
        psf=draw_psf(rng["psf"]),
        centre_y=y,
        centre_x=x,
        central=draw_central(rng["centre"]),
    )


def _paint_target(
    canvas: Canvas, rng: np.random.Generator, cls: str, drawn: _Nuisances
) -> dict[str, Any]:
    if cls == "lens":
        return {"kind": "lens"} | paint_lens(canvas, rng, drawn.central, drawn.exposure.noise)
    return {"kind": paint_nonlens(canvas, rng, drawn.central)}


def _params(drawn: _Nuisances) -> dict[str, Any]:
    """Return the nuisances by name; one scalar each."""
    defocus, astigmatism_0, astigmatism_45, coma_x, coma_y = drawn.psf.aberrations
    return asdict(drawn.exposure) | {
        "roll": drawn.psf.roll,
        "jitter": drawn.psf.jitter,
        "defocus": defocus,
        "astigmatism_0": astigmatism_0,
        "astigmatism_45": astigmatism_45,
        "coma_x": coma_x,
        "coma_y": coma_y,
        "centre_y": drawn.centre_y,
        "centre_x": drawn.centre_x,
        "magnitude": drawn.central.magnitude,
        "radius": drawn.central.radius,
    }
