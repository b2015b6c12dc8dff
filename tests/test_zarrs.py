"""Zarr stores of both formats: chunks that are absent are missing, not zero; no codec runs code."""

import json
import pickle
import warnings

import cutouts
import numpy as np
import pytest

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError, InputError
from stronglens.engine.sources import open_source, zarrs
from stronglens.engine.sources.entries import Choice, Entry

zarr = pytest.importorskip("zarr")


@pytest.fixture
def stack_NHW(rng):
    return rng.normal(size=(10, 6, 5)).astype("f4")


@pytest.fixture(params=[2, 3])
def version(request):
    return request.param


def written(path, version, **arrays):
    """Write a store; a dict as an array gives the arguments of create_array."""
    group = zarr.open_group(path, mode="w", zarr_format=version)
    for name, each in arrays.items():
        options = each if isinstance(each, dict) else {"data": each}
        with warnings.catch_warnings():  # strings of fixed length in format 3
            warnings.simplefilter("ignore", zarr.errors.UnstableSpecificationWarning)
            group.create_array(name.replace("__", "/"), **options)
    return str(path)


def ids(path, inside="", **choice):
    return [entry.id for entry in zarrs.entries(path, inside, Choice(**choice))]


def read(path, inside="", band=""):
    found = zarrs.entries(path, inside, Choice(band))
    return [zarrs.cutout(entry, band).read() for entry in found]


def flag_of(path, inside="0", band=""):
    return cutouts.flag_of(zarrs.cutout(Entry(str(path), inside), band))


def edited(path, change):
    """Alter the metadata of an array."""
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


@pytest.mark.parametrize("dtype", ["f4", ">f4", "i2", "u1", "f8", "bool"])
@pytest.mark.parametrize("chunks", [(1, 6, 5), (4, 6, 5), (3, 4, 2)])
def test_what_zarr_writes_is_read_alike(tmp_path, stack_NHW, version, dtype, chunks):
    stack = (stack_NHW * 30).astype(dtype)
    path = written(tmp_path / "a.zarr", version, images={"data": stack, "chunks": chunks})
    assert ids(path) == [f"{path}#{k}" for k in range(10)]
    found = read(path)
    np.testing.assert_array_equal(found, stack)
    assert found[0].dtype == (np.dtype(dtype) if version == 2 else stack.dtype.newbyteorder("="))


def test_a_store_that_is_one_array(tmp_path, stack_NHW, version):
    path = str(tmp_path / "a.zarr")
    zarr.create_array(path, data=stack_NHW, chunks=(2, 6, 5), zarr_format=version)
    np.testing.assert_array_equal(read(path), stack_NHW)
    np.testing.assert_array_equal(read(path, "7"), stack_NHW[7:8])


@pytest.mark.parametrize("separator", [".", "/"])
def test_names_of_chunks(tmp_path, stack_NHW, version, separator):
    encoding = {"name": "v2" if version == 2 else "default", "separator": separator}
    options = {"data": stack_NHW, "chunks": (2, 3, 5), "chunk_key_encoding": encoding}
    np.testing.assert_array_equal(
        read(written(tmp_path / "a.zarr", version, images=options)), stack_NHW
    )


@pytest.mark.parametrize("location", ["start", "end"])
def test_shards(tmp_path, stack_NHW, location):
    path = str(tmp_path / "a.zarr")
    from zarr.codecs import ShardingCodec

    codec = ShardingCodec(chunk_shape=(2, 3, 5), index_location=location)
    array = zarr.create_array(
        path, shape=(10, 6, 5), chunks=(4, 6, 5), dtype="f4", serializer=codec, compressors=None
    )
    array[:3] = stack_NHW[:3]
    array[4:7, :3] = stack_NHW[4:7, :3]
    found = [zarrs.cutout(Entry(path, str(k)), "").read() for k in range(2)]
    np.testing.assert_array_equal(found, stack_NHW[:2])
    assert [flag_of(path, str(k)) for k in (4, 5, 6, 7, 8, 9)] == [Flag.MISSING] * 6


@pytest.mark.parametrize("kind", ["i8", "U9", "S9", "O"])
def test_ids_are_taken_from_beside_the_images(tmp_path, stack_NHW, version, kind):
    numbers = np.arange(10) + 6_000_000_000
    names = numbers if kind == "i8" else np.array([f"é{n % 100}" for n in numbers])
    names = np.char.encode(names, "utf-8") if kind == "S9" else names
    column = names.astype(object) if kind == "O" else names.astype(kind)
    options = {"shape": (10,), "dtype": str} if kind == "O" else {"data": column}
    path = written(tmp_path / "a.zarr", version, g__images=stack_NHW, g__Object_ID=options)
    if kind == "O":
        zarr.open_array(f"{path}/g/Object_ID")[:] = column
    expected = [n.decode() if isinstance(n, bytes) else str(n) for n in names.tolist()]
    assert ids(path) == expected
    np.testing.assert_array_equal(read(path), stack_NHW)


def test_one_of_several_arrays_has_to_be_named(tmp_path, stack_NHW, version):
    path = written(tmp_path / "a.zarr", version, images=stack_NHW, group__masks=stack_NHW > 0)
    with pytest.raises(
        InputError, match=r"group/masks \(10×6×5 bool\), images .*a.zarr#/group/masks"
    ):
        ids(path)
    assert flag_of(path) == Flag.SHAPE
    assert ids(path, "/images")[:2] == [f"{path}#/images#0", f"{path}#/images#1"]
    np.testing.assert_array_equal(read(path, "/images"), stack_NHW)
    np.testing.assert_array_equal(read(path, "images#7"), stack_NHW[7:8])
    assert flag_of(path, "images#10") == flag_of(path, "absent#1") == Flag.MISSING
    assert flag_of(path, "../a.zarr/images#1") == Flag.MISSING


def test_axes_and_bands(tmp_path, rng, version):
    cubes = rng.normal(size=(4, 3, 6, 5))
    path = written(tmp_path / "a.zarr", version, images=cubes)
    with pytest.raises(InputError, match="--band"):
        ids(path)
    np.testing.assert_array_equal(read(path, band="2"), cubes[:, 2])
    one = written(tmp_path / "b.zarr", version, images=cubes[0])
    np.testing.assert_array_equal(read(one, band="1"), cubes[:1, 1])
    flat = written(tmp_path / "c.zarr", version, image=cubes[0, 0])
    assert ids(flat) == [flat]
    np.testing.assert_array_equal(read(flat), cubes[:1, 0])


@pytest.mark.parametrize("fill", [0, np.nan])
def test_an_absent_chunk_is_missing(tmp_path, version, fill):
    options = {"shape": (10, 6, 6), "chunks": (2, 3, 3), "dtype": "f4", "fill_value": fill}
    path = written(tmp_path / "a.zarr", version, images=options)
    array = zarr.open_array(f"{path}/images")
    array[:4] = 1
    array[6:8, :3] = 1  # half of each cutout
    assert [flag_of(path, str(k)) for k in range(4, 10)] == [Flag.MISSING] * 6
    np.testing.assert_array_equal(read(path, "3"), np.ones((1, 6, 6)))
    whole = written(
        tmp_path / "b.zarr", version, image={**options, "shape": (6, 6), "chunks": (3, 3)}
    )
    assert flag_of(whole, "") == Flag.MISSING


@pytest.mark.parametrize("codec", [None, "auto", "blosc", "zstd", "gzip", "lz4"])
def test_a_damaged_chunk_costs_only_its_cutouts(tmp_path, stack_NHW, version, codec):
    numcodecs = pytest.importorskip("numcodecs")
    if version == 3 and codec == "lz4":
        pytest.skip("zarr has no lz4 in format 3")
    codecs = {"blosc": zarr.codecs.BloscCodec, "zstd": zarr.codecs.ZstdCodec,
              "gzip": zarr.codecs.GzipCodec} if version == 3 else {
              "blosc": numcodecs.Blosc, "zstd": numcodecs.Zstd,
              "gzip": numcodecs.GZip, "lz4": numcodecs.LZ4}  # fmt: skip
    compressors = codecs[codec]() if codec in codecs else codec
    images = {"data": stack_NHW, "chunks": (2, 6, 5), "compressors": compressors}
    path = written(tmp_path / "a.zarr", version, images=images)
    chunk = tmp_path / "a.zarr" / "images" / ("1.0.0" if version == 2 else "c/1/0/0")
    good = chunk.read_bytes()
    for damaged in (b"", good[:5], good[:20], good[:-20], b"\xff" * 40):
        chunk.write_bytes(damaged)
        assert flag_of(path, "2") == flag_of(path, "3") == Flag.MALFORMED
        np.testing.assert_array_equal(read(path, "1")[0], stack_NHW[1])
        np.testing.assert_array_equal(read(path, "4")[0], stack_NHW[4])
    chunk.write_bytes(good + bytes(1 << 18))
    assert flag_of(path, "2") == Flag.MALFORMED


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_nothing_is_unpickled(tmp_path, stack_NHW):
    path = written(tmp_path / "a.zarr", 2, images=stack_NHW, ids={"data": np.arange(10)})
    for name in ("images", "ids"):
        folder = tmp_path / "a.zarr" / name
        edited(folder / ".zarray", lambda fields: fields.update(filters=[{"id": "pickle"}]))
        for chunk in folder.glob("[0-9]*"):
            chunk.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="no array"):
        ids(path)
    assert flag_of(path, "images#0") == Flag.UNREADABLE


@pytest.mark.parametrize("codec", ["pickle", "numcodecs.pickle", "own"])
def test_a_codec_that_is_not_known_in_format_3(tmp_path, stack_NHW, codec):
    path = written(
        tmp_path / "a.zarr",
        3,
        images={"data": stack_NHW, "shards": (10, 6, 5), "chunks": (1, 6, 5)},
    )

    def change(fields):
        fields["codecs"][0]["configuration"]["codecs"][1] = {"name": codec, "configuration": {}}

    edited(tmp_path / "a.zarr" / "images" / "zarr.json", change)
    assert flag_of(path, "images#0") == Flag.UNREADABLE


def test_huge_shapes_take_no_memory(tmp_path, version):
    for name, shape, chunks in (
        ("cutout", (2, 1 << 20, 1 << 20), (1, 64, 64)),
        ("chunk", (1 << 20, 64, 64), (1 << 17, 64, 64)),
        ("tiny", (2, 4096, 4096), (1, 1, 1)),
    ):
        options = {"shape": shape, "chunks": chunks, "dtype": "f8"}
        assert flag_of(written(tmp_path / f"{name}.zarr", version, images=options)) == Flag.SHAPE
    many = written(
        tmp_path / "many.zarr", version, images={"shape": (1 << 40, 4, 4), "dtype": "f4"}
    )
    with pytest.raises(CutoutError, match="cutouts"):
        ids(many)


def test_damaged_metadata(tmp_path, stack_NHW, version):
    path = written(tmp_path / "a.zarr", version, images=stack_NHW)
    file = tmp_path / "a.zarr" / "images" / (".zarray" if version == 2 else "zarr.json")
    good = file.read_text()
    for text in ("", "{", "[]", "[" * 100_000, good.replace('"shape"', '"form"')):
        file.write_text(text)
        assert flag_of(path, "images#0") in (Flag.MALFORMED, Flag.MISSING)
    edits = {"shape": [-10, 6, 5], "codecs": 4, "compressor": 4, "data_type": [], "dtype": "f3"}
    for key, value in edits.items():
        file.write_text(good)
        if key in json.loads(good):
            edited(file, lambda fields, key=key, value=value: fields.update({key: value}))
            assert flag_of(path, "images#0") in (Flag.MALFORMED, Flag.DTYPE)


def test_what_is_no_store(tmp_path):
    (tmp_path / "file.zarr").write_bytes(b"hello")
    (tmp_path / "folder.zarr").mkdir()
    expected = {"absent": Flag.MISSING, "file": Flag.MISSING, "folder": Flag.MALFORMED}
    for name, flag in expected.items():
        assert flag_of(tmp_path / f"{name}.zarr") == flag
        with pytest.raises(CutoutError):
            ids(str(tmp_path / f"{name}.zarr"))
    with pytest.raises(InputError, match="it is empty"):
        ids(written(tmp_path / "bare.zarr", 3))


def test_a_store_that_is_written_anew(tmp_path, stack_NHW, version):
    for k in range(3):
        path = written(tmp_path / "a.zarr", version, images={"data": stack_NHW + k})
        np.testing.assert_array_equal(read(path, "3")[0], stack_NHW[3] + k)


def test_a_store_may_be_named_with_a_slash_behind(tmp_path):
    store = zarr.open(tmp_path / "a.zarr", mode="w", shape=(2, 4, 4), chunks=(1, 4, 4), dtype="f4")
    store[:] = np.arange(32).reshape(2, 4, 4)
    plain, slashed = (open_source([f"{tmp_path}/a.zarr{end}"]) for end in ("", "/"))
    assert [each.id for each in slashed] == [each.id for each in plain]
    assert len(slashed) == 2
