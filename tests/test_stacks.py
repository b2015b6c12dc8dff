"""Stacked .npy: every plane is a cutout, read alone; what may be bands has to be said."""

import os
import subprocess
import sys

import numpy as np
import pytest
from cutouts import flag_of, ids
from hypothesis import given
from hypothesis import strategies as st
from nasty import REAL, images

from stronglens.engine.batches import Flag
from stronglens.engine.errors import InputError
from stronglens.engine.feed import feed
from stronglens.engine.preprocess import PreprocessSpec
from stronglens.engine.sources import open_source
from stronglens.engine.sources.npy import MAGIC

pytestmark = pytest.mark.usefixtures("folder")


@given(images([*REAL, "?"], square=False, planes=st.integers(10, 13)))
def test_each_plane_is_read_as_it_is_stored(tmp_path_factory, raw):
    path = tmp_path_factory.mktemp("stack") / "stack.npy"
    np.save(path, np.ascontiguousarray(raw))
    source = open_source([path])
    assert ids(source) == [f"{path}#{k}" for k in range(len(raw))]
    for cutout, plane in zip(source, raw, strict=True):
        found = cutout.read()
        assert found.dtype == raw.dtype
        np.testing.assert_array_equal(found, plane)
        assert not found.flags.writeable


@pytest.mark.parametrize(
    ("shape", "options", "count", "read"),
    [
        ((8, 8), {}, 1, (8, 8)),
        ((1, 8, 8), {}, 1, (1, 8, 8)),
        ((10, 8, 8), {}, 10, (8, 8)),
        ((3, 8, 8), {"stacked": True}, 3, (8, 8)),
        ((3, 8, 8), {"band": "2"}, 1, (8, 8)),
        ((8, 8, 3), {"band": "2"}, 1, (8, 8)),
        ((20, 8, 8), {"band": "2"}, 1, (20, 8)),
        ((12, 12, 3), {"stacked": True}, 12, (12, 3)),
        ((5, 8, 8, 1), {}, 5, (8, 8)),
        ((5, 1, 8, 8), {}, 5, (1, 8, 8)),
        ((5, 3, 8, 8), {"band": "1"}, 5, (8, 8)),
        ((5, 8, 8, 3), {"band": "1"}, 5, (8, 8)),
    ],
)
def test_what_the_axes_are(shape, options, count, read):
    np.save("a.npy", np.arange(np.prod(shape)).reshape(shape))
    source = open_source(["a.npy"], **options)
    assert ids(source) == (["a.npy"] if count == 1 else [f"a.npy#{k}" for k in range(count)])
    assert [cutout.read().shape for cutout in source] == [read] * count


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 16, 16), r"3×16×16 may be 3 cutouts or one with bands: give --stack, .*--band K"),
        ((9, 16, 16), "--stack"),
        ((16, 16, 3), "16×16×3 may be 16 cutouts or one with bands"),
        ((5, 3, 16, 16), "cutouts with bands: name one with --band K"),
    ],
)
@pytest.mark.parametrize("given", ["cat", "cat/*.npy", "cat/a.npy"])
def test_what_may_be_bands_has_to_be_said(folder, shape, message, given):
    (folder / "cat").mkdir()
    np.save("cat/a.npy", np.zeros(shape))
    with pytest.raises(InputError, match=f"cat/a.npy: .*{message}"):
        open_source([given])


def test_the_right_band_is_read(rng):
    raw = rng.normal(size=(12, 3, 8, 8))
    np.save("a.npy", raw)
    for k, cutout in enumerate(open_source(["a.npy"], band="1")):
        np.testing.assert_array_equal(cutout.read(), raw[k, 1])


def test_a_band_that_is_not_there_is_a_rejected_row():
    np.save("a.npy", np.zeros((3, 8, 8)))
    np.save("b.npy", np.zeros((8, 8)))
    source = open_source(["a.npy", "b.npy"], band="3")
    assert [flag_of(cutout) for cutout in source] == [Flag.SHAPE, Flag.SHAPE]


def test_a_part_of_a_stack_is_named_by_its_number(folder):
    np.save("stack.npy", np.zeros((12, 4, 4)) + np.arange(12)[:, None, None])
    source = open_source(["stack.npy#7", "stack.npy#07", "stack.npy#-1", "stack.npy#x"])
    assert ids(source) == ["stack.npy#7", "stack.npy#07", "stack.npy#-1", "stack.npy#x"]
    cutouts = list(source)
    assert cutouts[0].read()[0, 0] == 7
    assert flag_of(cutouts[2]) == flag_of(cutouts[3]) == Flag.MISSING
    (absent,) = open_source(["absent.npy#7"])
    assert flag_of(absent) == Flag.MISSING


def test_a_file_of_that_very_name_is_meant_before_a_part(folder):
    np.save("stack.npy", np.zeros((12, 4, 4)))
    np.save("stack.npy#7.npy", np.eye(4))
    (cutout,) = open_source(["stack.npy#7.npy"])
    np.testing.assert_array_equal(cutout.read(), np.eye(4))
    np.save("a.npy#b.npy", np.ones((12, 4, 4)))
    (cutout,) = open_source(["a.npy#b.npy#3"])
    np.testing.assert_array_equal(cutout.read(), np.ones((4, 4)))


def test_the_first_file_of_a_folder_speaks_for_all(folder):
    for name, shape in {"1": (12, 4, 4), "2": (4, 4), "3": (3, 4, 4), "4": (11, 4, 4)}.items():
        np.save(name, np.zeros(shape))
    stacks = open_source(["."])
    assert len(stacks) == 12 + 1 + 1 + 11
    (folder / "1.npy").unlink()
    assert ids(open_source(["."])) == ["./2.npy", "./3.npy", "./4.npy"]
    assert len(open_source(["2.npy", "4.npy"])) == 12  # each input speaks for itself


def test_of_many_inputs_the_first_speaks_for_all(folder):
    np.save("0.npy", np.zeros((12, 4, 4)))
    np.save("1.npy", np.zeros((4, 4)))
    names = [f"absent/{i}.npy" for i in range(300)]
    assert len(open_source(["1.npy", "0.npy", *names])) == 302
    assert len(open_source(["0.npy", "1.npy", *names])) == 12 + 301


def test_in_fortran_order_a_stack_is_refused_with_the_remedy():
    np.save("a.npy", np.asfortranarray(np.zeros((12, 4, 4))))
    with pytest.raises(InputError, match=r"Fortran order.*ascontiguousarray"):
        open_source(["a.npy"])
    (cutout,) = open_source(["a.npy#3"])
    assert flag_of(cutout) == Flag.SHAPE


def header(shape, pixels=b""):
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': %s}" % str(shape).encode()
    return MAGIC + b"\1\0" + len(text).to_bytes(2, "little") + text + pixels


@pytest.mark.parametrize(
    ("data", "flag"),
    [
        (b"", Flag.MALFORMED),
        (header((12, 4, 4), bytes(12 * 128 - 1)), Flag.MALFORMED),
        (header((12, 4, 4), bytes(12 * 128 + 1)), Flag.MALFORMED),
        (header((10**12, 4, 4)), Flag.MALFORMED),
        (header((0, 4, 4)), Flag.SHAPE),
        (header((12, 0, 4)), Flag.SHAPE),
        (header((2, 2, 2, 2, 2), bytes(256)), Flag.SHAPE),
        (header((12,), bytes(96)), Flag.SHAPE),
    ],
)
def test_a_stack_that_is_none_is_one_rejected_row(folder, data, flag):
    (folder / "a.npy").write_bytes(data)
    source = open_source(["a.npy"])
    assert ids(source) == ["a.npy"]
    assert [flag_of(cutout) for cutout in source] == [flag]


def test_objects_are_never_unpickled(folder):
    np.save("a.npy", np.full((12, 4, 4), None, object))
    (cutout,) = open_source(["a.npy"])
    assert flag_of(cutout) == Flag.DTYPE


def test_a_plane_of_gigabytes_is_refused_unread(folder):
    shape = (12, 1 << 14, 1 << 14)
    (folder / "a.npy").write_bytes(header(shape))
    os.truncate("a.npy", len(header(shape)) + 12 * 8 * (1 << 28))  # sparse: 24 GiB of nothing
    assert flag_of(next(iter(open_source(["a.npy"])))) == Flag.SHAPE


def test_a_stack_that_shrinks_or_goes_is_noticed(folder):
    np.save("a.npy", np.zeros((12, 64, 64)))
    *_, last = open_source(["a.npy"])
    last.read()
    os.truncate("a.npy", 5000)
    assert flag_of(last) == Flag.MALFORMED
    np.save("a.npy", np.ones((12, 64, 64)))
    assert last.read().all()
    (folder / "a.npy").unlink()
    assert flag_of(last) == Flag.MISSING


def test_a_stack_gives_the_rows_that_its_planes_give_alone(folder, rng):
    raw = rng.normal(size=(12, 8, 8)).astype(np.float32)
    raw[3, 0, 0], raw[5] = np.nan, 1.0
    (folder / "alone").mkdir()
    np.save("stack.npy", raw)
    np.savez_compressed("stack.npz", a=raw)
    for k, plane in enumerate(raw):
        np.save(f"alone/{k}.npy", plane)
    rows = []
    for each in ("alone", "stack.npy", "stack.npz"):
        batches = feed(open_source([each]), PreprocessSpec(size=8), batch_size=12, workers=2)
        (row,) = [(b.x_BHW.copy(), b.flags_B.copy(), b.nan_frac_B.copy()) for b in batches]
        rows.append(row)
    for other in rows[1:]:
        for found, expected in zip(other, rows[0], strict=True):
            np.testing.assert_array_equal(found, expected)


FEW_DESCRIPTORS = """
import resource
from stronglens.engine.preprocess import PreprocessSpec
from stronglens.engine.feed import feed
from stronglens.engine.sources import open_source

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
source = open_source(["stacks", "archives"])
batches = feed(source, PreprocessSpec(size=8), batch_size=32, workers=3)
flags = [flag for batch in batches for flag in batch.flags_B]
assert not any(flags), flags
print(len(flags))
"""


def test_a_few_descriptors_do_for_many_stacks(folder, rng):
    for name in ("stacks", "archives"):
        (folder / name).mkdir()
    for i in range(80):
        np.save(f"stacks/{i}.npy", rng.normal(size=(10, 8, 8)))
        np.savez_compressed(f"archives/{i}.npz", a=rng.normal(size=(10, 8, 8)))
    done = subprocess.run(
        [sys.executable, "-c", FEW_DESCRIPTORS], capture_output=True, text=True, cwd=folder
    )
    assert done.stdout.split() == ["1600"], done.stderr
