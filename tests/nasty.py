"""Arrays chosen to hurt: one strategy for all tests of kernels, preprocessing and sources."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

FLOATS = ["f2", "f4", "f8", "g"]
INTEGERS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]
REAL = [*FLOATS, *INTEGERS]
KERNEL = ["f4", "f8", "u1", "i2", "u2", "i4"]
"""what the kernels are compiled for"""

HARD = [0.0, -0.0, 1.0, 5e-324, 1e-310, 6e-8, 65504.0, 3e38, -3e38, 1.7976931348623157e308]
"""the smallest of float64 and of float16, subnormals, and the largest of each kind"""
OFFSETS = [0.0, 1.0, 1000.0, -1e6, 1e30]
"""what the pixels may lie around: beside the larger ones their spread is hardly to be seen"""


def elements(dtype):
    """Any value of a dtype, with NaN, ±inf and the extremes often among them."""
    if dtype.kind not in "fiu":
        return hnp.from_dtype(dtype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        low, high = int(limits.min), int(limits.max)
        return st.integers(low, high) | st.sampled_from([low, 0, 1, high])
    width = min(dtype.itemsize * 8, 64)
    top = float(np.finfo(f"f{width // 8}").max)
    hard = [v for v in HARD if abs(v) <= top and float(np.dtype(f"f{width // 8}").type(v)) == v]
    return st.one_of(
        st.floats(width=width),
        st.floats(-10, 10, width=width),
        st.sampled_from([*hard, top, -top, np.nan, np.inf, -np.inf]),
    )


@st.composite
def pixels(draw, dtypes=KERNEL, size=None):
    """Flat pixels: any values; few distinct ones; a plateau; or a spread around an offset.

    Of the floats some, most or all may be missing: NaN or infinite.
    """
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    size = draw(st.integers(1, 700) if size is None else st.just(size))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["any", "few", "constant", "plateau", "spread"]))
    if kind == "any":
        raw_P = draw(hnp.arrays(dtype, min(size, 80), elements=elements(dtype)))
        raw_P = rng.permutation(np.resize(raw_P, size))
    elif kind in ("few", "constant"):
        some = st.integers(1, 12) if kind == "few" else st.just(1)
        raw_P = rng.choice(draw(hnp.arrays(dtype, some, elements=elements(dtype))), size)
    else:
        raw_P = _spread(rng, dtype, size, draw(st.sampled_from(OFFSETS)))
        if kind == "plateau":
            raw_P[rng.random(size) < draw(st.sampled_from([0.01, 0.3]))] = raw_P.max()
    if dtype.kind == "f":
        missing = draw(st.sampled_from([0, 0, 0.1, 0.9, 1]))
        raw_P[rng.random(size) < missing] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    return raw_P


def _spread(rng, dtype, size, offset):
    """Values of very different sizes around an offset, as far as the dtype holds them."""
    if dtype.kind == "b":
        return rng.random(size) < 0.5
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    low, high = (float(limits.min), float(limits.max)) if dtype.itemsize <= 8 else (-1e308, 1e308)
    spread = rng.normal(size=size) * 10.0 ** rng.uniform(-3, 3, size) + offset
    if dtype.itemsize == 8 and dtype.kind in "iu":  # the very largest are no floats
        low, high = low / 2, high / 2
    return np.clip(spread, low, high).astype(dtype)


@st.composite
def images(draw, dtypes=REAL, sides=None, square=True, planes=None):
    """An image of any real dtype, byte and memory order, often a view that is not contiguous.

    H×W or 1×H×W, from a single pixel on; with `planes`, a strategy, N×H×W too.
    """
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    sides = st.integers(1, 9) if sides is None else sides
    height = draw(sides)
    width = height if square else draw(sides)
    count = 1 if planes is None else draw(planes)
    raw = draw(pixels([dtype], count * height * width)).reshape(count, height, width)
    raw = raw if count > 1 or draw(st.booleans()) else raw[0]
    return laid_out(draw, raw)


def laid_out(draw, raw):
    """The same values in another byte order, in another memory order, or as a view."""
    raw = raw.astype(raw.dtype.newbyteorder(draw(st.sampled_from("<>"))))
    layout = draw(st.sampled_from(["C", "F", "reversed", "every other", "transposed"]))
    if layout == "F":
        return np.asfortranarray(raw)
    if layout == "reversed":
        return raw[..., ::-1, :][..., ::-1]
    if layout == "every other":
        wide = np.empty((*raw.shape[:-1], 2 * raw.shape[-1]), raw.dtype)
        wide[..., ::2] = raw
        wide[..., 1::2] = 0
        return wide[..., ::2]
    if layout == "transposed":
        return np.ascontiguousarray(raw.swapaxes(-1, -2)).swapaxes(-1, -2)
    return raw


@st.composite
def wrong_shapes(draw, size):
    """A shape that no cutout of a model for size×size pixels has."""
    sides = st.integers(0, size + 2)
    shape = draw(st.lists(sides, max_size=5).map(tuple))
    right = shape in ((size, size), (1, size, size))
    return (*shape, size + 1) if right else shape


NOT_REAL = ["?", "c8", "c16", "M8[s]", "m8[us]", "S3", "U2", "V4"]
"""dtypes that are no pixels; objects and structures beside them"""


@st.composite
def not_pixels(draw, size):
    """An array of the right shape whose elements are not real numbers."""
    dtype = np.dtype(draw(st.sampled_from([*NOT_REAL, "f4,f4", "O"])))
    return np.zeros((size, size), dtype)
