"""Lists of names: from a file or standard input, parted by newlines or NULs, of any bytes."""

import io
import os
import tracemalloc

import numpy as np
import pytest
from cutouts import ids
from hypothesis import given
from hypothesis import strategies as st

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError, InputError
from stronglens.engine.sources import lists, open_source
from stronglens.engine.sources.lists import names_in


def from_stdin(data, *, null_separated=False):
    return open_source(["-"], null_separated=null_separated, stdin=io.BytesIO(data))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.npy", "b.npy"):
        np.save(name, np.eye(4))
    np.save("stack.npy", np.zeros((12, 4, 4)) + np.arange(12)[:, None, None])
    return tmp_path


NAMES = st.lists(st.binary(min_size=1).map(lambda name: name.replace(b"\0", b"") + b"x"))


@given(NAMES, st.integers(1, 5))
def test_names_parted_by_nuls_come_back_byte_for_byte(names, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lists, "BLOCK", block)
        stream = io.BytesIO(b"\0".join([*names, b""]))
        found = names_in("-", null_separated=True, stdin=stream)
        assert [os.fsencode(name) for name in found] == names


@given(NAMES, st.sampled_from([b"\n", b"\r\n"]), st.booleans(), st.integers(1, 5))
def test_names_parted_by_newlines_come_back_byte_for_byte(names, newline, ends, block):
    names = [name.replace(b"\n", b"") for name in names]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lists, "BLOCK", block)
        data = newline.join([*names, b""] if ends else names)
        found = names_in("-", null_separated=False, stdin=io.BytesIO(data))
        assert [os.fsencode(name) for name in found] == [
            name.removeprefix(lists.BYTE_ORDER_MARK) if i == 0 else name
            for i, name in enumerate(names)
        ]


def test_a_list_keeps_its_order_and_blank_lines_are_none(folder):
    (folder / "list.txt").write_bytes(b"b.npy\r\n\r\n\n./a.npy\nabsent.npy")
    assert ids(open_source(["@list.txt"])) == ["b.npy", "./a.npy", "absent.npy"]


def test_a_list_may_name_parts_of_files(folder):
    source = from_stdin(b"stack.npy#11\na.npy\nstack.npy#0\nstack.npy#12\n")
    assert ids(source) == ["stack.npy#11", "a.npy", "stack.npy#0", "stack.npy#12"]
    good, _, _, absent = source
    assert good.read()[0, 0] == 11
    with pytest.raises(CutoutError) as caught:
        absent.read()
    assert caught.value.flag == Flag.MISSING


def test_a_stack_in_a_list_is_opened_if_it_is_the_first_of_its_format(folder):
    assert len(from_stdin(b"stack.npy\na.npy\n")) == 13
    first_is_one = from_stdin(b"a.npy\nstack.npy\n")
    assert ids(first_is_one) == ["a.npy", "stack.npy"]


def test_what_is_no_cutout_is_a_row_all_the_same(folder):
    (folder / "x.csv").touch()
    (folder / "sub").mkdir()
    source = from_stdin(b"a.npy\nx.csv\nsub\nabsent\n*.npy\n")
    assert ids(source) == ["a.npy", "x.csv", "sub", "absent", "*.npy"]
    flags = []
    for cutout in list(source)[1:]:
        with pytest.raises(CutoutError) as caught:
            cutout.read()
        flags.append(caught.value.flag)
    assert flags == [Flag.UNREADABLE, Flag.UNREADABLE, Flag.MISSING, Flag.MISSING]


def test_names_of_any_bytes(folder):
    name = b"new\nline, \xff#1.npy"
    np.save(os.fsdecode(name), np.eye(3))
    (cutout,) = from_stdin(name + b"\0", null_separated=True)
    assert os.fsencode(cutout.id) == name
    np.testing.assert_array_equal(cutout.read(), np.eye(3))


def test_a_name_in_two_lists_is_kept_once_and_counted(folder):
    (folder / "one").write_text("a.npy\nb.npy\na.npy\n")
    (folder / "two").write_text("b.npy\nc.npy\n")
    source = open_source(["@one", "@two"])
    assert ids(source) == ["a.npy", "b.npy", "c.npy"]
    assert source.duplicates == 2


def test_a_file_may_begin_with_an_at_sign_and_a_dash_may_be_one(folder):
    np.save("@a.npy", np.eye(3))
    np.save("-.npy", np.eye(3))
    assert ids(open_source(["@a.npy", "-.npy"])) == ["@a.npy", "-.npy"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "nothing to read in -"),
        (b"\n\n", "nothing to read in -"),
        (b"readme\nLICENCE\n", "nothing to read in -"),
        (b"a.npy\0b.npy\0", "line 1 holds a NUL: give -0"),
        (b"x" * (3 << 16), "no list of names"),
    ],
)
def test_what_is_no_list_is_an_error(folder, data, message):
    with pytest.raises(InputError, match=message):
        from_stdin(data)


def test_a_list_that_cannot_be_read_is_an_error(folder):
    with pytest.raises(InputError, match=r"absent\.txt: cannot read this list .* No such file"):
        open_source(["@absent.txt"])
    with pytest.raises(InputError, match="cannot read this list"):
        open_source([f"@{folder}"])


def test_a_long_list_takes_little_memory(monkeypatch):
    class Endless(io.RawIOBase):
        left = 30_000

        def read(self, size):
            self.left -= 1000
            return b"".join(b"%d.png\n" % i for i in range(1000)) if self.left >= 0 else b""

    tracemalloc.start()
    count = sum(1 for _ in names_in("-", null_separated=False, stdin=Endless()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 30_000
    assert peak < 1 << 20
