"""Catalogues in FITS: rows as they stand in the table."""

import os
from pathlib import Path

import numpy as np
import pytest
from catalogue_files import COLUMNS, KINDS, TEXT, csv, kinds, rows

from stronglens.engine.errors import InputError
from stronglens.engine.sources.tables import is_catalogue, open_catalogue

afits = pytest.importorskip("astropy.io.fits")
pytestmark = pytest.mark.usefixtures("folder")


def fits_table(name, *columns, **cards):
    table = afits.BinTableHDU.from_columns(
        [afits.Column(*each[:2], array=each[2]) for each in columns]
    )
    table.header.update(cards)
    afits.HDUList([afits.PrimaryHDU(), table]).writeto(name, overwrite=True)
    return name


def test_fits():
    path = fits_table(
        "cat.fits",
        ("a", "K", COLUMNS["id"]),
        ("PATH", "7A", ["a.npy", "dir/b"]),
        *((name, code, COLUMNS[name]) for name, code in zip(COLUMNS, "KEDBL", strict=True)),
        ("vector", "3E", np.zeros((2, 3))),
        ("complex", "M", np.zeros(2)),
        ("bits", "3X", np.zeros((2, 3), bool)),
        ("lists", "PE()", [np.ones(2), np.ones(3)]),
    )
    assert is_catalogue(path)
    assert kinds(path) == {"a": "int", **KINDS}
    expected = zip(["a.npy", "dir/b"], TEXT["id"], *TEXT.values(), strict=True)
    assert rows(path) == list(expected)


def test_fits_values_that_are_none_or_scaled():
    unsigned = afits.Column("u8", "K", bzero=2**63, array=np.array([2**64 - 1, 0], "u8"))
    columns = [
        afits.Column("file", "4A", array=["x", "y"]),
        afits.Column("null", "J", null=-9, array=np.array([-9, 7])),
        afits.Column("nan", "E", array=np.array([np.nan, 1])),
        afits.Column("u2", "I", bzero=2**15, array=np.array([65535, 0], "u2")),
        unsigned,
        afits.Column("scaled", "I", array=np.array([1, 2])),
        afits.Column("word", "5A", array=np.array([b"", b" a b "])),
    ]
    table = afits.BinTableHDU.from_columns(columns)
    afits.HDUList([afits.PrimaryHDU(), table]).writeto("cat.fits")
    afits.setval("cat.fits", "TSCAL6", value=0.5, ext=1)
    afits.setval("cat.fits", "TZERO6", value=1.0, ext=1)
    assert rows("cat.fits") == [
        ("x", "", "", "65535", str(2**64 - 1), "1.5", ""),
        ("y", "7", "1.0", "0", "0", "2.0", " a b"),
    ]
    assert [*kinds("cat.fits").values()] == ["int", "float", "int", "text", "float", "text"]


def test_fits_tables_longer_than_a_block():
    count = 30_000
    names = [f"{i}.npy" for i in range(count)]
    path = fits_table("cat.fits", ("path", "40A", names), ("i", "J", np.arange(count)))
    assert rows(path) == [(name, str(i)) for i, name in enumerate(names)]
    os.truncate(path, 500_000)
    with pytest.raises(InputError, match="truncated"):
        rows(path)


def test_fits_with_an_image_is_no_catalogue():
    afits.PrimaryHDU(np.eye(4)).writeto("image.fits")
    assert not is_catalogue("image.fits")
    csv("hello", "text.fits")
    assert not is_catalogue("text.fits")
    assert is_catalogue(fits_table("bare.fits", ("name", "4A", ["x"])))
    with pytest.raises(InputError, match="0 columns of paths"):
        open_catalogue("bare.fits")


@pytest.mark.parametrize("cards", [{"TFORM1": "9A"}, {"TFORM1": "hello"}, {"TFIELDS": 5}])
def test_fits_headers_that_contradict_themselves(cards):
    path = fits_table("cat.fits", ("path", "8A", ["x"]), ("i", "J", [1]))
    data = Path(path).read_bytes()
    for key, value in cards.items():
        place = data.index(key.ljust(8).encode() + b"=")
        text = f"'{value:8}'" if isinstance(value, str) else f"{value:20}"
        data = data[:place] + f"{key:8}= {text}".ljust(80).encode() + data[place + 80 :]
    csv(data, path)
    with pytest.raises(InputError, match="cannot read this catalogue"):
        open_catalogue(path)
