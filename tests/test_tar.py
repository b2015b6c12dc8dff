"""Archives of cutouts, as webdatasets have them: what is listed, what is passed over, what lies."""

import io
import os
import subprocess
import tarfile
import tracemalloc

import numpy as np
import pytest
from cutouts import flag_of, ids
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError, InputError
from stronglens.engine.sources import open_source

pytestmark = pytest.mark.usefixtures("folder")


def stored(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def picture(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def pack_tar(path, members, form=tarfile.PAX_FORMAT):
    """Write an archive of (name, bytes); bytes that are None make a folder."""
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
            info.size = len(data or b"")
            tar.addfile(info, io.BytesIO(data or b""))


LONG = "/".join(["long" * 20] * 4) + "/é\udcff.npy"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_cutouts(form, rng):
    grey = rng.integers(0, 255, (8, 8), np.uint8)
    members = {
        "1.npy": stored(rng.normal(size=(8, 8))),
        "2.cls": b"0",
        "2.png": picture(grey),
        "folder": None,
        "folder/._3.npy": b"what macOS adds",
        "folder/3.npy": stored(rng.normal(size=(8, 8)).astype(">f4")),
        "# é.npy": stored(np.eye(4)),
    }
    if form != tarfile.USTAR_FORMAT:
        members[LONG] = stored(np.ones((3, 3)))
    pack_tar("a.tar", members.items(), form)
    source = open_source(["a.tar"])
    wanted = [name for name in members if name.endswith(("npy", "png")) and "._" not in name]
    assert ids(source) == [f"a.tar#{name}" for name in wanted]
    assert source.skipped == 3
    for cutout, name in zip(source, wanted, strict=True):
        expected = grey if name == "2.png" else np.load(io.BytesIO(members[name]))
        np.testing.assert_array_equal(cutout.read(), expected)
        assert cutout.read().dtype == expected.dtype


def test_what_the_systems_tar_packs_is_read(folder, rng):
    raw = rng.normal(size=(8, 8))
    (folder / "in" / ("deep" * 24)).mkdir(parents=True)
    for name in ("a.npy", f"{'deep' * 24}/{'b' * 90}.npy"):
        np.save(f"in/{name}", raw)
    (folder / "in" / "link.npy").symlink_to("a.npy")
    os.link("in/a.npy", "in/z.npy")
    for form in ("gnu", "pax", "ustar"):
        subprocess.run(["tar", "cf", "a.tar", f"--format={form}", "--sort=name", "in"], check=True)
        source = open_source(["a.tar"])
        assert ids(source) == ["a.tar#in/a.npy", f"a.tar#in/{'deep' * 24}/{'b' * 90}.npy"]
        assert source.skipped == 4  # two folders and two links
        for cutout in source:
            np.testing.assert_array_equal(cutout.read(), raw)


def test_a_member_is_named_by_its_path(rng):
    raw = rng.normal(size=(5, 8, 8))
    pack_tar("a.tar", [(f"x/{k}.npy", stored(plane)) for k, plane in enumerate(raw)])
    given = ["a.tar#x/3.npy", "a.tar#x/9.npy", "a.tar#512+9.x", "b.tar#x/3.npy"]
    source = open_source(given)
    assert ids(source) == given
    there, *absent = source
    np.testing.assert_array_equal(there.read(), raw[3])
    assert [flag_of(cutout) for cutout in absent] == [Flag.MISSING] * 3


def test_bands(rng):
    raw = rng.integers(0, 255, (8, 8, 3), np.uint8)
    pack_tar("a.tar", [("a.npy", stored(raw)), ("b.png", picture(raw)), ("c.npy", stored(raw[0]))])
    first, second, third = open_source(["a.tar"], band="2")
    np.testing.assert_array_equal(first.read(), raw[..., 2])
    np.testing.assert_array_equal(second.read(), raw[..., 2])
    assert flag_of(third) == Flag.SHAPE


def test_two_members_of_one_name_are_both_rows_and_counted():
    pack_tar("a.tar", [("a.npy", stored(np.eye(3))), ("a.npy", stored(np.ones((3, 3))))])
    source = open_source(["a.tar", "a.tar"])
    assert ids(source) == ["a.tar#a.npy"] * 2
    assert source.duplicates == 3
    assert [cutout.read()[0, 1] for cutout in source] == [0, 1]


def test_devices_and_pipes_are_passed_over():
    with tarfile.open("a.tar", "w") as tar:
        for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.SYMTYPE):
            info = tarfile.TarInfo("device.npy")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        info = tarfile.TarInfo("a.npy")
        info.size = len(stored(np.eye(3)))
        tar.addfile(info, io.BytesIO(stored(np.eye(3))))
    source = open_source(["a.tar"])
    assert (ids(source), source.skipped) == (["a.tar#a.npy"], 4)


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_a_member_with_holes_is_a_rejected_row(folder, form):
    np.save("a.npy", np.zeros((64, 64)))
    os.truncate("a.npy", 1 << 20)
    np.save("b.npy", np.eye(3))
    command = ["tar", "cSf", "a.tar", f"--format={form}", "a.npy", "b.npy"]
    subprocess.run(command, check=True)
    first, second = open_source(["a.tar"])
    assert (first.id, second.id) == ("a.tar#a.npy", "a.tar#b.npy")
    assert flag_of(first) == Flag.UNREADABLE
    np.testing.assert_array_equal(second.read(), np.eye(3))


def test_a_truncated_archive_keeps_what_is_whole(folder):
    pack_tar("a.tar", [(f"{i}.npy", stored(np.eye(16) + i)) for i in range(3)], tarfile.GNU_FORMAT)
    whole, member = (folder / "a.tar").read_bytes(), 512 + 2560
    for length, expected in {
        2 * member + 512 + 1000: ["a.tar#0.npy", "a.tar#1.npy", "a.tar#2.npy", "a.tar"],
        2 * member + 100: ["a.tar#0.npy", "a.tar#1.npy", "a.tar"],
        2 * member: ["a.tar#0.npy", "a.tar#1.npy", "a.tar"],
        3 * member + 512: ["a.tar#0.npy", "a.tar#1.npy", "a.tar#2.npy"],
        100: ["a.tar"],
        0: ["a.tar"],
    }.items():
        (folder / "a.tar").write_bytes(whole[:length])
        cutouts = list(open_source(["a.tar"]))
        assert [cutout.id for cutout in cutouts] == expected
        for i, cutout in enumerate(cutouts):
            if (i + 1) * member <= length:
                np.testing.assert_array_equal(cutout.read(), np.eye(16) + i)
            else:
                assert flag_of(cutout) == Flag.MALFORMED


def test_a_damaged_header_is_noticed_and_not_passed_over(folder):
    pack_tar("a.tar", [(f"{i}.npy", stored(np.eye(16))) for i in range(3)])
    data = bytearray((folder / "a.tar").read_bytes())
    data[3072 + 5] ^= 1
    (folder / "a.tar").write_bytes(data)
    cutouts = list(open_source(["a.tar"]))
    assert [cutout.id for cutout in cutouts] == ["a.tar#0.npy", "a.tar"]
    assert flag_of(cutouts[1]) == Flag.MALFORMED


@pytest.mark.parametrize(
    ("name", "mode"),
    [("a.tar.gz", "w:gz"), ("a.tgz", "w:gz"), ("a.tar", "w:gz"), ("a.tar", "w:xz")],
)
def test_a_compressed_archive_is_refused_with_the_remedy(folder, name, mode):
    with tarfile.open(name, mode):
        pass
    for each in (name, "."):
        with pytest.raises(
            InputError, match=f"{name}: a compressed archive .* decompress it first"
        ):
            open_source([each])


def test_a_member_of_gigabytes_is_refused_unread(folder):
    info = tarfile.TarInfo("a.npy")
    info.size = 1 << 40
    (folder / "a.tar").write_bytes(info.tobuf())
    first, second = open_source(["a.tar"])
    assert flag_of(first) == Flag.SHAPE
    assert flag_of(second) == Flag.MALFORMED


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_name_of_gigabytes_is_not_read(folder, kind):
    info = tarfile.TarInfo("a.npy")
    info.type, info.size = kind, 1 << 32
    (folder / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    os.truncate("a.tar", 1 << 33)
    (cutout,) = open_source(["a.tar"])
    assert flag_of(cutout) == Flag.MALFORMED


def test_an_archive_changed_after_it_was_listed(folder):
    pack_tar("a.tar", [("a.npy", stored(np.eye(16)))])
    (cutout,) = open_source(["a.tar"])
    cutout.read()
    os.truncate("a.tar", 600)
    assert flag_of(cutout) == Flag.MALFORMED
    (folder / "a.tar").unlink()
    assert flag_of(cutout) == Flag.MISSING


@given(st.integers(0, 20_000), st.binary(max_size=6), st.sampled_from([1, 2]))
def test_a_damaged_archive_loses_no_row_in_silence(tmp_path_factory, place, there, form):
    path = tmp_path_factory.mktemp("damaged") / "a.tar"
    pack_tar(path, [("a.npy", stored(np.eye(5))), (LONG, stored(np.eye(5)))], form)
    data = bytearray(path.read_bytes())
    place %= len(data)
    data[place : place + len(there)] = there
    path.write_bytes(data)
    rows = 0
    try:
        source = open_source([path])
    except InputError:
        return  # it says that it is compressed, or holds other names now
    for cutout in source:
        try:
            rows += cutout.read().size == 25
        except CutoutError as err:
            rows += 1
            assert err.flag in (Flag.MALFORMED, Flag.DTYPE, Flag.SHAPE, Flag.UNREADABLE)
    assert rows + source.skipped >= 2 or ids(source)[-1] == str(path)


def test_a_long_archive_is_listed_in_little_memory(folder):
    count = 3000
    pack_tar("a.tar", ((f"{i:0200d}.npy", b"") for i in range(count)), tarfile.GNU_FORMAT)
    tracemalloc.start()
    source = open_source(["a.tar"])
    assert sum(1 for _ in source.entries()) == count
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 << 20
