"""From raw pixels to what the net sees: the only definition, for training, export and engine."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.batches import Flag
from stronglens.engine.errors import BundleError, ConfigError, CutoutError
from stronglens.engine.kernels import kernel

VERSION = 1
"""Raised when `prepare` would give other numbers for the same spec."""

Mode = Literal["none", "minmax", "asinh"]
Fit = Literal["exact", "crop"]

# What the kernels are compiled for; every other real dtype is first copied to one of these.
KERNEL_DTYPES = frozenset(map(np.dtype, ("f4", "f8", "u1", "i2", "u2", "i4")))


@dataclass(frozen=True, kw_only=True, slots=True)
class PreprocessSpec:
    """Everything `prepare` needs to know; goes from the recipe into checkpoint and manifest."""

    mode: Mode = "minmax"
    """none: finite pixels untouched; minmax: to [0, 1]; asinh: robust stretch. See `prepare`"""
    size: int = 150
    """side of the prepared cutout, pixels"""
    fit: Fit = "exact"
    """exact: cutouts of another size are rejected; crop: the central size×size pixels are
    taken, and where the cutout is smaller the border counts as missing pixels"""
    softening: float = 0.1
    """of the asinh, in units of the robust noise scale"""
    version: int = VERSION

    def __post_init__(self) -> None:
        for name, choices in (("mode", get_args(Mode)), ("fit", get_args(Fit))):
            if (value := getattr(self, name)) not in choices:
                raise ConfigError(f"preprocess {name} {value!r}: choose {', '.join(choices)}")
        if not 1 <= self.size <= 16384:
            raise ConfigError(f"preprocess size {self.size}: must be between 1 and 16384 pixels")
        if not 0 < self.softening < float("inf"):
            raise ConfigError(f"preprocess softening {self.softening}: must be positive")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> "PreprocessSpec":
        """Read `to_dict`'s output.

        Raises:
            BundleError: another version, or keys that are missing, unknown or mistyped.
        """
        if d.get("version") != VERSION:
            raise BundleError(
                f"made with preprocessing version {d.get('version')}, this is version "
                f"{VERSION}: export the model again"
            )
        if wrong := sorted({f.name for f in dataclasses.fields(cls)} ^ d.keys()):
            raise BundleError(f"preprocess keys missing or unknown: {', '.join(wrong)}")
        kinds = {"mode": (str,), "fit": (str,), "size": (int,), "softening": (int, float)}
        for name, kind in kinds.items():
            if type(d[name]) not in kind:  # not isinstance: True is an int
                raise BundleError(f"preprocess {name} is {d[name]!r}, expected {kind[-1].__name__}")
        return cls(**d)


def prepare(
    raw: NDArray[Any], spec: PreprocessSpec, out_HW: NDArray[np.float32]
) -> tuple[Flag, float]:
    """Clean and normalise one cutout into `out_HW`, independently of every other cutout.

    With low, high, median and sigma taken over the finite pixels v (sigma is 1.4826·MAD, or
    1.2533 times the mean absolute deviation where the MAD is 0):

        none    x = v
        minmax  x = (v - low) / (high - low)
        asinh   x = asinh((v - median) / (softening·sigma))

    and x = 0 where v is NaN, infinite or outside the frame. Computed in float64, but the asinh
    itself in float32, to 3e-7 of it.

    Args:
        raw: H×W or 1×H×W as stored: any integer or floating dtype, byte and memory order.
        spec: from the recipe, the checkpoint or the manifest.
        out_HW: size×size, C-contiguous; every element is written, and is finite.

    Returns:
        The flags (NONFINITE where pixels were filled, MOSTLY_MISSING where more than half
        were; SATURATED where many hold the greatest value; EMPTY or CONSTANT where there is
        nothing to score, and `out_HW` is 0), and the share of `out_HW` that was filled.

    Raises:
        CutoutError: DTYPE or SHAPE; `out_HW` is then 0.
    """
    try:
        raw_HW = _one_image(raw, spec)
    except CutoutError:
        out_HW.fill(0.0)
        raise
    if raw_HW.shape == out_HW.shape:
        n_finite, flags = _normalise(raw_HW, spec, out_HW)
    else:
        inner_HW = np.empty(raw_HW.shape, np.float32)
        n_finite, flags = _normalise(raw_HW, spec, inner_HW)
        out_HW.fill(0.0)
        out_HW[_central(raw_HW.shape[0], spec.size), _central(raw_HW.shape[1], spec.size)] = (
            inner_HW
        )
    return flags | missing(n_finite, out_HW.size), 1.0 - n_finite / out_HW.size


def missing(n_finite: int, size: int) -> Flag:
    """Return what a cutout's flags say of its missing pixels."""
    if n_finite == size:
        return Flag.OK
    return Flag.NONFINITE | (Flag.MOSTLY_MISSING if 2 * n_finite < size else Flag.OK)


def _one_image(raw: NDArray[Any], spec: PreprocessSpec) -> NDArray[Any]:
    """Return `raw` as one C-contiguous H×W image that a kernel takes, no larger than the size."""
    if raw.dtype.kind not in "fiu":
        raise CutoutError(Flag.DTYPE, f"dtype {raw.dtype}, expected integers or floats")
    image = raw[0] if raw.ndim == 3 and raw.shape[0] == 1 else raw
    if image.ndim != 2 or image.size == 0:
        raise CutoutError(Flag.SHAPE, f"shape {raw.shape}, expected H×W or 1×H×W")
    if image.shape != (spec.size, spec.size):
        if spec.fit == "exact":
            raise CutoutError(Flag.SHAPE, f"{image.shape}, the model takes {spec.size}×{spec.size}")
        image = image[_central(spec.size, image.shape[0]), _central(spec.size, image.shape[1])]
    native = image.dtype.newbyteorder("=")
    if native not in KERNEL_DTYPES:
        native = np.dtype("f8")
    with np.errstate(over="ignore"):  # a long double beyond float64 becomes inf, a filled pixel
        return np.ascontiguousarray(image, native)


def _central(inner: int, outer: int) -> slice:
    """Return where the central `inner` of `outer` pixels lie; all of them if there are fewer."""
    start = max(outer - inner, 0) // 2
    return slice(start, start + min(inner, outer))


def _normalise(
    raw_HW: NDArray[Any], spec: PreprocessSpec, out_HW: NDArray[np.float32]
) -> tuple[int, Flag]:
    """Apply the mode to a kernel-ready image; return how many pixels are finite, and the flags."""
    raw_P, out_P = raw_HW.reshape(-1), out_HW.reshape(-1)
    n_finite, found = kernel(spec.mode, raw_P.dtype)(raw_P, spec.softening, out_P)
    return int(n_finite), Flag(found)
