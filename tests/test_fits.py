"""FITS is read as astropy reads it; what is wrong with a file has its reason."""

import gzip
import io
import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError, InputError
from stronglens.engine.sources import fits, fits_units
from stronglens.engine.sources.entries import Choice, Entry

afits = pytest.importorskip("astropy.io.fits")

DTYPES = ["u1", "i2", "i4", "i8", "f4", "f8", "i1", "u2", "u4", "u8"]


@pytest.fixture
def image_HW(rng):
    return rng.normal(size=(12, 9)).astype("f4")


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
    with pytest.raises(CutoutError) as caught:
        read(str(path), inside, band)
    return caught.value.flag


def listed(path, inside="", **choice):
    found = fits.entries(path, inside, Choice(**choice))
    return None if found is None else [entry.inside for entry in found]


@given(
    st.sampled_from(DTYPES).flatmap(
        lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6))
    )
)
def test_what_astropy_writes_is_read_alike(tmp_path_factory, image):
    path = tmp_path_factory.getbasetemp() / "hypothesis.fits"
    found = read(written(path, image))
    assert found.dtype.newbyteorder("=") == image.dtype
    np.testing.assert_array_equal(found, image)


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


def test_more_units_than_are_read(tmp_path, image_HW, monkeypatch):
    monkeypatch.setattr(fits_units, "MAX_UNITS", 3)
    path = written(tmp_path / "a.fits", *[image_HW] * 4)
    assert flag_of(path, "1") == Flag.SHAPE


def test_cutouts_of_a_survey(shared_data, tmp_path):
    images = np.load(shared_data / "data" / "ps1_lenses_iband_100.npz")
    stack = next(images[name] for name in images.files if images[name].ndim == 3)
    for k in range(5):
        found = read(written(tmp_path / f"{k}.fits", stack[k]))
        np.testing.assert_array_equal(found, stack[k])
        assert math.prod(found.shape) == stack[k].size
