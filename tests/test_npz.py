"""Named arrays in .npz archives, stored or compressed; archives that lie are found out."""

import io
import struct
import tempfile
import zipfile

import numpy as np
import pytest
from cutouts import flag_of, flags_of, ids
from hypothesis import given
from hypothesis import strategies as st

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError, InputError
from stronglens.engine.sources import npz, open_source

pytestmark = pytest.mark.usefixtures("folder")


SAVERS = [np.savez, np.savez_compressed]


@pytest.mark.parametrize("save", SAVERS)
def test_arrays_are_cutouts_and_stacks(save, rng):
    arrays = {
        "first": rng.normal(size=(8, 8)),
        "one": rng.normal(size=(1, 8, 8)).astype(">f4"),
        "many": rng.integers(0, 99, (11, 4, 4)),
        "tilted": np.asfortranarray(rng.normal(size=(5, 7))),
        "naïve#name": rng.normal(size=(3, 3)),
        "labels": np.arange(5),
        "names": np.array(["a", "b"]),
        "redshift": np.array(0.5),
    }
    save("a.npz", **arrays)
    source = open_source(["a.npz"])
    expected = {"a.npz#first": arrays["first"], "a.npz#one": arrays["one"]}
    expected |= {f"a.npz#many#{k}": plane for k, plane in enumerate(arrays["many"])}
    expected |= {f"a.npz#{name}": arrays[name] for name in ("tilted", "naïve#name")}
    assert ids(source) == list(expected)
    for cutout, raw in zip(source, expected.values(), strict=True):
        assert cutout.read().dtype == raw.dtype
        np.testing.assert_array_equal(cutout.read(), raw)
    assert source.skipped == 3


@pytest.mark.parametrize("save", SAVERS)
def test_a_part_is_named_by_its_array_and_number(save, rng):
    raw = rng.normal(size=(11, 4, 4))
    save("a.npz", **{"many": raw, "x#3": raw[3], "pair": raw[:2], "labels": raw[0, 0]})
    given = [
        "a.npz#many#7",
        "a.npz#x#3",
        "a.npz#pair#1",
        "a.npz#many#99",
        "a.npz#none",
        "a.npz#labels",
    ]
    source = open_source([*given, "b.npz#many#1"])
    assert ids(source) == [*given, "b.npz#many#1"]
    cutouts = list(source)
    for cutout, plane in zip(cutouts, (raw[7], raw[3], raw[1]), strict=False):
        np.testing.assert_array_equal(cutout.read(), plane)
    assert flags_of(cutouts[3:]) == [Flag.MISSING] * 4
    assert len(open_source(["a.npz#many"])) == 11


@pytest.mark.parametrize("save", SAVERS)
def test_bands(save, rng):
    raw = rng.normal(size=(3, 8, 8))
    save("a.npz", g=raw, flat=raw[0])
    with pytest.raises(InputError, match=r"a\.npz#g: 3×8×8 may be .*--stack.*--band"):
        open_source(["a.npz"])
    banded = list(open_source(["a.npz"], band="2"))
    assert ids(banded) == ["a.npz#g", "a.npz#flat"]
    np.testing.assert_array_equal(banded[0].read(), raw[2])
    assert flag_of(banded[1]) == Flag.SHAPE
    assert len(open_source(["a.npz"], stacked=True)) == 4


def test_nothing_is_unpickled():
    np.savez("a.npz", good=np.eye(4), bad=np.full((4, 4), None, object), skipped=np.array([None]))
    source = open_source(["a.npz"])
    assert ids(source) == ["a.npz#good", "a.npz#bad"]
    assert flag_of(list(source)[1]) == Flag.DTYPE
    assert source.skipped == 1


def archive(*members, method=zipfile.ZIP_DEFLATED):
    """The bytes of an archive of (name, bytes)."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        for name, data in members:
            made.writestr(name, data)
    return bytearray(file.getvalue())


def stored(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def header(shape):
    """The first 128 bytes of a .npy file of zeros."""
    text = f"{shape}, }}".ljust(29).encode()
    return stored(np.zeros((1, 1))).replace(b"(1, 1), }" + b" " * 20, text)[:128]


@pytest.mark.parametrize("shape", [(8192, 8192), (16, 8192, 8192)])
def test_an_archive_that_says_little_and_holds_much_is_found_out(folder, shape, monkeypatch):
    """The directory says 128 bytes, the .npy header gigabytes."""
    (folder / "a.npz").write_bytes(archive(("a.npy", header(shape))))
    source = open_source(["a.npz"])
    assert ids(source) == ["a.npz#a"]
    assert flags_of(source) == [Flag.MALFORMED]


@pytest.mark.parametrize("shape", [(64, 64), (10, 64, 64)])
def test_what_unpacks_to_more_than_it_says_is_stopped(folder, shape):
    """Directory and header agree, and the compressed bytes go on for ever after."""
    data = archive(("a.npy", stored(np.zeros(shape)) + bytes(50_000_000)))
    true, said = 128 + 8 * int(np.prod(shape)) + 50_000_000, 128 + 8 * int(np.prod(shape))
    (folder / "a.npz").write_bytes(data.replace(struct.pack("<L", true), struct.pack("<L", said)))
    source = open_source(["a.npz"])
    assert flag_of(next(iter(source))) == Flag.MALFORMED


def test_a_cutout_of_gigabytes_is_not_unpacked(folder):
    shape = (1 << 13, 1 << 13)
    data = archive(("a.npy", header(shape)))
    struct.pack_into("<L", data, data.rfind(b"PK\1\2") + 24, 128 + 8 * (1 << 26))
    (folder / "a.npz").write_bytes(data)
    assert flags_of(open_source(["a.npz"])) == [Flag.SHAPE]


def test_no_room_to_unpack_is_said(folder, monkeypatch):
    np.savez_compressed("a.npz", a=np.zeros((12, 64, 64)))
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(npz.shutil, "disk_usage", lambda folder: usage)
    cutout = next(iter(open_source(["a.npz"])))
    with pytest.raises(CutoutError, match=r"no room to unpack .* TMPDIR") as caught:
        cutout.read()
    assert caught.value.flag == Flag.UNREADABLE


def test_what_is_unpacked_vanishes(folder, monkeypatch):
    (folder / "room").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "room"))
    np.savez_compressed("a.npz", a=np.ones((12, 64, 64)))
    assert all(cutout.read().all() for cutout in open_source(["a.npz"]))
    assert not list((folder / "room").iterdir())


@pytest.mark.parametrize("change", [b"", b"PK\5\6", b"hello", b"\0" * 100])
def test_what_is_no_archive_is_one_rejected_row(folder, change):
    (folder / "a.npz").write_bytes(change)
    source = open_source(["a.npz"])
    assert ids(source) == ["a.npz"]
    assert flags_of(source) == [Flag.MALFORMED]


@pytest.mark.parametrize("save", SAVERS)
def test_a_changed_byte_of_a_cutout_is_noticed(folder, save):
    save("a.npz", a=np.arange(64.0).reshape(8, 8))
    data = bytearray((folder / "a.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "a.npz").write_bytes(data)
    assert flags_of(open_source(["a.npz"])) == [Flag.MALFORMED]


def test_other_compressions_and_locks_are_unreadable(folder):
    data = archive(("a.npy", stored(np.eye(4))), method=zipfile.ZIP_LZMA)
    (folder / "lzma.npz").write_bytes(data)
    data = archive(("a.npy", stored(np.eye(4))))
    data[data.rfind(b"PK\1\2") + 8] |= 1
    (folder / "locked.npz").write_bytes(data)
    assert flags_of(open_source(["."])) == [Flag.UNREADABLE] * 2


def test_an_archive_without_cutouts_is_passed_over(folder):
    np.savez("a.npz", labels=np.arange(3), more=np.arange(3))
    np.save("b.npy", np.eye(3))
    source = open_source(["."])
    assert (ids(source), source.skipped) == (["./b.npy"], 1)  # one file, whatever is in it
    with pytest.raises(InputError, match=r"nothing to read in a\.npz"):
        open_source(["a.npz"])


def test_an_archive_of_more_than_four_gigabytes(folder):
    """Its numbers do not fit in 32 bits; between its members lies a hole."""
    with zipfile.ZipFile("a.npz", "w") as made:
        made.writestr("a.npy", stored(np.eye(3)))
        made.fp.seek(5 << 30)
        made.start_dir = 5 << 30
        with made.open("b.npy", "w", force_zip64=True) as file:
            file.write(stored(np.ones((3, 3))))
    source = open_source(["a.npz"])
    assert ids(source) == ["a.npz#a", "a.npz#b"]
    np.testing.assert_array_equal([c.read() for c in source], [np.eye(3), np.ones((3, 3))])


@given(st.integers(0, 10_000), st.binary(max_size=4), st.sampled_from(SAVERS))
def test_a_damaged_archive_is_rejected_or_reads_as_arrays(tmp_path_factory, place, there, save):
    path = tmp_path_factory.mktemp("damaged") / "a.npz"
    save(path, a=np.eye(5), b=np.zeros((11, 2, 2)))
    data = bytearray(path.read_bytes())
    place %= len(data)
    data[place : place + len(there)] = there
    path.write_bytes(data)
    try:
        cutouts = list(open_source([path]))
    except InputError:
        return  # nothing to read, or what may be bands
    for cutout in cutouts:
        try:
            assert cutout.read().size in (25, 4)
        except CutoutError as err:
            assert err.flag in (Flag.MALFORMED, Flag.DTYPE, Flag.SHAPE, Flag.UNREADABLE)
