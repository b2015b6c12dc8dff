"""FITS is read as astropy reads it, wherever in the file the image is."""

import gzip
import io
import math

import numpy as np
import pytest
from fits_files import flag_of, listed, named, read, stored, with_cards, written
from hypothesis import given
from nasty import images

from stronglens.engine.batches import Flag
from stronglens.engine.errors import InputError

afits = pytest.importorskip("astropy.io.fits")

DTYPES = ["u1", "i2", "i4", "i8", "f4", "f8", "i1", "u2", "u4", "u8"]


@given(images(DTYPES, square=False))
def test_what_astropy_writes_is_read_alike(tmp_path_factory, image):
    path = tmp_path_factory.getbasetemp() / "hypothesis.fits"
    found = read(written(path, image))
    assert found.dtype.newbyteorder("=") == image.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found.reshape(image.shape), image)


@pytest.mark.parametrize("blank", [None, -7])
@pytest.mark.parametrize(("scale", "zero"), [(1, 0), (0.5, 0), (2.5e-3, 100), (1, 5)])
@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "i8", "f4", "f8"])
def test_scaled_values_are_what_astropy_makes_of_them(tmp_path, dtype, scale, zero, blank):
    raw = (np.arange(108).reshape(12, 9) % 50 + (7 if dtype == "u1" else -20)).astype(dtype)
    blank = 7 if dtype == "u1" and blank else blank
    unit = afits.PrimaryHDU(raw)
    data = stored(unit)
    cards = {b"BSCALE": scale, b"BZERO": zero}
    if blank is not None and raw.dtype.kind in "iu":
        cards[b"BLANK"] = blank
    data = with_cards(data, **{key.decode(): str(value) for key, value in cards.items()})
    with afits.open(io.BytesIO(data)) as file:
        expected = file[0].data
    found = read(written(tmp_path / "a.fits", data))
    np.testing.assert_array_equal(found, expected)
    if blank is not None and raw.dtype.kind in "iu":
        np.testing.assert_array_equal(np.isnan(found), raw == blank)
    else:
        assert found.dtype.newbyteorder("=") == expected.dtype.newbyteorder("=")


@pytest.mark.parametrize("ending", ["fits", "fits.gz"])
def test_the_one_image_is_found_wherever_it_is(tmp_path, image_HW, ending):
    table = afits.BinTableHDU.from_columns([afits.Column("a", "J", array=[1, 2])])
    files = {
        "primary": (image_HW,),
        "second": (afits.PrimaryHDU(), image_HW),
        "third": (afits.PrimaryHDU(), table, named(image_HW, "SCI")),
        "before": (image_HW, table),
        "deep": (image_HW[None, None],),
    }
    for name, units in files.items():
        data = stored(*units)
        data = gzip.compress(data) if ending.endswith("gz") else data
        path = written(tmp_path / f"{name}.{ending}", data)
        assert listed(path) is None
        np.testing.assert_array_equal(read(path), image_HW)


def test_several_images(tmp_path, image_HW):
    path = written(
        tmp_path / "a.fits", afits.PrimaryHDU(), named(image_HW, "SCI"), named(image_HW + 1, "WHT")
    )
    with pytest.raises(InputError, match=r"2 images: 1 SCI, 2 WHT; --band .*--stack"):
        listed(path)
    assert listed(path, stacked=True) == ["1", "2"]
    assert listed(path, band="SCI") is None
    assert listed(path, "WHT") == ["WHT"]
    for number, name in (("1", "sci"), ("2", "WHT")):
        expected = image_HW if number == "1" else image_HW + 1
        np.testing.assert_array_equal(read(path, number), expected)
        np.testing.assert_array_equal(read(path, name), expected)
        np.testing.assert_array_equal(read(path, band=name), expected)
        np.testing.assert_array_equal(read(path, band=number), expected)
    for wrong in ("0", "3", "MASK", "-1", "²"):
        assert flag_of(path, wrong) == flag_of(path, band=wrong) == Flag.SHAPE
    assert flag_of(path) == Flag.SHAPE


def test_cubes(tmp_path, rng):
    cube = rng.normal(size=(12, 5, 4)).astype("f4")
    many, few = written(tmp_path / "many.fits", cube), written(tmp_path / "few.fits", cube[:3])
    assert listed(many) == [str(k) for k in range(12)]
    assert listed(many, band="1") is None
    with pytest.raises(InputError, match=r"\(3, 5, 4\).*--band K.*--stack"):
        listed(few)
    assert listed(few, stacked=True) == ["0", "1", "2"]
    np.testing.assert_array_equal([read(many, str(k)) for k in range(12)], cube)
    np.testing.assert_array_equal(read(few, band="2"), cube[2])
    assert flag_of(few, "3") == flag_of(few, band="3") == flag_of(few) == Flag.SHAPE
    assert flag_of(few, "1#1") == Flag.SHAPE
    two = written(tmp_path / "two.fits", cube[0], named(cube, "SCI"))
    assert listed(two, stacked=True) == ["0", *(f"1#{k}" for k in range(12))]
    np.testing.assert_array_equal(read(two, "1#7"), cube[7])
    np.testing.assert_array_equal(read(two, "SCI#7"), cube[7])
    np.testing.assert_array_equal(read(two, "SCI", band="1"), cube[..., 1])
    assert flag_of(two, "SCI") == Flag.SHAPE


def test_without_an_image(tmp_path):
    table = afits.BinTableHDU.from_columns([afits.Column("a", "J", array=[1, 2])])
    bare = written(tmp_path / "bare.fits", afits.PrimaryHDU())
    spectrum = written(tmp_path / "spectrum.fits", np.ones(10))
    only_table = written(tmp_path / "table.fits", afits.PrimaryHDU(), table)
    assert listed(bare) is None
    assert listed(only_table) == []
    for path in (bare, spectrum, only_table):
        assert flag_of(path) == Flag.SHAPE


def test_names_are_only_names(tmp_path, image_HW, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "a.fits[1]",
        "!b.fits",
        "|c.fits",
        "http:d.fits",
        "e.fits+1",
        "-.fits",
        "\udcff.fits",
    ):
        (tmp_path / name).write_bytes(stored(image_HW))
        np.testing.assert_array_equal(read(name), image_HW)
    assert flag_of("absent.fits[1]") == flag_of("a\0b.fits") == Flag.MISSING
    assert flag_of(tmp_path) == Flag.UNREADABLE


def test_cutouts_of_a_survey(shared_data, tmp_path):
    images = np.load(shared_data / "data" / "ps1_lenses_iband_100.npz")
    stack = next(images[name] for name in images.files if images[name].ndim == 3)
    for k in range(5):
        found = read(written(tmp_path / f"{k}.fits", stack[k]))
        np.testing.assert_array_equal(found, stack[k])
        assert math.prod(found.shape) == stack[k].size
