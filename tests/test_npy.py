"""Every .npy that numpy writes is read; every way a file can be wrong has its reason."""

import io
import os
import socket

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nasty import REAL, images, not_pixels

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError
from stronglens.engine.sources import npy
from stronglens.engine.sources.npy import NpyCutout, parse


def stored(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def with_header(header, pixels=b"", version=1):
    size = len(header).to_bytes(2 if version == 1 else 4, "little")
    return npy.MAGIC + bytes([version, 0]) + size + header + pixels


def flag_of(data):
    with pytest.raises(CutoutError) as caught:
        parse(data, len(data))
    return caught.value.flag


@given(images([*REAL, "?"], square=False, planes=st.integers(1, 4)))
def test_what_numpy_writes_is_read_alike(array):
    data = stored(array)
    found = parse(data, len(data))
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    assert not found.flags.writeable


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_format(version):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.eye(4), version=version)
    data = file.getvalue()
    np.testing.assert_array_equal(parse(data, len(data)), np.eye(4))


@given(st.integers(0, 10_000), st.binary(max_size=4))
def test_a_damaged_file_is_rejected_or_reads_as_an_array(place, bytes_there):
    data = bytearray(stored(np.eye(5)))
    place %= len(data)
    data[place : place + len(bytes_there)] = bytes_there
    try:
        assert parse(bytes(data), len(data)).size == 25
    except CutoutError as err:
        assert err.flag in (Flag.MALFORMED, Flag.DTYPE, Flag.SHAPE)


GOOD = stored(np.eye(4))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUM",
        b"not a npy file at all",
        GOOD[:60],
        GOOD[:-1],
        GOOD + b"x",
        GOOD.replace(b"\x93NUMPY\x01", b"\x93NUMPY\x09"),
        with_header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 4)}"),
        with_header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999, 99999, 99999)}"),
        with_header(b"{'descr': '<f8', 'fortran_order': False, 'shape': 4}"),
        with_header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (True, True)}", bytes(8)),
        with_header(b"{'descr': '<f8', 'fortran_order': 0, 'shape': (1, 1)}", bytes(8)),
        with_header(b"{'descr': '<f8', 'shape': (1, 1)}", bytes(8)),
        with_header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1, 1), 'x': 1}", bytes(8)),
        with_header(b"__import__('os').getcwd()"),
        with_header(b"[" * 3000),
        with_header(b"(" * 200 + b")" * 200),
        with_header(b"{" + b" " * 20_000 + b"}"),
        with_header(b"\xff\xfe"),
        npy.MAGIC + b"\x02\x00" + (3 << 30).to_bytes(4, "little") + b"{}",
    ],
    ids=range(20),
)
def test_malformed(data):
    assert flag_of(data) == Flag.MALFORMED


@given(not_pixels(4).filter(lambda array: array.dtype != bool))  # booleans are read
def test_no_real_numbers(array):
    assert flag_of(stored(array)) == Flag.DTYPE


def test_an_element_size_that_does_not_exist():
    header = b"{'descr': '<f3', 'fortran_order': False, 'shape': (1, 1)}"
    assert flag_of(with_header(header, bytes(3))) == Flag.DTYPE


@pytest.mark.parametrize("shape", [(), (16,), (0, 4, 4), (4, 0), (2, 2, 2, 2)])
def test_no_image(shape):
    assert flag_of(stored(np.zeros(shape))) == Flag.SHAPE


def test_an_empty_axis_hides_no_overflow():
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (0, %d)}" % 10**30
    assert flag_of(with_header(header)) == Flag.SHAPE


def flag_of_path(path):
    with pytest.raises(CutoutError) as caught:
        NpyCutout(str(path)).read()
    return caught.value.flag


def test_what_is_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket has a short limit
    os.mkfifo("fifo.npy")
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "dangling.npy").symlink_to("nowhere.npy")
    (tmp_path / "loop.npy").symlink_to("loop.npy")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.npy")
        for name in ("fifo", "folder", "loop", "socket"):
            assert flag_of_path(f"{name}.npy") == Flag.UNREADABLE
    for name in ("dangling.npy", "absent.npy", "fifo.npy/under-a-file.npy"):
        assert flag_of_path(name) == Flag.MISSING


def test_a_device_is_not_read():
    assert flag_of_path("/dev/zero") == Flag.UNREADABLE


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_no_permission(tmp_path):
    path = tmp_path / "secret.npy"
    path.touch(mode=0)
    assert flag_of_path(path) == Flag.UNREADABLE


def test_a_huge_file_is_not_read_whole(tmp_path):
    path = tmp_path / "huge.npy"
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (32768, 32768)}"
    path.write_bytes(with_header(header))
    os.truncate(path, path.stat().st_size + 8 * 32768**2)  # sparse: 8 GiB of nothing
    assert flag_of_path(path) == Flag.SHAPE
    os.truncate(path, path.stat().st_size + 1)
    assert flag_of_path(path) == Flag.MALFORMED
