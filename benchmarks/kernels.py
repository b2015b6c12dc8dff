"""How fast are the compiled kernels beside numpy's way of the same, on pixels in the cache?

    python benchmarks/kernels.py

One cutout, one thread. GB/s counts the pixels as stored, read once.
"""

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
from common import seconds, table, write_result
from numpy.typing import NDArray

from stronglens.engine import asinh, fill
from stronglens.engine.kernels import kernel
from stronglens.engine.preprocess import Mode, PreprocessSpec

SIDE, CALLS = 150, 300
DTYPES = ("f8", "f4", "i2")
SOFTENING = PreprocessSpec().softening


def numpy_way(raw_P: NDArray[Any], mode: str) -> NDArray[np.float32]:
    """Do in numpy what a mode does."""
    finite_P = np.isfinite(raw_P)
    good = raw_P[finite_P].astype(np.float64)
    if mode == "minmax":
        low = good.min()
        x = (raw_P - low) / (good.max() - low)
    elif mode == "asinh":
        median = np.median(good)
        sigma = asinh.MAD_TO_SIGMA * np.median(np.abs(good - median))
        x = np.arcsinh((raw_P - median) / (SOFTENING * sigma))
    else:
        x = raw_P
    return np.where(finite_P, x, 0).astype(np.float32)


def microseconds(work: Callable[[], object]) -> float:
    def many() -> None:
        for _ in range(CALLS):
            work()

    return seconds(many) / CALLS * 1e6


def row(name: str, raw_P: Any, ours: Callable[[], Any], theirs: Callable[[], Any]) -> list[str]:
    """Time the two and compare what they return."""
    with np.errstate(invalid="ignore"):
        differ = np.abs(np.asarray(ours(), float) - np.asarray(theirs(), float)).max()
        fast, slow = microseconds(ours), microseconds(theirs)
    rate = raw_P.nbytes / fast / 1e3
    return [
        name,
        f"{slow:.1f}",
        f"{fast:.1f}",
        f"{slow / fast:.1f}",
        f"{rate:.0f}",
        f"{differ:.1e}",
    ]


def pixels(rng: np.random.Generator, dtype: str) -> NDArray[Any]:
    raw_P = (100 + rng.normal(size=SIDE * SIDE) * 20).astype(dtype)
    if raw_P.dtype.kind == "f":
        raw_P[rng.random(raw_P.size) < 0.01] = np.nan
    return raw_P


def main() -> None:
    rng = np.random.default_rng(1)
    rows = []
    out_P = np.empty(SIDE * SIDE, np.float32)
    for dtype in DTYPES:
        raw_P = pixels(rng, dtype)
        for mode in get_args(Mode):
            prepare = kernel(mode, raw_P.dtype)
            rows.append(
                row(
                    f"{mode}, {raw_P.dtype}",
                    raw_P,
                    lambda k=prepare, r=raw_P: (k(r, SOFTENING, out_P), out_P)[1],
                    lambda m=mode, r=raw_P: numpy_way(r, m),
                )
            )
        words_P = raw_P.view(f"u{raw_P.itemsize}")
        rows.append(
            row(
                f"swap bytes, {raw_P.itemsize} a word",
                raw_P,
                lambda w=words_P: (fill.swap_bytes(w), 0)[1],
                lambda w=words_P: (w.byteswap(inplace=True), 0)[1],
            )
        )
    image_P = rng.random(SIDE * SIDE, np.float32)
    image_HW, room_P = image_P.reshape(SIDE, SIDE), np.empty_like(image_P)
    rows.append(
        row(
            "transpose, float32",
            image_P,
            lambda: (fill.transpose(image_P, room_P, out_P, SIDE), out_P)[1],
            lambda: np.ascontiguousarray(image_HW.T).ravel(),
        )
    )
    write_result(
        "kernels",
        "Compiled kernels beside numpy",
        f"One cutout of {SIDE}×{SIDE} pixels, 1 % of them NaN where they are floats; one thread; "
        "medians; the 0.4 µs of a call from Python are in all figures.",
        table(["kernel", "numpy, µs", "ours, µs", "ratio", "GB/s", "max abs Δ"], rows),
    )


if __name__ == "__main__":
    main()
