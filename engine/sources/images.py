"""Read one cutout from a PNG or JPEG picture, in grey."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError
from stronglens.engine.sources.files import MAX_BYTES, read_file

MAX_PIXELS = 1 << 26
GREY_MODES = ("L", "I;16", "I;16B", "I", "F")


@dataclass(frozen=True, slots=True)
class ImageCutout:
    """A cutout in a picture file; `id` is its path."""

    id: str

    def read(self) -> NDArray[Any]:
        """Return H×W: uint8, or as stored where the picture is grey with more bits.

        Raises:
            CutoutError: MISSING, UNREADABLE, MALFORMED, or SHAPE where it is too large.
        """
        data, size = read_file(self.id)
        if size > MAX_BYTES:
            raise CutoutError(Flag.SHAPE, f"{size} bytes")
        return decode(data)


def decode(data: bytes) -> NDArray[Any]:
    """Return the picture in `data`, H×W; see `ImageCutout.read`."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise CutoutError(Flag.SHAPE, f"{image.width}×{image.height} pixels")
            return np.asarray(image if image.mode in GREY_MODES else image.convert("L"))
    except (OSError, ValueError, SyntaxError, EOFError) as err:  # what pillow's decoders raise
        raise CutoutError(Flag.MALFORMED, str(err)) from err
