"""Catalogues: rows as they stand in the table, from any bytes, in constant memory."""

import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stronglens.engine.batches import Column
from stronglens.engine.errors import InputError
from stronglens.engine.sources.table_csv import kind_of
from stronglens.engine.sources.tables import is_catalogue, open_catalogue

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
afits = pytest.importorskip("astropy.io.fits")


def rows(path):
    """The path and the carried values of each row."""
    found = open_catalogue(str(path)).entries()
    return [(each.path, *(json.loads(each.carried) if each.carried else ())) for each in found]


def kinds(path):
    return {column.name: column.kind for column in open_catalogue(str(path)).columns}


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def csv(data, name="cat.csv"):
    Path(name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return name


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


def test_paths_are_seen_from_the_working_folder(inside):
    (inside / "sub").mkdir()
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


def test_a_catalogue_that_is_not_there(inside):
    (inside / "dir.csv").mkdir()
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


COLUMNS = {
    "id": np.array([6_000_000_000_000_000_001, -2], "i8"),
    "ra": np.array([0.1, 1e-7], "f4"),
    "dec": np.array([1 / 3, 5e300], "f8"),
    "number": np.array([255, 0], "u1"),
    "seen": np.array([True, False]),
}
TEXT = {"id": ["6000000000000000001", "-2"], "ra": ["0.1", "1e-07"],
        "dec": ["0.3333333333333333", "5e+300"], "number": ["255", "0"],
        "seen": ["true", "false"]}  # fmt: skip
KINDS = {"id": "int", "ra": "float", "dec": "float", "number": "int", "seen": "text"}


def test_parquet():
    columns = {"a": COLUMNS["id"], "path": ["é.npy", "b#2"], **COLUMNS, "spectrum": [[[["x"]]]] * 2}
    pq.write_table(pa.table(columns), "cat.parquet")
    assert is_catalogue("cat.parquet")
    assert kinds("cat.parquet") == {"a": "int", **KINDS}
    expected = zip(TEXT["id"], *TEXT.values(), strict=True)
    assert [row[1:] for row in rows("cat.parquet")] == list(expected)
    assert [row[0] for row in rows("cat.parquet")] == ["é.npy", "b#2"]


def test_parquet_values_of_every_type():
    import datetime
    from decimal import Decimal

    columns = {
        "path": pa.array(["a", "b"]).dictionary_encode(),
        "word": pa.array(["x", None]).dictionary_encode(),
        "small": pa.array([1, None], pa.int8()),
        "large": pa.array([2**64 - 1, None], pa.uint64()),
        "float": pa.array([float("nan"), None]),
        "time": pa.array([datetime.datetime(2026, 1, 2, 3, 4, 5, 600), None]),
        "day": pa.array([datetime.date(2026, 1, 2), None]),
        "decimal": pa.array([Decimal("1.50"), None]),
        "null": pa.nulls(2),
        "big": pa.array(["x" * 10, ""], pa.large_string()),
    }
    pq.write_table(pa.table(columns), "cat.parquet")
    first, second = rows("cat.parquet")
    assert first == ("a", "x", "1", "18446744073709551615", "nan", "2026-01-02T03:04:05.000600",
                     "2026-01-02", "1.50", "", "x" * 10)  # fmt: skip
    assert second == ("b", *[""] * 9)
    assert kinds("cat.parquet")["large"] == kinds("cat.parquet")["decimal"] == "text"


def test_parquet_strings_that_are_not_utf8():
    raw = pa.array([b"\xff.npy"])
    text = pa.Array.from_buffers(pa.string(), 1, raw.buffers())
    pq.write_table(pa.table({"path": text, "note": text}), "cat.parquet")
    assert rows("cat.parquet") == [("\udcff.npy", "\udcff.npy")]


def test_parquet_with_cutouts_is_no_catalogue():
    pq.write_table(pa.table({"path": ["a"], "cutout": [[1.0] * 4]}), "cat.parquet")
    assert not is_catalogue("cat.parquet")
    pq.write_table(pa.table({"name": ["a"], "ra": [1.0]}), "cat.parquet")
    assert is_catalogue("cat.parquet")
    with pytest.raises(InputError, match="0 columns of paths"):
        open_catalogue("cat.parquet")
    data = Path("cat.parquet").read_bytes()
    csv(data[:-20], "cut.parquet")
    assert not is_catalogue("cut.parquet")


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


def test_columns_are_all_but_the_paths():
    path = csv("z,path,name\n1,a,b\n")
    assert open_catalogue(path).columns == [Column("z", "int"), Column("name", "text")]
