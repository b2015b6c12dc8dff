"""Catalogues: rows as they stand in the table, from any bytes, in constant memory."""

import tracemalloc

import pytest
from catalogue_files import csv, kinds, rows
from hypothesis import given
from hypothesis import strategies as st

from stronglens.engine.batches import Column
from stronglens.engine.errors import InputError
from stronglens.engine.sources.table_csv import kind_of
from stronglens.engine.sources.tables import is_catalogue, open_catalogue

pytestmark = pytest.mark.usefixtures("folder")


def test_csv_cells_are_carried_as_they_are_written():
    path = csv(
        b'\xef\xbb\xbfra,File,note\r\n1.50,a.npy,"a, ""b""\nc"\r\n\r\n'
        b'-2e3,\xff#3,\xfe\r\n ,"=x,y", z '
    )
    assert rows(path) == [
        ("a.npy", "1.50", 'a, "b"\nc'),
        ("\udcff#3", "-2e3", "\udcfe"),
        ("=x,y", " ", " z "),
    ]
    assert kinds(path) == {"ra": "float", "note": "text"}


def test_paths_are_seen_from_the_working_folder(folder):
    (folder / "sub").mkdir()
    csv("path,z\nb/1.npy,1\n/data/2.npy,2\n,3\n", "sub/cat.csv")
    assert [row[0] for row in rows("sub/cat.csv")] == ["sub/b/1.npy", "/data/2.npy", ""]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "-2", "", "+3", " 4 "], "int"),
        (["9223372036854775807", "-9223372036854775808"], "int"),
        (["9223372036854775808"], "text"),
        (["12345678901234567890123"], "text"),
        (["007"], "text"),
        (["007", "1.5"], "text"),
        (["0", "-0"], "int"),
        (["1", "2.5", "1e5", ".5", "5.", "nan", "-Inf", "Infinity", ""], "float"),
        (["1_000"], "text"),
        (["0x10"], "text"),
        (["1\n2"], "text"),
        (["1 2"], "text"),
        (["١٢"], "text"),
        (["1", "x"], "text"),
        (["", " "], "text"),
        (["1e"], "text"),
        (["1", "-"], "text"),
        (["12345678901234567", "0.5"], "text"),
    ],
)
def test_what_kind_a_csv_column_is_of(cells, kind):
    def quoted(cell):
        return '"' + cell + '"'

    path = csv("path,x\n" + "".join(f"a.npy,{quoted(cell)}\n" for cell in cells))
    assert kinds(path) == {"x": kind}


@given(st.lists(st.text(alphabet="0123456789+-.eEnaif \n_", max_size=22), min_size=1, max_size=6))
def test_a_kind_is_what_python_can_read(cells):
    kind = kind_of(cells, "int")
    for cell in cells:
        if kind == "int" and cell.strip():
            assert -(1 << 63) <= int(cell) < 1 << 63
        if kind == "float" and cell.strip():
            float(cell)
    if kind == "text":
        with pytest.raises(ValueError, match=r"."):
            for cell in cells:
                if cell.strip(" "):
                    _strictly(cell)


def _strictly(cell):
    """Read a number, if text would not keep more of it."""
    digits = cell.strip(" ").lstrip("+-")
    if "_" in cell or "\n" in cell or (digits[:1] == "0" and digits[1:2].isdecimal()):
        raise ValueError("not a number")
    if digits.isdecimal() and len(digits) >= 17:
        raise ValueError("too long")
    float(cell)


def test_a_pattern_takes_no_time_to_fail():
    assert kind_of(["1" * 100_000 + "x"] * 3, "int") == "text"
    assert kind_of(["1." * 50_000] * 3, "int") == "text"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty file"),
        ("a,b\n1,2\n", r"0 columns of paths \(none\) among a, b; expected exactly one"),
        ("path,FILE\n1,2\n", r"2 columns of paths \(path, FILE\)"),
        ("path,a,a\n1,2,3\n", "two columns of one name"),
        ("path,a\nx.npy,1\ny.npy\n", "line 3 has 1 cells where the first line names 2"),
        ("path,a\nx.npy,1,2\n", "line 2 has 3 cells"),
        ('path,a\nx.npy,"1\n2\n', "line 3"),
        ('path,a\nx.npy,"1"2\n', "line 2"),
        ("path,a\nx.npy," + "1" * 200_000, "line 2: field larger"),
        ("path,a\nx.npy," + "1," * 600_000, "a line of more than"),
    ],
    ids=range(10),
)
def test_a_csv_file_that_is_no_catalogue(text, message):
    with pytest.raises(InputError, match=message):
        rows(csv(text))


def test_a_catalogue_that_is_not_there(folder):
    (folder / "dir.csv").mkdir()
    for path in ("absent.csv", "dir.csv"):
        assert is_catalogue(path)
        with pytest.raises(InputError, match=path):
            open_catalogue(path)
    for path in ("absent.parquet", "absent.fits", "a.npy"):
        assert not is_catalogue(path)


def test_a_long_catalogue_takes_no_more_memory():
    def peak(count):
        lines = "".join(f"cutouts/{i}.npy,{i},{i / 7}\n" for i in range(count))
        path = csv("path,number,z\n" + lines)
        del lines
        tracemalloc.start()
        assert sum(1 for _ in open_catalogue(path).entries()) == count
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10)
    assert peak(40_000) < 1.5 * peak(10_000)


def test_columns_are_all_but_the_paths():
    path = csv("z,path,name\n1,a,b\n")
    assert open_catalogue(path).columns == [Column("z", "int"), Column("name", "text")]
