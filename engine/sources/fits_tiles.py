"""Expand a tile-compressed FITS image with astropy."""

import io
import math
import re
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError, InputError
from stronglens.engine.sources.files import MAX_BYTES
from stronglens.engine.sources.fits_tables import DESCRIPTORS, fields, pieces
from stronglens.engine.sources.fits_units import BLOCK, CARD, END, Bytes, Unit

MISSING_ASTROPY = "tile-compressed FITS needs astropy: pip install 'stronglens[formats]'"
NEEDED = re.compile(
    rb"XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TFIELDS|T(TYPE|FORM|SCAL|ZERO)\d+|THEAP|BSCALE|BZERO"
    rb"|BLANK|Z(IMAGE|BITPIX|NAXIS\d*|TILE\d+|CMPTYPE|NAME\d+|VAL\d+|MASKCMP)"
    rb"|Z(QUANTIZ|DITHER0|BLANK|SCALE|ZERO|PCOUNT|GCOUNT)"
)
"""The cards that decompression rests on. astropy sees no others: what surveys write into the
rest of their headers is not always to its liking, and none of it is a pixel."""

VALUE = re.compile(
    rb" *('(?:[ -&(-~]|'')*'|[+-]?[0-9]*\.?[0-9]+\.?(?:[ED][+-]?[0-9]+)?|[TF]) *(?:/|\Z)"
)
WAYS = ("RICE_1", "RICE_ONE", "GZIP_1", "GZIP_2", "PLIO_1", "HCOMPRESS_1", "NOCOMPRESS")
TILES = ("COMPRESSED_DATA", "GZIP_COMPRESSED_DATA", "UNCOMPRESSED_DATA", "NULL_PIXEL_MASK")

PRIMARY = b"".join(
    card.ljust(CARD)
    for card in (
        b"SIMPLE  =                    T",
        b"BITPIX  =                    8",
        b"NAXIS   =                    0",
        b"EXTEND  =                    T",
    )
)


def astropy_fits() -> Any:
    """Return astropy's module for FITS; raise InputError if it is missing."""
    try:
        from astropy.io import fits
    except ImportError as err:
        raise InputError(MISSING_ASTROPY) from err
    return fits


def decompress(unit: Unit, file: Bytes) -> NDArray[Any]:
    """Return the image of a compressed unit in physical units, NaN where blank.

    Raises:
        CutoutError: UNREADABLE where astropy is missing, MALFORMED, or SHAPE where the unit or
            one of its tiles is too large.
    """
    try:
        fits = astropy_fits()
    except InputError as err:
        raise CutoutError(Flag.UNREADABLE, str(err)) from err
    data = _alone(unit, file)
    try:
        with fits.open(io.BytesIO(data), memmap=False) as found:
            return np.asarray(found[1].data)
    except Exception as err:  # its decoders raise what they stumble over, of any kind
        raise CutoutError(Flag.MALFORMED, f"unit {unit.number}: {err}") from err


def _alone(unit: Unit, file: Bytes) -> bytes:
    """Return a file that holds the unit and nothing else."""
    size = unit.size()
    tile = math.prod(unit.integer(f"ZTILE{i}", 1) for i in range(1, unit.integer("ZNAXIS") + 1))
    if size > MAX_BYTES or not 0 <= tile * 8 <= MAX_BYTES:
        raise CutoutError(Flag.SHAPE, f"{size} compressed bytes, tiles of {tile} pixels")
    _refuse_bombs(unit, file, tile)
    data = file.at(unit.start, size)
    if len(data) < size:
        raise CutoutError(Flag.MALFORMED, f"truncated: {len(data)} of {size} compressed bytes")
    if unit.text("ZCMPTYPE") not in WAYS:  # astropy would take it for RICE_1
        raise CutoutError(Flag.MALFORMED, f"compression {unit.text('ZCMPTYPE')!r}")
    header = b"".join(_card(key, unit.cards[key]) for key in unit.cards if NEEDED.fullmatch(key))
    return _padded(PRIMARY + END, b" ") + _padded(header + END, b" ") + _padded(data, b"\0")


def _card(key: bytes, written: bytes) -> bytes:
    """Return a card without its comment; raise CutoutError, MALFORMED, where it has no value."""
    value = VALUE.match(written)
    if not value:
        raise CutoutError(Flag.MALFORMED, f"the card {key.decode('ascii', 'replace')}")
    return (key.ljust(8) + b"= " + value[1].rjust(20)).ljust(CARD)


def _refuse_bombs(unit: Unit, file: Bytes, tile: int) -> None:
    """Raise CutoutError where a gzipped tile expands to more than its pixels need.

    The other ways of compression end where the tile does. Gzip does not, and astropy expands
    such a tile, any mode may have some, as far as it goes.
    """
    for column in fields(unit):
        if column.name.upper() in TILES and column.code in DESCRIPTORS and column.repeat:
            for piece in pieces(file, unit, column):
                if piece.startswith(b"\x1f\x8b") and _expands_beyond(piece, 8 * tile):
                    raise CutoutError(Flag.MALFORMED, f"a tile of more than {8 * tile} bytes")


def _expands_beyond(data: bytes, most: int) -> bool:
    try:
        return len(zlib.decompressobj(wbits=31).decompress(data, most + 1)) > most
    except zlib.error as err:
        raise CutoutError(Flag.MALFORMED, f"a gzipped tile: {err}") from err


def _padded(data: bytes, filling: bytes) -> bytes:
    return data + filling * (-len(data) % BLOCK)
