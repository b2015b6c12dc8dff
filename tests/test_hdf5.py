"""HDF5: the cutouts of one dataset, by number or id; what cannot be had has its reason."""

import cutouts
import numpy as np
import pytest

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError, InputError
from stronglens.engine.sources import hdf5
from stronglens.engine.sources.entries import Choice, Entry

h5py = pytest.importorskip("h5py")


@pytest.fixture
def stack_NHW(rng):
    return rng.normal(size=(10, 6, 5)).astype("f4")


def written(path, **datasets):
    """Write a file; a dict as a dataset gives the arguments of create_dataset."""
    with h5py.File(path, "w") as file:
        for name, each in datasets.items():
            options = each if isinstance(each, dict) else {"data": each}
            file.create_dataset(name.replace("__", "/"), **options)
    return str(path)


def read(path, inside="", band="", choice=None):
    found = hdf5.entries(path, inside, choice or Choice(band))
    return [hdf5.cutout(entry, band).read() for entry in found]


def ids(path, inside="", choice=None):
    return [entry.id for entry in hdf5.entries(path, inside, choice or Choice())]


def flag_of(path, inside="", band=""):
    return cutouts.flag_of(hdf5.cutout(Entry(str(path), inside), band))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": (1, 6, 5)},
        {"chunks": (4, 6, 5), "compression": "gzip", "shuffle": True},
        {"chunks": (3, 4, 2), "compression": "lzf", "fletcher32": True},
    ],
    ids=["contiguous", "single", "gzip", "cut"],
)
@pytest.mark.parametrize("dtype", ["f4", ">f4", "i2", "u1", "f8", ">i4"])
def test_what_h5py_writes_is_read_alike(tmp_path, stack_NHW, options, dtype):
    stack = (stack_NHW * 30).astype(dtype)
    path = written(tmp_path / "a.h5", images={"data": stack, **options})
    found = read(path)
    np.testing.assert_array_equal(found, stack)
    assert {each.dtype for each in found} == {np.dtype(dtype)}
    assert ids(path) == [f"{path}#{k}" for k in range(10)]


@pytest.mark.parametrize("name", ["ID", "ids", "Name", "object_id", "OBJID", "source_id"])
def test_ids_are_taken_from_beside_the_images(tmp_path, stack_NHW, name):
    source_ids = np.arange(10) + 6_000_000_000_000_000_000
    path = written(
        tmp_path / "a.h5",
        **{"g__images": stack_NHW, f"g__{name}": source_ids, "g__ra": np.ones(10)},
    )
    assert ids(path) == [str(each) for each in source_ids]
    np.testing.assert_array_equal(read(path), stack_NHW)


def test_ids_may_be_any_bytes(tmp_path, stack_NHW):
    texts = ["a,b", 'q"', "new\nline", "étoile", "🔭", "", "0", "x" * 300, "x", "=1+1"]
    vlen = written(
        tmp_path / "v.h5", images=stack_NHW, id={"data": texts, "dtype": h5py.string_dtype()}
    )
    assert ids(vlen)[5] == f"{vlen}#5"  # an empty id names nothing
    assert [each for k, each in enumerate(ids(vlen)) if k != 5] == texts[:5] + texts[6:]
    fixed = written(tmp_path / "f.h5", images=stack_NHW, id=np.array([b"\xff\xfe"] * 10))
    assert ids(fixed) == ["\udcff\udcfe"] * 10


def test_ids_of_another_length_or_kind_are_none(tmp_path, stack_NHW):
    path = written(tmp_path / "a.h5", images=stack_NHW, id=np.arange(9), name=np.ones(10))
    assert ids(path) == [f"{path}#{k}" for k in range(10)]


def test_one_of_several_datasets_has_to_be_named(tmp_path, stack_NHW):
    path = written(tmp_path / "a.h5", images=stack_NHW, group__masks=stack_NHW > 0)
    with pytest.raises(
        InputError, match=r"group/masks \(10×6×5 bool\), images .*a\.h5#/group/masks"
    ):
        hdf5.entries(path, "", Choice())
    assert flag_of(path, "3") == Flag.SHAPE
    assert ids(path, "/images") == [f"{path}#/images#{k}" for k in range(10)]
    assert ids(path, "group/masks#7") == [f"{path}#group/masks#7"]
    np.testing.assert_array_equal(read(path, "/images"), stack_NHW)
    np.testing.assert_array_equal(read(path, "/images#7"), stack_NHW[7:8])


def test_two_axes_are_one_cutout(tmp_path, stack_NHW):
    path = written(tmp_path / "a.h5", image=stack_NHW[0], ra=np.ones(3))
    assert ids(path) == [path]
    np.testing.assert_array_equal(read(path), stack_NHW[:1])


def test_bands(tmp_path, rng):
    cubes = rng.normal(size=(4, 3, 6, 5))
    path = written(tmp_path / "a.h5", images=cubes)
    with pytest.raises(InputError, match="--band"):
        hdf5.entries(path, "", Choice())
    np.testing.assert_array_equal(read(path, band="2"), cubes[:, 2])
    last = written(tmp_path / "l.h5", images=cubes[0].transpose(1, 2, 0))
    np.testing.assert_array_equal(read(last, band="1"), cubes[:1, 1])
    assert flag_of(last, band="3") == Flag.SHAPE
    grey = written(tmp_path / "g.h5", images=cubes[:, 0, ..., None])
    np.testing.assert_array_equal(read(grey), cubes[:, 0])


def test_what_was_never_written_is_missing(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        chunked = file.create_dataset("chunked", (10, 6, 6), "f4", chunks=(2, 3, 3))
        chunked[:4] = 1
        chunked[6:8, :3] = 1  # half of each cutout
        file.create_dataset("bare", (3, 6, 6), "f4")
    found = [flag_of(path, f"chunked#{k}") for k in (4, 5, 6, 7, 8, 9)]
    assert found == [Flag.MISSING] * 6
    assert flag_of(path, "bare#0") == Flag.MISSING
    np.testing.assert_array_equal(read(str(path), "chunked#3"), np.ones((1, 6, 6)))


def test_a_filter_that_is_not_installed(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((1, 4, 4))
        plan.set_filter(32099, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((2, 4, 4))
        images = h5py.h5d.create(file.id, b"images", h5py.h5t.NATIVE_FLOAT, space, plan)
        images.write_direct_chunk((0, 0, 0), bytes(64))
    assert ids(str(path)) == [f"{path}#0", f"{path}#1"]
    with pytest.raises(CutoutError, match=r"filter 32099.*hdf5plugin") as caught:
        hdf5.cutout(Entry(str(path), "0"), "").read()
    assert caught.value.flag == Flag.UNREADABLE


def test_nothing_outside_the_file_is_opened(tmp_path, stack_NHW):
    written(tmp_path / "other.h5", images=stack_NHW)
    (tmp_path / "pixels.raw").write_bytes(stack_NHW.tobytes())
    path = tmp_path / "a.h5"
    layout = h5py.VirtualLayout(stack_NHW.shape, "f4")
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "images", stack_NHW.shape)
    with h5py.File(path, "w") as file:
        file["linked"] = h5py.ExternalLink("other.h5", "images")
        file["soft"] = h5py.SoftLink("/linked")
        file["loop"] = h5py.SoftLink("loop")
        file["inner"] = h5py.SoftLink("/group/mine")
        file["group/mine"] = stack_NHW
        file.create_virtual_dataset("virtual", layout)
        external = [(str(tmp_path / "pixels.raw"), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("raw", stack_NHW.shape, "f4", external=external)
    for name in ("linked", "soft", "virtual", "raw"):
        assert flag_of(path, f"{name}#0") == Flag.UNREADABLE
    assert flag_of(path, "loop#0") == flag_of(path, "absent#0") == Flag.MISSING
    np.testing.assert_array_equal(read(str(path), "inner"), stack_NHW)


def test_a_cutout_that_is_not_there(tmp_path, stack_NHW):
    path = written(tmp_path / "a.h5", images=stack_NHW, text={"data": [[b"ab"]]}, flat=np.ones(4))
    assert flag_of(path, "10") == flag_of(path, "group#1") == Flag.MISSING
    assert flag_of(path, "text") == Flag.DTYPE
    assert flag_of(path, "flat") == Flag.SHAPE
    assert flag_of(tmp_path / "absent.h5", "1") == Flag.MISSING


def test_what_is_no_hdf5_file(tmp_path, stack_NHW):
    good = written(tmp_path / "good.h5", images=stack_NHW)
    data = (tmp_path / "good.h5").read_bytes()
    for name, content in {"empty": b"", "text": b"hello", "cut": data[: len(data) // 2]}.items():
        path = tmp_path / f"{name}.h5"
        path.write_bytes(content)
        with pytest.raises(CutoutError) as caught:
            hdf5.entries(str(path), "", Choice())
        assert caught.value.flag == flag_of(path) == Flag.MALFORMED
    (tmp_path / "folder.h5").mkdir()
    assert flag_of(tmp_path / "folder.h5") == Flag.UNREADABLE
    with pytest.raises(InputError, match="it is empty"):
        hdf5.entries(written(tmp_path / "bare.h5"), "", Choice())
    assert len(read(good)) == 10


def test_a_damaged_chunk_costs_only_its_cutouts(tmp_path, stack_NHW):
    options = {"chunks": (2, 6, 5), "compression": "gzip"}
    path = written(tmp_path / "a.h5", images={"data": stack_NHW, **options})
    with h5py.File(path) as file:
        place = file["images"].id.get_chunk_info(1).byte_offset
    data = bytearray((tmp_path / "a.h5").read_bytes())
    data[place : place + 8] = b"\xff" * 8
    (tmp_path / "a.h5").write_bytes(data)
    assert flag_of(path, "2") == flag_of(path, "3") == Flag.MALFORMED
    np.testing.assert_array_equal(read(path, "1")[0], stack_NHW[1])
    np.testing.assert_array_equal(read(path, "4")[0], stack_NHW[4])


def test_huge_shapes_take_no_memory(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("cutout", (2, 1 << 20, 1 << 20), "f8", chunks=(1, 64, 64))
        file.create_dataset("chunk", (1 << 20, 64, 64), "f8", chunks=(1 << 16, 64, 64))
    assert flag_of(path, "cutout#0") == flag_of(path, "chunk#0") == Flag.SHAPE


def test_more_files_than_are_kept_open(tmp_path, stack_NHW):
    paths = [written(tmp_path / f"{k}.h5", images=stack_NHW + k) for k in range(40)]
    for _ in range(2):
        for k, path in enumerate(paths):
            np.testing.assert_array_equal(read(path, "3")[0], stack_NHW[3] + k)


def test_a_file_that_is_written_anew(tmp_path, stack_NHW):
    for k in range(3):
        (tmp_path / "a.h5").unlink(missing_ok=True)
        path = written(tmp_path / "a.h5", images={"data": stack_NHW + k, "chunks": (5, 6, 5)})
        np.testing.assert_array_equal(read(path, "3")[0], stack_NHW[3] + k)
