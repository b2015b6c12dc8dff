"""Small outputs, and strategies for awkward ones."""

import os
from itertools import pairwise

import numpy as np
from hypothesis import strategies as st

from stronglens.engine.batches import REJECTED, Column, Flag, Rows
from stronglens.engine.sinks import Shape, open_sink

CLASSES = ["lens", "nonlens"]
ENDINGS = [".csv", ".parquet", ".fits", ".vot"]

AWKWARD = [
    *("a,b", 'a"b', "a\nb", "a\r\nb", "a\rb", "=cmd|' /C calc'!A0", "🔭", "-x", " a ", "a  ", "%s"),
    *(
        "C:\\new",
        "\\\\host\\x41",
        "\\",
        "a\\",
        "\\ ",
        "<a>&amp;",
        "]]>",
        "é",
        "\x7f\x85\ufffe",
        "\t",
    ),
    *("\\xff", "\\\udcff", "\udcff\udcfe", "\\xgg", "\\xFF", "a\u2028b", "\N{NO-BREAK SPACE}"),
]


def rows(ids, prob_BK=None, flags=None, nan_frac=None, carried=()):
    """Rows with these, else all scored alike; what is rejected has no probabilities."""
    n = len(ids)
    flags_B = np.zeros(n, np.uint16) if flags is None else np.asarray(flags, np.uint16)
    prob_BK = [[0.75, 0.25]] * n if prob_BK is None else prob_BK
    prob_BK = np.array(prob_BK, np.float32).reshape(n, len(CLASSES))
    prob_BK[(flags_B & np.uint16(REJECTED)) != 0] = np.nan
    nan_frac_B = np.zeros(n) if nan_frac is None else nan_frac
    return Rows(list(ids), prob_BK, flags_B, np.asarray(nan_frac_B, np.float32), list(carried))


FLAGS = [0, Flag.MISSING, Flag.NONFINITE, Flag.CONSTANT | Flag.NONFINITE, Flag.SATURATED]


def mixed():
    prob_BK = [[0.75, 0.25], [0, 0], [0.1, 0.9], [0, 0], [0.5, 0.5]]
    names = ["a.npy", "b.npy", "c.npy", "d.npy", "e.npy"]
    return rows(names, prob_BK, FLAGS, [0, np.nan, 0.125, 0.5, 0])


def write(path, table, columns=(), longest=None, cuts=()):
    """Write rows, cut in pieces before these places."""
    shape = Shape(CLASSES, list(columns), len(table.ids), longest or {})
    with open_sink(path, shape) as sink:
        for piece in pieces(table, cuts):
            sink.write(piece)
    return path


def pieces(table, cuts):
    """Yield rows cut before these places."""
    places = [0, *sorted(cuts), len(table.ids)]
    for start, stop in pairwise(places):
        part = slice(start, stop)
        yield Rows(
            table.ids[part],
            table.prob_BK[part],
            table.flags_B[part],
            table.nan_frac_B[part],
            table.carried[part],
        )


def joined(tables):
    """Return pieces as one."""
    tables = list(tables)
    return Rows(
        [name for table in tables for name in table.ids],
        np.concatenate([table.prob_BK for table in tables]),
        np.concatenate([table.flags_B for table in tables]),
        np.concatenate([table.nan_frac_B for table in tables]),
        [row for table in tables for row in table.carried],
    )


def assert_same(found, expected, digits=False):
    """Compare all but the carried values; with `digits`, nan_frac to six of them."""
    assert found.ids == expected.ids
    np.testing.assert_array_equal(found.prob_BK, expected.prob_BK)
    np.testing.assert_array_equal(found.flags_B, expected.flags_B)
    np.testing.assert_allclose(found.nan_frac_B, expected.nan_frac_B, rtol=1e-5 * digits)
    assert (found.prob_BK.dtype, found.flags_B.dtype) == (np.float32, np.uint16)
    assert found.nan_frac_B.dtype == np.float32


# any bytes that a file's name may hold
NAMES = st.binary(min_size=1, max_size=30).map(lambda b: os.fsdecode(b.replace(b"\0", b"0")))
IDS = NAMES | st.sampled_from(AWKWARD) | st.text("\\x0af\udcff \n", min_size=1)
TEXTS = IDS | st.just("")
COLUMNS = [Column("RA", "float"), Column("n", "int"), Column("label", "text")]
CARRIED = st.tuples(
    (st.floats().map(repr) | st.sampled_from(["", "1", "007.50", "-INF"])),
    (st.integers(-(2**63) + 1, 2**63 - 1).map(str) | st.sampled_from(["", "007", "+5"])),
    TEXTS,
).map(list)


@st.composite
def tables(draw, most=8):
    """Rows of any flags, some with catalogue columns; see COLUMNS."""
    ids = draw(st.lists(IDS, min_size=1, max_size=most))
    some = st.lists(
        st.sampled_from([*Flag, Flag.NONFINITE | Flag.SATURATED, Flag.CONSTANT | Flag.EMPTY]),
        min_size=len(ids),
        max_size=len(ids),
    )
    share = st.floats(0, 1, width=32)
    prob_BK = [[p, 1 - p] for p in draw(st.tuples(*[share for _ in ids]))]
    flags = draw(some)
    # NaN where nothing could be read
    nan_frac = [np.nan if f & Flag.MISSING else draw(share) for f in flags]
    return rows(ids, prob_BK, flags, nan_frac, draw(st.tuples(*[CARRIED for _ in ids])))
