"""Long lists of names: their order, and that nothing is lost where they lie on disk."""

import re
import resource
import tempfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stronglens.engine.errors import InputError
from stronglens.engine.sources import names, natural, open_source
from stronglens.engine.sources.names import Names, in_order, named

# what a file's name can hold: anything but NUL and the slash, and bytes that are not UTF-8
FILE_NAMES = st.lists(
    st.text(st.sampled_from("0129ab.- \n\x01\u00e9\u2028\ud7ff\udcff\ue000\U0001f52d"), min_size=1)
)
PATHS = st.lists(st.text(st.sampled_from("01a/\n\udcff\U0001f52d"), min_size=1))


@pytest.fixture(autouse=True, scope="module")
def short():
    """Let short lists take the long way over the disk."""
    with pytest.MonkeyPatch.context() as patch:
        for name, size in {"CHUNK": 3, "IN_MEMORY": 20, "BLOCK": 5, "PART": 4}.items():
            patch.setattr(names, name, size)
        yield


def twin(name):
    """The order as it is defined: text as text, runs of digits as numbers, then the name."""
    parts = re.split("([0-9]+)", name)
    parts[1::2] = map(int, parts[1::2])
    return parts, name


def test_natural_order():
    given = ["a10b", "a2b", "a02b", "a", "10", "9", "²", "a2", "a-", "a!", "A2"]
    expected = ["9", "10", "A2", "a", "a2", "a02b", "a2b", "a10b", "a!", "a-", "²"]
    assert sorted(given, key=natural) == expected


@given(FILE_NAMES)
def test_natural_order_is_that_of_its_twin(found):
    assert sorted(found, key=natural) == sorted(found, key=twin)
    assert [named(natural(name)) for name in found] == found


@given(FILE_NAMES)
def test_keys_are_sorted_on_disk_as_in_memory(found):
    assert list(map(named, in_order(map(natural, found)))) == sorted(found, key=twin)


@given(PATHS)
def test_a_list_comes_back_as_it_was_and_as_often_as_wanted(paths):
    kept = Names(iter(paths))
    assert len(kept) == len(paths)
    assert list(zip(kept, kept, strict=True)) == list(zip(paths, paths, strict=True))


@given(PATHS, st.integers(0, 30), st.none() | st.integers(0, 30))
def test_a_part_of_a_list_is_found_wherever_it_lies(paths, start, stop):
    assert list(Names(iter(paths)).between(start, stop)) == paths[start:stop]


@given(PATHS, PATHS)
def test_the_digest_tells_what_is_in_a_list(paths, others):
    same = Names(paths).digest == Names(others).digest
    assert same == (paths == others)
    assert Names(paths).digest == Names(iter(paths)).digest


def test_threads_may_read_a_list_at_once():
    given = [str(i) for i in range(500)]
    kept = Names(given)
    with ThreadPoolExecutor(4) as pool:
        assert all(found == given for found in pool.map(list, [kept] * 20))


def test_a_list_that_nobody_else_holds_can_be_read():
    assert list(Names(str(i) for i in range(100))) == [str(i) for i in range(100)]


@given(PATHS, st.randoms())
def test_what_is_named_twice_is_found_wherever_it_stands(paths, random):
    given = [f"{path}a.npy" for path in paths] * 2
    random.shuffle(given)
    given.append("last.npy")
    source = open_source(given)
    assert [cutout.id for cutout in source] == list(dict.fromkeys(given))
    assert source.duplicates == len(given) - len(source)


def test_a_long_list_takes_little_memory(monkeypatch):
    for name, size in {"CHUNK": 1000, "IN_MEMORY": 10_000, "BLOCK": 4096, "PART": 100}.items():
        monkeypatch.setattr(names, name, size)
    count = 50_000
    tracemalloc.start()
    kept = Names(map(named, in_order(natural(f"cutout_{i}.npy") for i in range(count))))
    assert sum(1 for _ in kept) == count
    _, peak = tracemalloc.get_traced_memory()
    held = list(kept)
    now, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(held) == count
    assert peak < now / 3


def test_no_room_for_a_list_is_said():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, before[1]))
    try:
        for work in (Names, lambda strings: list(in_order(strings))):
            with pytest.raises(InputError, match=r"no room .* TMPDIR"):
                work(str(i) for i in range(100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_place_for_a_list_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    for work in (Names, lambda strings: list(in_order(strings))):
        with pytest.raises(InputError, match=r"No such file or directory.* TMPDIR"):
            work(str(i) for i in range(100))
