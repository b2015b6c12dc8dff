"""How fast are the simulated cutouts made, and how near to lenstronomy's are they?

    python benchmarks/simulator.py

Finished files, noise, PSF and writing included, on all cores; and one expected image on one
core, ours against lenstronomy's LensModel and LightModel in chunks that stay in the cache.
"""

import os
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
from common import seconds, table, write_result
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LightModel.light_model import LightModel
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from stronglens.training.simulate.shooting import PIXEL, SIDE, SUBPIXELS
from stronglens.training.simulate.substructure import (
    RECIPE,
    Scene,
    Substructure,
    draw_scene,
    draw_substructure,
    expose,
)
from stronglens.training.simulate.writer import simulate

CHUNK = 9000
AT = (np.arange(SIDE * SUBPIXELS) - (SIDE * SUBPIXELS - 1) / 2) * PIXEL / SUBPIXELS
X, Y = (axis.ravel() for axis in np.meshgrid(AT, AT))
LIGHT = LightModel(["SERSIC_ELLIPSE"])


def lenstronomy_expose(scene: Scene, extra: Substructure) -> NDArray[np.float64]:
    """Return the expected counts (150, 150) by lenstronomy; no line masses."""
    halo = scene.theta_E * np.sqrt(1 - extra.fraction)
    masses = [{"theta_E": halo}, {"gamma1": scene.gamma1, "gamma2": scene.gamma2}]
    masses += [
        {"theta_E": np.sqrt(theta2), "center_x": px, "center_y": py}
        for px, py, theta2 in extra.points_P3
    ]
    lens = LensModel(["SIS", "SHEAR"] + ["POINT_MASS"] * len(extra.points_P3))
    source = {
        "amp": scene.counts, "R_sersic": RECIPE.source_radius, "n_sersic": RECIPE.sersic_index,
        "e1": scene.e1, "e2": scene.e2,
        "center_x": scene.source_x, "center_y": scene.source_y,
    }  # fmt: skip
    rays = np.empty(X.size)
    for part in (slice(start, start + CHUNK) for start in range(0, X.size, CHUNK)):
        rays[part] = LIGHT.surface_brightness(
            *lens.ray_shooting(X[part], Y[part], masses), [source]
        )
    sharp_HW = rays.reshape(SIDE, SUBPIXELS, SIDE, SUBPIXELS).mean(axis=(1, 3))
    return gaussian_filter(sharp_HW, RECIPE.psf_sigma / PIXEL, mode="nearest", truncate=4)


def against_lenstronomy(cls: str, count: int = 40) -> list[str]:
    """Return a row: both rates on one core, their ratio, the largest difference."""
    rng = np.random.default_rng(0)
    scenes = [draw_scene(rng) for _ in range(count)]
    pairs = [(scene, draw_substructure(rng, cls, scene.theta_E)) for scene in scenes]
    apart = max(
        np.abs(expose(*pair) - (peer := lenstronomy_expose(*pair))).max() / peer.max()
        for pair in pairs
    )
    ours = seconds(lambda: [expose(*pair) for pair in pairs]) / count
    theirs = seconds(lambda: [lenstronomy_expose(*pair) for pair in pairs], repeats=3) / count
    return [cls, f"{1 / theirs:.0f}", f"{1 / ours:.0f}", f"{theirs / ours:.1f}", f"{apart:.1e}"]


def finished(task: str, train: int, val: int) -> list[str]:
    """Return a row: files a second, after one small set that compiles the kernels."""
    with tempfile.TemporaryDirectory() as folder:
        simulate(task, Path(folder, "warm"), train=2, val=2, seed=0)
        start = perf_counter()
        simulate(task, Path(folder, "set"), train=train, val=val, seed=1)
        lasted = perf_counter() - start
        count = sum(1 for _ in Path(folder, "set").rglob("*.npy"))
    return [task, f"{count:,}", f"{count / lasted:.0f}"]


def main() -> None:
    files = [finished("substructure", 1000, 200), finished("lensfinding", 60, 60)]
    images = [against_lenstronomy("no"), against_lenstronomy("sphere")]
    rates = ", ".join(f"{task} {rate}" for task, _, rate in files)
    ratios = " and ".join(f"{line[3]} times (class {line[0]})" for line in images)
    far = max(float(line[4]) for line in images)
    write_result(
        "simulator",
        "The simulator",
        f"Finished files, {os.cpu_count()} cores:",
        table(["task", "cutouts", "cutouts/s"], files),
        "Expected images at 2×2 sub-pixels, one core:",
        table(["class", "lenstronomy/s", "ours/s", "ratio", "max difference / peak"], images),
        readme=[
            ("simulated cutouts as finished files, a second", rates),
            (
                "their expected images on one core, against lenstronomy",
                f"{ratios}, at most {far:.0e} of the peak apart",
            ),
        ],
    )


if __name__ == "__main__":
    main()
