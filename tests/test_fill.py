"""Rows filled by compiled code are the rows that numpy and `prepare` give; the odd ones too."""

import os
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nasty import images

from stronglens.engine import fill
from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError
from stronglens.engine.feed import feed
from stronglens.engine.preprocess import KERNEL_DTYPES, PreprocessSpec, prepare
from stronglens.engine.sources.npy import NpyCutout

SIDE = 9
DTYPES = {"none": ["f4"], "minmax": ["f8", "f4", "i2", "u2", "i4", "u1"], "asinh": ["f8", "i2"]}
"""to try in a mode: each takes seconds to compile, and the modes share their loops"""


def image(rng, dtype="f8", swapped=False, order="C", bands=False, side=SIDE):
    """A cutout with missing pixels, stored in some layout."""
    v_HW = rng.normal(size=(side, side)) * 30 + 90
    if np.dtype(dtype).kind == "f":
        v_HW[rng.random(v_HW.shape) < 0.1] = rng.choice([np.nan, np.inf, -np.inf])
    raw = v_HW.astype(dtype)
    raw = raw.astype(raw.dtype.newbyteorder()) if swapped else raw
    return np.asarray(raw[None] if bands else raw, order=order)


def expected(path, spec):
    """What Python alone makes of a file."""
    x_HW = np.zeros((spec.size, spec.size), np.float32)
    try:
        flags, nan_frac = prepare(NpyCutout(path).read(), spec, x_HW)
    except CutoutError as err:
        flags, nan_frac = err.flag, np.nan
    return x_HW, flags, nan_frac


def check(paths, spec, workers=1):
    """Feed the files and compare each row with `expected`; return the flags."""
    flags = []
    cutouts = [NpyCutout(str(path)) for path in paths]
    for batch in feed(cutouts, spec, batch_size=7, workers=workers):
        for b, path in enumerate(batch.ids):
            x_HW, flag, nan_frac = expected(path, spec)
            np.testing.assert_array_equal(batch.x_BHW[b], x_HW)
            np.testing.assert_allclose(batch.nan_frac_B[b], nan_frac, rtol=1e-6)
            assert batch.flags_B[b] == flag
            flags.append(Flag(flag))
    assert len(flags) == len(paths)
    return flags


@pytest.fixture
def python_reads(monkeypatch):
    """Counts the files that Python reads, as opposed to compiled code."""
    read: list[str] = []
    plain = NpyCutout.read
    monkeypatch.setattr(NpyCutout, "read", lambda self: read.append(self.id) or plain(self))
    return read


@pytest.mark.parametrize("mode", DTYPES)
def test_every_layout_gives_the_same_rows(mode, rng, tmp_path):
    paths = []
    for n, layout in enumerate(product(DTYPES[mode], (False, True), "CF", (False, True))):
        for copy in range(2):
            paths.append(tmp_path / f"{n}_{copy}.npy")
            np.save(paths[-1], image(rng, *layout))
    spec = PreprocessSpec(mode=mode, size=SIDE)
    check(paths, spec)
    check(paths[::2] + paths[1::2], spec, workers=3)


@pytest.mark.skipif(not fill.POSIX, reason="the compiled way needs a POSIX system")
@pytest.mark.parametrize("dtype", sorted(dtype.str for dtype in KERNEL_DTYPES))
def test_ordinary_files_are_not_read_by_python(dtype, rng, tmp_path, python_reads):
    paths = [tmp_path / f"{n}.npy" for n in range(40)]
    for path in paths:
        np.save(path, image(rng, dtype))
    cutouts = [NpyCutout(str(path)) for path in paths]
    batches = feed(cutouts, PreprocessSpec(size=SIDE), batch_size=16, workers=2)
    assert sum(len(batch.ids) for batch in batches) == 40
    assert python_reads == []


def test_files_that_differ_from_their_neighbours_are_found_out(rng, tmp_path):
    good = tmp_path / "good.npy"
    np.save(good, image(rng))
    whole = good.read_bytes()
    odd = {
        "longer": whole + b"\0",
        "shorter": whole[:-1],
        "no pixels": whole[:128],
        "empty": b"",
        "another header": whole.replace(b"<f8", b"<i8"),
        "a damaged header": whole.replace(b"shape", b"sharp"),
        "objects": whole.replace(b"'<f8'", b"'|O' "),
        "constant": whole[:128] + whole[128:136] * SIDE**2,
        "all missing": whole[:128] + np.full(SIDE**2, np.nan).tobytes(),
    }
    paths = [good]
    for n, (name, content) in enumerate(odd.items()):
        path = tmp_path / f"{name}.npy"
        path.write_bytes(content)
        paths += [path, good.with_name(f"good {n}.npy")]
        paths[-1].write_bytes(whole)
    folder, fifo = tmp_path / "folder.npy", tmp_path / "fifo.npy"
    folder.mkdir()
    os.mkfifo(fifo)
    paths += [folder, good, fifo, good, tmp_path / "absent.npy", good]
    np.save(tmp_path / "large.npy", image(rng, side=SIDE + 1))
    paths += [tmp_path / "large.npy", good]
    flags = check(paths, PreprocessSpec(size=SIDE))
    assert flags[::2] == [Flag.NONFINITE] * len(flags[::2])
    assert flags[1::2] == [
        *[Flag.MALFORMED] * 4,
        Flag.SATURATED,  # int64 is read by Python
        Flag.MALFORMED,
        Flag.DTYPE,
        Flag.CONSTANT,
        Flag.EMPTY | Flag.NONFINITE | Flag.MOSTLY_MISSING,
        *[Flag.UNREADABLE] * 2,
        Flag.MISSING,
        Flag.SHAPE,
    ]


@pytest.mark.parametrize(
    "name", ["ünï 'quoted'.npy", os.fsdecode(b"latin-1 \xe9.npy"), "\U0001f30c.npy"]
)
def test_names_of_any_bytes(name, rng, tmp_path, python_reads):
    np.save(tmp_path / "plain.npy", image(rng))
    (tmp_path / "plain.npy").rename(tmp_path / name)
    (batch,) = feed(
        [NpyCutout(f"{tmp_path}/{name}")], PreprocessSpec(size=SIDE), batch_size=2, workers=1
    )
    assert batch.flags_B[0] == Flag.NONFINITE
    assert python_reads == [] or not fill.POSIX


@pytest.mark.parametrize("ending", ["\0b.npy", "\ud800.npy"])
def test_a_name_that_no_file_can_have_is_missing(ending, rng, tmp_path):
    np.save(tmp_path / "a.npy", image(rng))
    cutouts = [NpyCutout(f"{tmp_path}/a.npy"), NpyCutout(f"{tmp_path}/a.npy{ending}")]
    (batch,) = feed(cutouts, PreprocessSpec(size=SIDE), batch_size=2, workers=1)
    assert batch.flags_B.tolist() == [Flag.NONFINITE, Flag.MISSING]


@given(st.lists(images([*DTYPES["minmax"], "i8"], sides=st.just(SIDE)), min_size=1, max_size=20))
def test_nasty_pixels(tmp_path_factory, arrays):
    folder = tmp_path_factory.mktemp("nasty")
    paths = [folder / f"{n}.npy" for n in range(len(arrays))]
    for path, array in zip(paths, arrays, strict=True):
        np.save(path, array)
    check(paths, PreprocessSpec(size=SIDE, mode="minmax"), workers=2)


@given(st.lists(st.sampled_from(["f8", "f4", "bad", "large", "png"]), min_size=1, max_size=40))
def test_any_mixture(tmp_path_factory, kinds):
    folder = tmp_path_factory.getbasetemp() / "mixture"
    if not folder.exists():
        folder.mkdir()
        rng = np.random.default_rng(1)
        np.save(folder / "f8.npy", image(rng))
        np.save(folder / "f4.npy", image(rng, "f4", swapped=True, order="F"))
        np.save(folder / "large.npy", image(rng, side=20))
        (folder / "bad.npy").write_bytes(b"\x93NUMPY")
        (folder / "png.npy").write_bytes(b"\x89PNG")
    check([folder / f"{kind}.npy" for kind in kinds], PreprocessSpec(size=SIDE, mode="minmax"))
