"""FITS that is damaged or hostile has its reason, and takes neither memory nor time."""

import gzip

import numpy as np
import pytest
from fits_files import flag_of, listed, named, read, stored, with_cards, written
from hypothesis import given
from hypothesis import strategies as st

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError
from stronglens.engine.sources import fits_units

afits = pytest.importorskip("astropy.io.fits")


def test_damaged_files(tmp_path, image_HW):
    good = stored(np.tile(image_HW, (20, 10)))
    wrong = {
        "empty": b"",
        "text": b"hello",
        "other": b"SIMPLY  =" + good[9:],
        "header": good[:1000],
        "only header": good[:2880],
        "truncated": good[:-4000],
        "garbage": good + b"x" * 50,
        "no end": good[:2880].replace(b"END ", b"ENF ") + b" " * 2880,
        "gzip": gzip.compress(good)[:-600],
        "gzip garbage": gzip.compress(good) + b"x",
        "negative": with_cards(good, NAXIS1="-9"),
        "absent": good.replace(b"NAXIS2", b"NAXIS9"),
        "bits": with_cards(good, BITPIX="17"),
        "axes": with_cards(good, NAXIS="1000"),
        "huge": with_cards(good, NAXIS1="9999999", NAXIS2="9999999"),
        "more than huge": with_cards(good, NAXIS1="9" * 20),
        "scale": with_cards(good, BSCALE="'one'"),
        "infinite": with_cards(good, BZERO="1E999"),
    }
    for name, data in wrong.items():
        assert flag_of(written(tmp_path / f"{name}.fits", data)) == Flag.MALFORMED, name


def test_what_is_behind_the_pixels_may_lack_or_be_nothing(tmp_path, image_HW):
    good = stored(image_HW)
    for k, data in enumerate(
        (good[: 2880 + 12 * 9 * 4], good + bytes(2880 * 7), good + b" " * 2880)
    ):
        np.testing.assert_array_equal(read(written(tmp_path / f"{k}.fits", data)), image_HW)


def test_bombs_take_no_memory(tmp_path):
    header = with_cards(stored(np.zeros((2, 2), "u1"))[:2880], NAXIS1="65536", NAXIS2="65536")
    path = tmp_path / "sparse.fits"
    path.write_bytes(header)
    with path.open("r+b") as file:
        file.truncate(2880 + (1 << 32))
    assert flag_of(path) == Flag.SHAPE
    zeros = gzip.compress(header + bytes(1 << 23))
    assert flag_of(written(tmp_path / "bomb.fits.gz", zeros)) in (Flag.SHAPE, Flag.MALFORMED)
    tiles = stored(afits.PrimaryHDU(), afits.CompImageHDU(np.zeros((8, 8), "i2")))
    for key in (b"ZNAXIS1", b"ZTILE1 "):
        hostile = tiles.replace(key + b" =                    8", key + b" =           9999999999")
        assert hostile != tiles
        assert flag_of(written(tmp_path / "t.fits.fz", hostile)) == Flag.SHAPE


def test_planes_that_are_only_said_to_be_there(tmp_path, rng):
    cube = rng.normal(size=(12, 5, 4)).astype("f4")
    hostile = with_cards(stored(cube), NAXIS3="999999999999")
    tiles = stored(afits.PrimaryHDU(), afits.CompImageHDU(cube.astype("i4")))
    key = b"ZNAXIS3 =                   12"
    tiled = tiles.replace(key, b"ZNAXIS3 =         999999999999")
    assert tiled != tiles
    for name, data in {
        "a.fits": hostile,
        "b.fits.gz": gzip.compress(hostile),
        "c.fz": tiled,
    }.items():
        with pytest.raises(CutoutError):
            listed(written(tmp_path / name, data))


@given(st.integers(0, 8000), st.binary(min_size=1, max_size=12))
def test_a_damaged_file_is_rejected_or_reads(tmp_path_factory, place, bytes_there):
    data = bytearray(stored(np.eye(5), named(np.eye(4), "SCI")))
    place %= len(data)
    data[place : place + len(bytes_there)] = bytes_there
    path = tmp_path_factory.getbasetemp() / "damaged.fits"
    path.write_bytes(data)
    try:
        assert read(str(path), band="SCI").ndim == 2
    except CutoutError as err:
        assert err.flag in (Flag.MALFORMED, Flag.SHAPE)


def test_more_units_than_are_read(tmp_path, image_HW, monkeypatch):
    monkeypatch.setattr(fits_units, "MAX_UNITS", 3)
    path = written(tmp_path / "a.fits", *[image_HW] * 4)
    assert flag_of(path, "1") == Flag.SHAPE
