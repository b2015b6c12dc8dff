"""SimCLR views: random crops of a cutout, flipped, brightened, blurred.

Distributions and arithmetic are torchvision's (RandomResizedCrop, RandomHorizontalFlip,
ColorJitter, GaussianBlur, in this order), for one band and a whole batch at once; every number
is drawn first, from one generator, then applied.

Two things follow torchvision because the reference work did. Jittered views are clamped to
[0, 1], the range torchvision takes float pixels to have: in HST cutouts (sky near 0.08 counts
a second) that cuts negative noise and the cores of bright galaxies, and only in jittered views.
Saturation and hue leave one band as it is.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from stronglens.training.tasks import SimclrRecipe

TRIES = 10
"""crops drawn before the whole cutout is taken, as in torchvision"""


@dataclass(frozen=True, slots=True)
class ViewParams:
    """What is done to each of B cutouts to make a view of it; all on the CPU."""

    box_B4: Tensor
    """top, left, height, width of the crop in pixels, int64"""
    flip_B: Tensor
    jitter_B: Tensor
    brightness_B: Tensor
    contrast_B: Tensor
    """factors, float32; 1 changes nothing but the clamp"""
    brightness_first_B: Tensor
    blur_B: Tensor
    sigma_B: Tensor
    """of the blur, pixels of the view, float32"""


def two_views(x_BHW: Tensor, recipe: SimclrRecipe, rng: torch.Generator) -> Tensor:
    """Return two views of each cutout, (2B, crop_size, crop_size): rows b and B + b are a pair."""
    return torch.cat(
        [apply(x_BHW, draw(len(x_BHW), x_BHW.shape[1:], recipe, rng), recipe) for _ in range(2)]
    )


def draw(
    count: int, shape_HW: tuple[int, ...], recipe: SimclrRecipe, rng: torch.Generator
) -> ViewParams:
    """Draw the parameters of `count` views of cutouts of `shape_HW` from a CPU generator."""

    def chance(prob: float) -> Tensor:
        return torch.rand(count, generator=rng) < prob

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=rng)

    brightness, contrast = recipe.jitter[:2]
    return ViewParams(
        box_B4=_draw_boxes(count, shape_HW, recipe, rng),
        flip_B=chance(recipe.flip_prob),
        jitter_B=chance(recipe.jitter_prob),
        brightness_B=between(max(0.0, 1 - brightness), 1 + brightness),
        contrast_B=between(max(0.0, 1 - contrast), 1 + contrast),
        brightness_first_B=chance(0.5),
        blur_B=chance(recipe.blur_prob),
        sigma_B=between(*recipe.blur_sigma),
    )


@torch.no_grad()
def apply(x_BHW: Tensor, params: ViewParams, recipe: SimclrRecipe) -> Tensor:
    """Return the view of each cutout, (B, crop_size, crop_size) float32, on the input's device."""
    with torch.autocast(x_BHW.device.type, enabled=False):
        view_BHW = _crop(x_BHW.float(), params, recipe.crop_size)
        view_BHW = _jitter(view_BHW, params)
        return _blur(view_BHW, params, recipe.blur_kernel)


def _draw_boxes(
    count: int, shape_HW: tuple[int, ...], recipe: SimclrRecipe, rng: torch.Generator
) -> Tensor:
    """Draw crops as RandomResizedCrop does: uniform in area, log-uniform in width over height.

    The first of TRIES that fits is taken; where none does, the largest centred crop whose ratio
    is allowed, which of a square cutout is all of it.
    """
    rows, columns = shape_HW
    area_TB, ratio_TB, y_TB, x_TB = torch.rand(
        4, TRIES, count, generator=rng, dtype=torch.float64
    ).unbind()
    scale, ratio = recipe.crop_scale, recipe.crop_ratio
    area_TB = rows * columns * (scale[0] + (scale[1] - scale[0]) * area_TB)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    ratio_TB = torch.exp(low + (high - low) * ratio_TB)
    width_TB = torch.sqrt(area_TB * ratio_TB).round()
    height_TB = torch.sqrt(area_TB / ratio_TB).round()
    fits_TB = (width_TB > 0) & (width_TB <= columns) & (height_TB > 0) & (height_TB <= rows)
    box_4TB = torch.stack(
        [
            torch.floor(y_TB * (rows - height_TB + 1)),
            torch.floor(x_TB * (columns - width_TB + 1)),
            height_TB,
            width_TB,
        ]
    )
    first_B = fits_TB.int().argmax(dim=0)  # argmax takes the first of equals
    box_B4 = box_4TB[:, first_B, torch.arange(count)].T.long()
    whole_4 = torch.tensor(_largest(rows, columns, ratio))
    return torch.where(fits_TB.any(dim=0)[:, None], box_B4, whole_4)


def _largest(rows: int, columns: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    height, width = rows, columns
    if columns / rows < ratio[0]:
        height = round(columns / ratio[0])
    elif columns / rows > ratio[1]:
        width = round(rows * ratio[1])
    return (rows - height) // 2, (columns - width) // 2, height, width


def _crop(x_BHW: Tensor, params: ViewParams, size: int) -> Tensor:
    """Crop, resize with antialiasing, flip left-right: each cutout has a crop of its own size."""
    view_BHW = x_BHW.new_empty(len(x_BHW), size, size)
    boxes, flips = params.box_B4.tolist(), params.flip_B.tolist()
    for row, ((top, left, height, width), flip) in enumerate(zip(boxes, flips, strict=True)):
        crop_11HW = x_BHW[row, top : top + height, left : left + width][None, None]
        view_HW = F.interpolate(
            crop_11HW, (size, size), mode="bilinear", align_corners=False, antialias=True
        )[0, 0]
        view_BHW[row] = view_HW.flip(1) if flip else view_HW
    return view_BHW


def _jitter(x_BHW: Tensor, params: ViewParams) -> Tensor:
    for brightness_first in (True, False):
        rows = torch.nonzero(params.jitter_B & (params.brightness_first_B == brightness_first))[
            :, 0
        ]
        if len(rows):
            steps = [(_brighten, params.brightness_B), (_stretch, params.contrast_B)]
            part_BHW = x_BHW[rows.to(x_BHW.device)]
            for change, factor_B in steps if brightness_first else reversed(steps):
                part_BHW = change(part_BHW, factor_B[rows].to(x_BHW.device)[:, None, None])
            x_BHW[rows.to(x_BHW.device)] = part_BHW
    return x_BHW


def _brighten(x_BHW: Tensor, factor_B11: Tensor) -> Tensor:
    return (x_BHW * factor_B11).clamp_(0, 1)


def _stretch(x_BHW: Tensor, factor_B11: Tensor) -> Tensor:
    mean_B11 = x_BHW.mean(dim=(1, 2), keepdim=True)
    return (x_BHW * factor_B11 + mean_B11 * (1 - factor_B11)).clamp_(0, 1)


def _blur(x_BHW: Tensor, params: ViewParams, kernel: int) -> Tensor:
    """Blur each chosen view by its own Gaussian, cut off at the kernel's edge; edges mirrored."""
    rows = torch.nonzero(params.blur_B)[:, 0]
    if not len(rows):
        return x_BHW
    offset_K = torch.arange(kernel) - kernel // 2
    weight_BK = torch.softmax(-0.5 * (offset_K / params.sigma_B[rows, None]) ** 2, dim=1)
    weight_B1K1 = weight_BK[:, None, :, None].to(x_BHW.device)
    rows = rows.to(x_BHW.device)
    # as one image of B bands, each with a kernel of its own; down, then across
    padded_1BHW = F.pad(x_BHW[rows][None], [kernel // 2] * 4, mode="reflect")
    down_1BHW = F.conv2d(padded_1BHW, weight_B1K1, groups=len(rows))
    x_BHW[rows] = F.conv2d(down_1BHW, weight_B1K1.transpose(2, 3), groups=len(rows))[0]
    return x_BHW
