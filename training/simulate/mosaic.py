"""One PNG of a simulated data set, to see at a glance what was made."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stronglens.training.simulate.layout import Target

ACROSS = 8
GAP = 4  # white pixels between cutouts


def save_mosaic(path: Path, out: Path, targets: list[Target], *, shuffled: bool = False) -> None:
    """Write the first cutouts of each class, a class a row; where shuffled, the first of all."""
    classes = [""] * 4 if shuffled else list(dict.fromkeys(target.cls for target in targets))
    picks = [
        targets[row * ACROSS :][:ACROSS]
        if shuffled
        else [target for target in targets if target.cls == cls][:ACROSS]
        for row, cls in enumerate(classes)
    ]
    tiles = [
        [grey(np.load(out / target.path, allow_pickle=False)) for target in row] for row in picks
    ]
    side = tiles[0][0].shape[-1] + GAP
    sheet_HW = np.full((side * len(tiles) + GAP, side * ACROSS + GAP), 255, np.uint8)
    for i, row in enumerate(tiles):
        for j, tile_HW in enumerate(row):
            top, left = GAP + i * side, GAP + j * side
            sheet_HW[top : top + side - GAP, left : left + side - GAP] = tile_HW
    part = path.with_name(f".{path.name}.part")
    Image.fromarray(sheet_HW).save(part, format="png")
    part.replace(path)


def grey(cutout: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Stretch a cutout (H×W or 1×H×W) to 0 … 255: asinh from its median, missing pixels black."""
    cutout_HW = cutout.reshape(cutout.shape[-2:]).astype(np.float64)
    finite = cutout_HW[np.isfinite(cutout_HW)]
    low, high = np.percentile(finite, [20, 99.7])
    scaled_HW = np.nan_to_num((cutout_HW - low) / max(high - low, 1e-9), nan=-1.0)
    stretched_HW = np.arcsinh(10 * np.clip(scaled_HW, 0, 1)) / np.arcsinh(10)
    grey_HW: NDArray[np.uint8] = np.rint(255 * stretched_HW).astype(np.uint8)
    return grey_HW
