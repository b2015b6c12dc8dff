"""The image of one unit of a FITS file: what its header says, and its pixels as values."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError
from stronglens.engine.sources.files import MAX_BYTES
from stronglens.engine.sources.fits_units import Bytes, Unit, unit_at
from stronglens.engine.sources.kept import BLOCK_BYTES, LARGEST_BLOCK, Kept, identity

DTYPES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
UNSIGNED = {(8, -128.0): "i1", (16, 2.0**15): "u2", (32, 2.0**31): "u4", (64, 2.0**63): "u8"}
"""BITPIX and BZERO by which the standard stores what it has no BITPIX for"""


@dataclass(frozen=True, slots=True)
class Image:
    """An image unit: where its pixels lie and what they mean."""

    number: int
    name: str
    shape: tuple[int, ...]
    """H×W or planes×H×W; leading axes of length one are dropped"""
    bits: int
    """BITPIX: of an integer, or negative of a float"""
    scale: float
    zero: float
    blank: int | None
    """the integer that stands for no value"""
    header: int
    start: int
    """of its header and of its pixels, in bytes"""
    compressed: bool


def image_of(unit: Unit) -> Image | None:
    """Return what a unit says of its image; None where it has none with two axes or more."""
    kind = unit.text("XTENSION")
    compressed = kind == "BINTABLE" and unit.true("ZIMAGE")
    if unit.number and kind != "IMAGE" and not compressed:
        return None
    shape = unit.axes("Z" if compressed else "")
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) < 2 or 0 in shape or unit.true("GROUPS"):
        return None
    bits = unit.integer("ZBITPIX" if compressed else "BITPIX")
    if bits not in DTYPES:
        raise CutoutError(Flag.MALFORMED, f"unit {unit.number}: BITPIX {bits}")
    blank = unit.integer("BLANK") if bits > 0 and b"BLANK" in unit.cards else None
    return Image(
        unit.number,
        unit.text("EXTNAME"),
        shape,
        bits,
        unit.number_of("BSCALE", 1.0),
        unit.number_of("BZERO", 0.0),
        blank,
        unit.offset,
        unit.start,
        compressed,
    )


def pixels_of(path: str, file: Bytes, image: Image, plane: int | None) -> NDArray[Any]:
    """Return an image or one plane of it, as `fits.read` says."""
    shape = image.shape if plane is None else image.shape[1:]
    stored, result = np.dtype(DTYPES[image.bits]), _physical(image)
    size = math.prod(shape) * stored.itemsize
    start = image.start + (plane or 0) * size
    if math.prod(shape) * max(stored.itemsize, result.itemsize) > MAX_BYTES:
        within = image.compressed or file.at(start + size - 1, 1)
        flag = Flag.SHAPE if within else Flag.MALFORMED
        raise CutoutError(
            flag, f"shape {shape}, in a file that is {'' if within else 'not '}as large"
        )
    if image.compressed:
        return _expanded(path, file, image, plane)
    data = file.at(start, size)
    if len(data) < size:
        raise CutoutError(Flag.MALFORMED, f"truncated: its header says shape {image.shape}")
    return _scaled(np.frombuffer(data, stored).reshape(shape), image, result)


def refuse_bomb(file: Bytes, image: Image) -> None:
    """Raise CutoutError where a cube has more planes than its file can hold; none is read."""
    if len(image.shape) == 2:
        return
    size = math.prod(image.shape) * abs(image.bits) // 8
    if image.compressed and size > LARGEST_BLOCK:
        raise CutoutError(Flag.SHAPE, f"a compressed cube of shape {image.shape}: too large")
    if not image.compressed and not file.at(image.start + size - 1, 1):
        raise CutoutError(Flag.MALFORMED, f"truncated: its header says shape {image.shape}")


def _physical(image: Image) -> np.dtype[Any]:
    """Return the dtype of an image's physical values, the one that astropy gives them."""
    if image.scale == 1 and image.blank is None:
        if image.zero == 0:
            return np.dtype(DTYPES[image.bits])
        if (image.bits, image.zero) in UNSIGNED:
            return np.dtype(UNSIGNED[image.bits, image.zero])
    if image.bits > 0:
        return np.dtype("f4" if image.bits <= 16 else "f8")
    return np.dtype(DTYPES[image.bits]).newbyteorder("=")


def _scaled(raw: NDArray[Any], image: Image, result: np.dtype[Any]) -> NDArray[Any]:
    """Return stored values as physical ones."""
    if raw.dtype == result:
        if image.scale == 1 and image.zero == 0:
            return raw
    elif result.kind in "iu":  # a shift by half the range flips the highest bit
        unsigned = np.dtype(f"u{result.itemsize}")
        bits = raw.astype(raw.dtype.newbyteorder("=")).view(unsigned)
        flipped: NDArray[Any] = bits ^ unsigned.type(1 << (8 * result.itemsize - 1))
        return flipped.view(result)
    with np.errstate(over="ignore", invalid="ignore"):  # infinite pixels have their own flag
        values: NDArray[Any] = raw.astype(result) * result.type(image.scale) + result.type(
            image.zero
        )
    if image.blank is not None:
        values[raw == image.blank] = np.nan
    return values


_EXPANDED: Kept[NDArray[Any]] = Kept(BLOCK_BYTES, weigh=lambda pixels: pixels.nbytes)


def _expanded(path: str, file: Bytes, image: Image, plane: int | None) -> NDArray[Any]:
    """Return a tile-compressed image or a plane of it; a cube is expanded once for its planes."""
    from stronglens.engine.sources.fits_tiles import decompress

    def make() -> NDArray[Any]:
        return decompress(unit_at(file, image.header, image.number), file).reshape(image.shape)

    if plane is None:
        return make()
    if math.prod(image.shape) * 8 > LARGEST_BLOCK:
        raise CutoutError(Flag.SHAPE, f"a compressed cube of shape {image.shape}: too large")
    cube = _EXPANDED.get((identity(path), image.number), make)
    pixels: NDArray[Any] = cube[plane]
    return pixels
