"""Tile-compressed FITS is read as astropy reads it, and takes no more memory than its pixels."""

import gzip
import io
import sys

import numpy as np
import pytest
from fits_files import flag_of, listed, read, stored, written

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError, InputError

afits = pytest.importorskip("astropy.io.fits")


@pytest.mark.parametrize("kind", ["RICE_1", "GZIP_1", "GZIP_2", "HCOMPRESS_1"])
@pytest.mark.parametrize("dtype", ["i2", "f4", "u2", "i4"])
def test_tile_compressed(tmp_path, rng, dtype, kind):
    image = (rng.normal(size=(40, 30)) * 100 + 500).astype(dtype)
    unit = afits.CompImageHDU(image, compression_type=kind, name="SCI")
    unit.header["HIERARCH odd key"] = "what astropy would warn of"
    data = stored(afits.PrimaryHDU(), unit)
    with afits.open(io.BytesIO(data)) as file:
        expected = file[1].data
    path = written(tmp_path / "a.fits.fz", data)
    assert listed(path) is None
    np.testing.assert_array_equal(read(path), expected)
    np.testing.assert_array_equal(read(path, band="SCI"), expected)


def test_tile_compressed_blanks_are_nan(tmp_path, rng):
    image = (rng.normal(size=(40, 30)) * 100).astype("f4")
    image[3:5, 7:20] = np.nan
    path = written(tmp_path / "a.fits.fz", afits.PrimaryHDU(), afits.CompImageHDU(image))
    np.testing.assert_array_equal(np.isnan(read(path)), np.isnan(image))
    blank = afits.CompImageHDU(np.arange(1200, dtype="i2").reshape(40, 30))
    blank.header["BLANK"] = 5
    assert np.isnan(read(written(tmp_path / "b.fits.fz", afits.PrimaryHDU(), blank))).sum() == 1


def test_tile_compressed_without_astropy(tmp_path, image_HW, monkeypatch):
    path = written(tmp_path / "a.fits.fz", afits.PrimaryHDU(), afits.CompImageHDU(image_HW))
    plain = written(tmp_path / "a.fits", image_HW)
    monkeypatch.setitem(sys.modules, "astropy.io", None)
    monkeypatch.delitem(sys.modules, "astropy.io.fits")
    with pytest.raises(InputError, match=r"astropy: pip install 'stronglens\[formats\]'"):
        listed(path)
    assert flag_of(path) == Flag.UNREADABLE
    np.testing.assert_array_equal(read(plain), image_HW)


def test_a_compressed_cube(tmp_path, rng):
    cube = (rng.normal(size=(12, 20, 10)) * 100).astype("i4")
    path = written(tmp_path / "a.fits.fz", afits.PrimaryHDU(), afits.CompImageHDU(cube))
    assert listed(path) == [str(k) for k in range(12)]
    np.testing.assert_array_equal([read(path, str(k)) for k in range(12)], cube)


def test_a_gzipped_tile_that_expands_for_ever(tmp_path):
    image = np.arange(6400, dtype="i2").reshape(80, 80)
    unit = afits.CompImageHDU(image, compression_type="GZIP_1", tile_shape=(80, 80))
    data = stored(afits.PrimaryHDU(), unit)
    np.testing.assert_array_equal(read(written(tmp_path / "good.fits.fz", data)), image)
    place, bomb = data.index(b"\x1f\x8b"), gzip.compress(bytes(1 << 20))
    assert len(bomb) < len(data) - place
    hostile = data[:place] + bomb + data[place + len(bomb) :]
    with pytest.raises(CutoutError, match="tile"):
        read(written(tmp_path / "bomb.fits.fz", hostile))
