"""Read cutouts from FITS images: alone, as extensions of one file, or as planes of a cube.

Plain images are read here, by their own cards; astropy is asked only for tile-compressed ones.
Files per second, 150×150 float32 with 30 cards each, from the page cache, on two cores shared
with other work (median of five rounds of 1,000 files):

    ==============================  ========  =========
    reader                          1 thread  2 threads
    ==============================  ========  =========
    this one                          32,400     14,800
    fitsio 1.4.2 (cfitsio)            18,100     11,600
    astropy 8.0.2, bytes in memory     4,200      2,700
    astropy 8.0.2, file                3,700      2,100
    ==============================  ========  =========

Two threads are slower than one since all four spend their time in Python. No file's name
reaches a library that would read more into it than a name, as cfitsio does into "[…]" and "|".
"""

from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError, InputError
from stronglens.engine.sources.entries import Choice, Cutout, Entry, Listed, Many, pick_band
from stronglens.engine.sources.fits_pixels import Image, image_of, pixels_of, refuse_bomb
from stronglens.engine.sources.fits_tiles import astropy_fits
from stronglens.engine.sources.fits_units import Bytes, in_memory, opened, units
from stronglens.engine.sources.kept import Kept, identity
from stronglens.engine.sources.stacks import MOST_BANDS, is_number

ENDINGS: tuple[str, ...] = (".fits", ".fit", ".fts", ".fits.gz", ".fit.gz", ".fts.gz", ".fits.fz")
MANY: Many = "maybe"


def read(entry: Entry, band: str) -> NDArray[Any]:
    """Return H×W in physical units: BSCALE and BZERO applied, NaN where BLANK.

    Integers stay integers where they are not scaled, or only shifted to be unsigned.

    Raises:
        CutoutError: MISSING, UNREADABLE, MALFORMED, or SHAPE where there is no such image,
            more than one to choose from, or one that is too large.
    """
    path, inside = entry.path, entry.inside
    with opened(path) as file:
        images = _kept_images(path) if inside else images_in(file)[0]
        return _chosen(path, file, images, inside, band)


def decode(data: bytes, band: str) -> NDArray[Any]:
    """Return the image in the bytes of a whole file, plain or gzipped; see `read`."""
    file = in_memory(data)
    return _chosen("", file, images_in(file)[0], "", band)


def _chosen(path: str, file: Bytes, images: list[Image], inside: str, band: str) -> NDArray[Any]:
    image, plane = _choose(images, inside, band)
    pixels = pixels_of(path, file, image, plane)
    return pick_band(pixels, band) if band and pixels.ndim == 3 else pixels


def cutout(entry: Entry, band: str) -> Cutout:
    """Return a cutout of a listing, or a whole file; nothing is opened yet."""
    return Listed(entry, band, read)


def entries(path: str, inside: str, choice: Choice) -> Iterator[Entry] | None:
    """List the images of a file; None where it is one cutout, or one with bands.

    Raises:
        InputError: several images or planes, and neither --band nor --stack.
        CutoutError: it cannot be listed.
    """
    if inside:
        return iter([Entry(path, inside)])
    if choice.band and not choice.stacked:
        return None
    with opened(path) as file:
        images, tables = images_in(file)
        for image in images:
            refuse_bomb(file, image)
    if any(image.compressed for image in images):
        astropy_fits()  # says at once that it is missing
    if not images:
        return iter(()) if tables else None
    if choice.stacked or (len(images) == 1 and _planes(images[0]) > MOST_BANDS):
        return _all(path, images) if len(images) > 1 or _planes(images[0]) > 1 else None
    if len(images) > 1:
        raise InputError(
            f"{path} holds {len(images)} images: {_listed(images)}; --band takes one of them, "
            "by its number or name, for each cutout; with --stack each is a cutout"
        )
    if _planes(images[0]) > 1:
        raise InputError(
            f"{path} holds one image of shape {images[0].shape}: with --band K the plane K is "
            "taken, from 0; with --stack each plane is a cutout"
        )
    return None


def _all(path: str, images: list[Image]) -> Iterator[Entry]:
    for image in images:
        whole = _planes(image) == 1
        prefix = "" if len(images) == 1 else f"{image.number}#"
        if whole:
            yield Entry(path, str(image.number))
        else:
            yield from (Entry(path, f"{prefix}{k}") for k in range(_planes(image)))


def _planes(image: Image) -> int:
    return image.shape[0] if len(image.shape) == 3 else 1


def images_in(file: Bytes) -> tuple[list[Image], int]:
    """Return the images of a file, and how many of its other units are tables."""
    images, tables = [], 0
    for unit in units(file):
        image = image_of(unit)
        if image is not None:
            images.append(image)
        else:
            tables += unit.text("XTENSION") in ("BINTABLE", "TABLE")
    return images, tables


_KEPT: Kept[list[Image]] = Kept(1 << 16, weigh=len)


def _kept_images(path: str) -> list[Image]:
    """Return the images of a file that many cutouts are read from."""

    def make() -> list[Image]:
        with opened(path) as file:
            return images_in(file)[0]

    return _KEPT.get(identity(path), make)


def _choose(images: list[Image], inside: str, band: str) -> tuple[Image, int | None]:
    """Return the image that is meant, and its plane where one is named.

    In a file with one image, and that a cube, a number means a plane; elsewhere a unit.
    """
    if not images:
        raise CutoutError(Flag.SHAPE, "holds no image")
    name, _, plane = inside.partition("#")
    only = images[0] if len(images) == 1 else None
    if only and _planes(only) > 1 and is_number(name) and not plane:
        name, plane = "", name
    if only and not name and (not band or _planes(only) > 1):
        return _with_plane(only, plane, band)
    wanted = name or band
    if not wanted:
        raise CutoutError(Flag.SHAPE, f"holds {len(images)} images: {_listed(images)}")
    number = int(wanted) if is_number(wanted) else -1
    for image in images:
        if image.number == number or image.name.lower() == wanted.lower():
            return _with_plane(image, plane, band if name else "")
    raise CutoutError(Flag.SHAPE, f"no image {wanted!r}: it holds {_listed(images)}")


def _with_plane(image: Image, plane: str, band: str) -> tuple[Image, int | None]:
    count = _planes(image)
    if not plane:
        if count > 1 and not band:
            raise CutoutError(Flag.SHAPE, f"shape {image.shape}: --band K takes plane K")
        return image, None
    if not (is_number(plane) and int(plane) < count) or count == 1:
        raise CutoutError(Flag.SHAPE, f"no plane {plane!r} in shape {image.shape}")
    return image, int(plane)


def _listed(images: list[Image]) -> str:
    words = [f"{image.number} {image.name}".rstrip() for image in images[:20]]
    return ", ".join(words) + (", …" if len(images) > 20 else "")
