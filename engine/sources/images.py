"""Read one cutout from a PNG or JPEG picture, in grey."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError
from stronglens.engine.sources.entries import Choice, Cutout, Entry, Many, pick_band
from stronglens.engine.sources.files import MAX_BYTES, read_file

MAX_PIXELS = 1 << 26
GREY_MODES = ("L", "I;16", "I;16B", "I", "F")

ENDINGS: tuple[str, ...] = (".png", ".jpg", ".jpeg")
MANY: Many = "never"


@dataclass(frozen=True, slots=True)
class ImageCutout:
    """A cutout in a picture file."""

    path: str
    name: str = ""
    """its id, where that is not its path"""
    band: str = ""
    """which colour to take: 0 red, 1 green, 2 blue; "": grey"""

    @property
    def id(self) -> str:
        """What its row is called."""
        return self.name or self.path

    def read(self) -> NDArray[Any]:
        """Return H×W: uint8, or as stored where the picture is grey with more bits.

        Raises:
            CutoutError: MISSING, UNREADABLE, MALFORMED, or SHAPE where it is too large or
                lacks the band.
        """
        data, size = read_file(self.path)
        if size > MAX_BYTES:
            raise CutoutError(Flag.SHAPE, f"{size} bytes")
        return decode(data, self.band)


def decode(data: bytes, band: str) -> NDArray[Any]:
    """Return the picture in `data`, H×W; see `ImageCutout.read`."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise CutoutError(Flag.SHAPE, f"{image.width}×{image.height} pixels")
            grey = image.mode in GREY_MODES
            if band and not grey:
                return pick_band(np.asarray(image.convert("RGB")), band)
            pixels = np.asarray(image if grey else image.convert("L"))
            return pick_band(pixels, band) if band else pixels
    except (OSError, ValueError, SyntaxError, EOFError) as err:  # what pillow's decoders raise
        raise CutoutError(Flag.MALFORMED, str(err)) from err


def entries(path: str, inside: str, choice: Choice) -> None:
    """Return None: a picture is one cutout."""


def cutout(entry: Entry, band: str) -> Cutout:
    """Return the cutout in a picture file."""
    return ImageCutout(entry.path, entry.name, band)
