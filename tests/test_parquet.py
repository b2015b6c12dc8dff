"""Parquet: each way to keep cutouts in a column is read alike; what is no cutout has its reason."""

import io
import json
import os

import cutouts
import numpy as np
import pytest
from PIL import Image

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError, InputError
from stronglens.engine.sources import parquet
from stronglens.engine.sources.entries import Choice, Entry

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
afits = pytest.importorskip("astropy.io.fits")


@pytest.fixture
def stack_NHW(rng):
    return rng.normal(size=(50, 6, 6)).astype("f4")


def written(path, columns, fields=None, **options):
    table = pa.table(columns, schema=pa.schema(fields) if fields else None)
    with pa.OSFile(os.fsencode(path), "wb") as file:
        pq.write_table(table, file, **options)
    return str(path)


def ids(path, inside="", **choice):
    return [entry.id for entry in parquet.entries(path, inside, Choice(**choice))]


def read(path, inside="", band=""):
    found = parquet.entries(path, inside, Choice(band))
    return [parquet.cutout(entry, band).read() for entry in found]


def flag_of(path, inside="0", band=""):
    return cutouts.flag_of(parquet.cutout(Entry(str(path), inside), band))


def file_bytes(image, kind):
    file = io.BytesIO()
    if kind == "npy":
        np.save(file, image)
    elif kind == "fits":
        afits.PrimaryHDU(image).writeto(file)
    else:
        Image.fromarray(image).save(file, kind)
    return file.getvalue()


def flat(stack):
    return [list(map(float, image.ravel())) for image in stack]


def as_column(stack, kind):
    """A stack as one of the columns that can hold it."""
    pixels = pa.array(stack.ravel())
    _, height, width = stack.shape
    if kind == "fixed":
        return pa.FixedSizeListArray.from_arrays(pixels, height * width)
    if kind == "fixed rows":
        rows = pa.FixedSizeListArray.from_arrays(pixels, width)
        return pa.FixedSizeListArray.from_arrays(rows, height)
    if kind == "rows":
        return pa.array(
            [list(map(list, image)) for image in stack.tolist()], pa.list_(pa.list_(pa.float32()))
        )
    if kind == "large":
        return pa.array(flat(stack), pa.large_list(pa.float32()))
    if kind == "tensor":
        return pa.FixedShapeTensorArray.from_numpy_ndarray(stack)
    if kind == "struct":
        return pa.array([{"bytes": file_bytes(image, "npy"), "path": "x"} for image in stack])
    if kind in ("npy", "fits"):
        return pa.array([file_bytes(image, kind) for image in stack])
    return pa.array(flat(stack), pa.list_(pa.float32()))


KINDS = ["fixed", "fixed rows", "rows", "flat", "large", "tensor", "struct", "npy", "fits"]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_column_is_read_alike(tmp_path, stack_NHW, kind):
    columns = {"ra": np.arange(50.0), "cutout": as_column(stack_NHW, kind)}
    path = written(tmp_path / "a.parquet", columns, row_group_size=17)
    assert ids(path) == [f"{path}#{k}" for k in range(50)]
    found = read(path)
    np.testing.assert_array_equal(found, stack_NHW)
    assert found[0].dtype.newbyteorder("=") == np.float32
    for k in (49, 3, 18, 17, 16, 0):  # in any order
        np.testing.assert_array_equal(parquet.cutout(Entry(path, str(k)), "").read(), stack_NHW[k])


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "i8", "f2", "f4", "f8"])
def test_dtypes_stay_as_they_are(tmp_path, stack_NHW, dtype):
    stack = (stack_NHW * 30).astype("i1").astype(dtype)
    path = written(tmp_path / "a.parquet", {"image": as_column(stack, "fixed")})
    found = read(path)
    np.testing.assert_array_equal(found, stack)
    assert found[0].dtype == np.dtype(dtype)


def test_many_blocks_are_read_in_order_and_out_of_it(tmp_path, stack_NHW, monkeypatch):
    monkeypatch.setattr(parquet, "ROWS_BYTES", 4 * 36 * 4)
    path = written(tmp_path / "a.parquet", {"x": as_column(stack_NHW, "fixed")}, row_group_size=20)
    np.testing.assert_array_equal(read(path), stack_NHW)
    for k in (49, 3, 18, 44, 17, 16, 0):
        np.testing.assert_array_equal(parquet.cutout(Entry(path, str(k)), "").read(), stack_NHW[k])


def test_ids_come_from_a_column(tmp_path, stack_NHW):
    names = ["a,b", 'q"', "new\nline", "étoile", "🔭", None, "", *(f"x{k}" for k in range(43))]
    for strings in (pa.array(names), pa.array(names).dictionary_encode()):
        columns = {"ID": strings, "cutout": as_column(stack_NHW, "flat"), "name": np.arange(50)}
        path = written(tmp_path / "a.parquet", columns, row_group_size=9)
        assert ids(path) == [name or f"{path}#{k}" for k, name in enumerate(names)]
    numbers = 6_000_000_000_000_000_000 + np.arange(50)
    columns = {"source_id": numbers, "cutout": as_column(stack_NHW, "flat")}
    assert ids(written(tmp_path / "b.parquet", columns)) == list(map(str, numbers))


def test_which_column(tmp_path, stack_NHW):
    cutouts = as_column(stack_NHW, "fixed")
    only = written(tmp_path / "only.parquet", {"ra": np.ones(50), "thing": cutouts})
    np.testing.assert_array_equal(read(only), stack_NHW)
    two = written(tmp_path / "two.parquet", {"a": cutouts, "b": cutouts})
    with pytest.raises(
        InputError, match=r"may hold cutouts: a, b; name one, as in .*two.parquet#a"
    ):
        ids(two)
    assert flag_of(two) == Flag.SHAPE
    assert ids(two, "b")[:2] == [f"{two}#b#0", f"{two}#b#1"]
    np.testing.assert_array_equal(read(two, "b"), stack_NHW)
    np.testing.assert_array_equal(read(two, "b#7"), stack_NHW[7:8])
    called = written(tmp_path / "called.parquet", {"psf": cutouts, "Image": cutouts})
    np.testing.assert_array_equal(read(called), stack_NHW)
    none = written(tmp_path / "none.parquet", {"ra": np.ones(50), "name": ["x"] * 50})
    with pytest.raises(InputError, match="no column of cutouts among ra, name"):
        ids(none)
    assert flag_of(two, "c#0") == flag_of(two, "b#50") == Flag.MISSING
    with pytest.raises(CutoutError, match="no column c"):
        ids(two, "c")


def test_shapes(tmp_path, stack_NHW):
    wide = stack_NHW.reshape(50, 4, 9)
    kind = as_column(wide, "flat")
    field = pa.field("cutout", kind.type, metadata={"shape": json.dumps([4, 9])})
    np.testing.assert_array_equal(read(written(tmp_path / "a.parquet", [kind], [field])), wide)
    square = read(written(tmp_path / "b.parquet", {"cutout": kind}))
    np.testing.assert_array_equal(square, stack_NHW)
    for text in ("[5, 9]", "[4", "[-4, -9]", "4", "[" * 5000):
        wrong = pa.field("cutout", kind.type, metadata={"shape": text})
        found = flag_of(written(tmp_path / "c.parquet", [kind], [wrong]))
        assert found == (Flag.SHAPE if text == "[5, 9]" else Flag.MALFORMED)


def test_bands(tmp_path, rng):
    cubes = rng.normal(size=(4, 3, 6, 5)).astype("f4")
    columns = {"cutout": pa.FixedShapeTensorArray.from_numpy_ndarray(cubes)}
    path = written(tmp_path / "a.parquet", columns)
    np.testing.assert_array_equal(read(path, band="2"), cubes[:, 2])
    assert flag_of(path, band="3") == Flag.SHAPE
    file = io.BytesIO()
    afits.HDUList([afits.PrimaryHDU(), afits.ImageHDU(cubes[0, 1], name="SCI"),
                   afits.ImageHDU(cubes[0, 2])]).writeto(file)  # fmt: skip
    path = written(tmp_path / "b.parquet", {"cutout": [file.getvalue()]})
    np.testing.assert_array_equal(read(path, band="sci"), cubes[:1, 1])
    assert flag_of(path) == Flag.SHAPE


def test_cells_that_are_no_cutout(tmp_path):
    cells = [[1.0, 2.0, None, 4.0], None, [], [1.0] * 7, [1.0] * 4]
    path = written(tmp_path / "a.parquet", {"cutout": cells})
    np.testing.assert_array_equal(
        parquet.cutout(Entry(path, "0"), "").read(), [[1, 2], [np.nan, 4]]
    )
    assert [flag_of(path, k) for k in "123"] == [Flag.MISSING, Flag.SHAPE, Flag.SHAPE]
    whole = written(tmp_path / "i.parquet", {"cutout": [[1, 2, None, 4]]})
    np.testing.assert_array_equal(read(whole), [[[1, 2], [np.nan, 4]]])
    ragged = written(tmp_path / "r.parquet", {"cutout": [[[1.0, 2], [3]], [[1.0], None], [[], []]]})
    assert [flag_of(ragged, k) for k in "012"] == [Flag.SHAPE] * 3
    data = [b"", b"hello", file_bytes(np.eye(4), "npy")[:-1], None, file_bytes(np.eye(3), "npy")]
    pictures = written(tmp_path / "p.parquet", {"cutout": data})
    expected = [Flag.MALFORMED, Flag.MALFORMED, Flag.MALFORMED, Flag.MISSING]
    assert [flag_of(pictures, k) for k in "0123"] == expected
    np.testing.assert_array_equal(parquet.cutout(Entry(pictures, "4"), "").read(), np.eye(3))
    words = written(tmp_path / "w.parquet", {"cutout": [["a", "b"]], "number": [1.5]})
    assert flag_of(words, "cutout#0") == flag_of(words, "number#0") == Flag.DTYPE


def test_pictures(tmp_path):
    grey = np.arange(64, dtype="u1").reshape(8, 8)
    path = written(tmp_path / "a.parquet", {"image": [{"bytes": file_bytes(grey, "PNG")}]})
    np.testing.assert_array_equal(read(path), grey[None])


def test_what_is_no_parquet_file(tmp_path, stack_NHW):
    good = written(tmp_path / "good.parquet", {"cutout": as_column(stack_NHW, "flat")})
    data = (tmp_path / "good.parquet").read_bytes()
    for name, content in {"empty": b"", "text": b"hello" * 9, "cut": data[:-300]}.items():
        path = tmp_path / f"{name}.parquet"
        path.write_bytes(content)
        assert flag_of(path) == Flag.MALFORMED
        with pytest.raises(CutoutError):
            ids(str(path))
    assert flag_of(tmp_path / "absent.parquet") == Flag.MISSING
    assert flag_of(tmp_path) == Flag.UNREADABLE
    assert flag_of(good, "") == Flag.SHAPE


def test_a_damaged_row_group_costs_only_its_cutouts(tmp_path, stack_NHW):
    columns = {"cutout": as_column(stack_NHW, "fixed")}
    path = tmp_path / "a.parquet"
    written(path, columns, row_group_size=10, compression="zstd", use_dictionary=False)
    place = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[place : place + 200] = b"\xff" * 200
    path.write_bytes(data)
    assert flag_of(path, "10") == flag_of(path, "19") == Flag.MALFORMED
    for k in (0, 9, 20, 49):
        np.testing.assert_array_equal(
            parquet.cutout(Entry(str(path), str(k)), "").read(), stack_NHW[k]
        )


def test_names_are_only_names(tmp_path, stack_NHW, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("s3:a.parquet", "file:b.parquet", "c?.parquet", "\udcff.parquet"):
        written(name, {"cutout": as_column(stack_NHW, "flat")})
        np.testing.assert_array_equal(read(name, "3"), stack_NHW[3:4])
    assert flag_of("s3://bucket/a.parquet") == Flag.MISSING


def test_more_files_than_are_kept_open(tmp_path, stack_NHW):
    paths = [
        written(tmp_path / f"{k}.parquet", {"cutout": as_column(stack_NHW[:3] + k, "fixed")})
        for k in range(40)
    ]
    for _ in range(2):
        for k, path in enumerate(paths):
            np.testing.assert_array_equal(read(path, "2")[0], stack_NHW[2] + k)
