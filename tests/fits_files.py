"""FITS files for tests, as astropy writes them, and what the engine reads of them."""

import io

import cutouts
import numpy as np
import pytest

from stronglens.engine.sources import fits
from stronglens.engine.sources.entries import Choice, Entry

afits = pytest.importorskip("astropy.io.fits")


def stored(*units):
    """The bytes of a file of these units; arrays become images, the first of them primary."""
    first, *rest = [
        each
        if not isinstance(each, np.ndarray)
        else (afits.ImageHDU if i else afits.PrimaryHDU)(each)
        for i, each in enumerate(units)
    ]
    file = io.BytesIO()
    afits.HDUList([first, *rest]).writeto(file)
    return file.getvalue()


def written(path, *units):
    path.write_bytes(units[0] if isinstance(units[0], bytes) else stored(*units))
    return str(path)


def named(image, name):
    return afits.ImageHDU(image, name=name)


def read(path, inside="", band=""):
    return fits.cutout(Entry(path, inside), band).read()


def flag_of(path, inside="", band=""):
    return cutouts.flag_of(fits.cutout(Entry(str(path), inside), band))


def listed(path, inside="", **choice):
    found = fits.entries(path, inside, Choice(**choice))
    return None if found is None else [entry.inside for entry in found]


def with_cards(data, **cards):
    """Put cards in front of the END of the first header; a card that is there is replaced."""
    header = data[:2880]
    for key, value in cards.items():
        card = (key.ljust(8) + "= " + value.rjust(20)).ljust(80).encode()
        place = header.find(key.ljust(8).encode() + b"=")
        place = place if place >= 0 else header.find(b"END".ljust(80))
        old = header[place : place + 80]
        rest = header[place + 80 :]
        header = header[:place] + card + (old + rest[:-80] if old.startswith(b"END ") else rest)
    return header + data[2880:]
