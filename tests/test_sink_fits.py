"""What other readers find in a FITS table, and that its columns get the width that they need."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from hypothesis import given
from hypothesis import strategies as st
from tiny_rows import COLUMNS, joined, rows, tables, write

from stronglens.engine.batches import Column, Flag
from stronglens.engine.errors import InputError
from stronglens.engine.sinks import Shape, open_sink, read_output


def example():
    carried = [["1.5", "-7", "aé "], ["", "", ""]]
    return rows(["a", "a longer name"], None, [0, Flag.MISSING], [0.25, np.nan], carried)


def test_astropy_reads_the_rows(tmp_path):
    path = write(tmp_path / "preds.fits", example(), COLUMNS)
    with fits.open(path) as hdus:
        hdus.verify("exception")
        assert len(hdus) == 2
        assert hdus[1].header["COMMENT"][0].startswith("in text, \\xNN is the byte NN")
        first = hdus[1].data[0]
    assert tuple(first) == ("a", 0.75, 0.25, "lens", "ok", "", 0.25, "", 1.5, -7, r"a\xc3\xa9\x20")
    table = Table.read(path)
    second = table[1]
    assert second["id"] == "a longer name"
    assert (second["status"], second["reason"]) == ("rejected", "missing")
    for name in ("p_lens", "p_nonlens", "nan_frac", "RA", "n"):
        assert table[name].mask.tolist() == [False, True]
    assert table["p_lens"].dtype == ">f4"
    assert table["id"].dtype == "S13"


@given(tables())
def test_astropy_and_we_read_the_same(tmp_path_factory, table):
    path = write(tmp_path_factory.mktemp("sink") / "preds.fits", table, COLUMNS)
    with fits.open(path, memmap=False) as hdus:
        hdus.verify("exception")
        data = hdus[1].data
        np.testing.assert_array_equal(data["p_lens"], table.prob_BK[:, 0])
        np.testing.assert_array_equal(data["nan_frac"], table.nan_frac_B)
        assert all(name.isascii() and name == name.rstrip() for name in data["id"])
    assert joined(read_output(path)).ids == table.ids


@given(st.lists(st.integers(1, 300), min_size=1, max_size=6), st.integers(0, 300))
def test_columns_become_as_wide_as_their_longest_text(tmp_path_factory, lengths, told):
    """Rows that were written narrower, or wider, are moved; more than are moved at once."""
    path = tmp_path_factory.mktemp("sink") / "preds.fits"
    table = rows([f"{i:0{length}}" for i in range(5) for length in lengths])
    cuts = range(1, len(table.ids))
    write(path, table, longest={"id": told}, cuts=cuts)
    assert joined(read_output(path)).ids == table.ids
    with fits.open(path) as hdus:
        assert hdus[1].header["TFORM1"] == f"{max(lengths)}A"
        assert hdus[1].header["TFORM7"] == "E"
        assert hdus[1].header["TFORM8"] == "1A"


@pytest.mark.parametrize("told", [0, 5, 100])
def test_more_rows_than_are_moved_at_once_are_moved(tmp_path, told):
    ids = [f"{i}.npy" for i in range(20_000)]
    table = rows([*ids, "a much longer name"])
    path = write(tmp_path / "preds.fits", table, longest={"id": told}, cuts=[7000, 20_000])
    assert joined(read_output(path)).ids == table.ids
    with fits.open(path) as hdus:
        assert hdus[1].header["TFORM1"] == "18A"


def test_names_that_fits_cannot_hold_are_escaped(tmp_path):
    path = tmp_path / "preds.fits"
    classes, name = ["Linse\N{BULLET}", "b" * 100], "größe " * 20
    with open_sink(path, Shape(classes, [Column(name, "text")], 1)) as sink:
        sink.write(rows(["a"], carried=[["x"]]))
    output = read_output(path)
    assert output.classes == classes
    assert [column.name for column in output.columns] == [name]
    with fits.open(path) as hdus:
        hdus.verify("exception")
        first, second = hdus[1].columns.names[1:3]
        assert first == r"p_Linse\xe2\x80\xa2"
        assert second == f"p_{'b' * 62}_3"
        assert hdus[1].header["TLONG3"] == "p_" + "b" * 100
        assert hdus[1].data["label"].tolist() == [r"Linse\xe2\x80\xa2"]


def test_tables_of_others_are_refused(tmp_path):
    path = tmp_path / "preds.fits"
    fits.PrimaryHDU(np.zeros((4, 4))).writeto(path)
    with pytest.raises(InputError, match="is not a whole output"):
        read_output(path)
    Table({"id": ["a"], "p_lens": [1.0]}).write(path, overwrite=True)
    with pytest.raises(
        InputError, match="columns found: id, p_lens; expected id, p_<class>, label"
    ):
        read_output(path)
    write(path, rows(["a"] * 100))
    with fits.open(path) as hdus:
        other = Table(hdus[1].data)
    other["p_lens"] = other["p_lens"].astype(float)
    other.write(path, overwrite=True)
    with pytest.raises(InputError, match="its columns are of other types"):
        read_output(path)
