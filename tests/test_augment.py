import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from stronglens.training import augment
from stronglens.training.tasks import LENSFINDING

RECIPE = LENSFINDING.recipes["reference"]
SMALL = dataclasses.replace(RECIPE, crop_size=64)
DRAWN = 4000


def cutouts(count, side=90, seed=0):
    """Faint, like HST's: mostly within [0, 1], with noise below and a core above."""
    generator = torch.Generator().manual_seed(seed)
    x_NHW = 0.08 + 0.1 * torch.randn(count, side, side, generator=generator)
    x_NHW[:, side // 2 - 3 : side // 2 + 3, side // 2 - 3 : side // 2 + 3] += 2.0
    return x_NHW


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def torchvision_view(x_HW, params, row, recipe):
    """Make one view of torchvision's own functions, with the parameters given."""
    view = x_HW[None]
    size = [recipe.crop_size, recipe.crop_size]
    view = tv.resized_crop(view, *params.box_B4[row].tolist(), size, antialias=True)
    if params.flip_B[row]:
        view = tv.horizontal_flip(view)
    if params.jitter_B[row]:
        changes = [
            (tv.adjust_brightness, float(params.brightness_B[row])),
            (tv.adjust_contrast, float(params.contrast_B[row])),
        ]
        for change, factor in changes if params.brightness_first_B[row] else changes[::-1]:
            view = change(view, factor)
    if params.blur_B[row]:
        sigma = [float(params.sigma_B[row])] * 2
        view = tv.gaussian_blur(view, [recipe.blur_kernel] * 2, sigma)
    return view[0]


def test_views_equal_torchvisions_for_the_same_parameters():
    x_NHW = cutouts(40)
    params = augment.draw(40, (90, 90), SMALL, generator())
    for flags in (params.flip_B, params.jitter_B, params.brightness_first_B, params.blur_B):
        assert 0 < int(flags.sum()) < 40  # both ways of everything are compared
    view_NHW = augment.apply(x_NHW, params, SMALL)
    for row in range(40):
        expected = torchvision_view(x_NHW[row], params, row, SMALL)
        torch.testing.assert_close(view_NHW[row], expected, rtol=1e-5, atol=2e-6)


def test_only_jittered_views_are_clamped():
    recipe = dataclasses.replace(SMALL, blur_prob=0.0)
    params = augment.draw(40, (90, 90), recipe, generator())
    view_NHW = augment.apply(cutouts(40), params, recipe)
    jittered = view_NHW[params.jitter_B]
    assert float(jittered.min()) == 0.0
    assert float(jittered.max()) <= 1.0
    assert float(view_NHW[~params.jitter_B].min()) < -0.05


def test_cutouts_are_left_as_they_were():
    x_NHW = cutouts(8)
    before = x_NHW.clone()
    augment.two_views(x_NHW, SMALL, generator())
    assert torch.equal(x_NHW, before)


def same_distribution(ours, theirs):
    """Both samples are seeded: this fails for good or never."""
    return ks_2samp(np.asarray(ours), np.asarray(theirs)).pvalue > 1e-3


@pytest.mark.parametrize("shape_HW", [(334, 334), (90, 200), (300, 60)])
def test_crops_are_distributed_as_torchvisions(shape_HW):
    torch.manual_seed(3)
    crop = v2.RandomResizedCrop(224)
    blank = torch.zeros(1, *shape_HW)
    theirs = [crop.make_params([blank]) for _ in range(DRAWN)]
    boxes = augment.draw(DRAWN, shape_HW, RECIPE, generator()).box_B4.numpy()
    for column, name in enumerate(("top", "left", "height", "width")):
        assert same_distribution(boxes[:, column], [p[name] for p in theirs]), name
    their_ratios = [p["width"] / p["height"] for p in theirs]
    assert same_distribution(boxes[:, 3] / boxes[:, 2], their_ratios)
    assert (boxes[:, 0] + boxes[:, 2]).max() <= shape_HW[0]
    assert (boxes[:, 1] + boxes[:, 3]).max() <= shape_HW[1]
    assert boxes[:, :2].min() == 0


@pytest.mark.parametrize("shape_HW", [(50, 50), (50, 1000), (1000, 50)])
def test_where_no_crop_fits_the_largest_centred_one_is_taken(shape_HW):
    """Crops of four times the cutout's area never fit; torchvision falls back in the same way."""
    recipe = dataclasses.replace(RECIPE, crop_scale=(4.0, 4.0))
    crop = v2.RandomResizedCrop(224, scale=(4.0, 4.0))
    theirs = crop.make_params([torch.zeros(1, *shape_HW)])
    boxes = augment.draw(5, shape_HW, recipe, generator()).box_B4
    assert boxes.tolist() == [[theirs[n] for n in ("top", "left", "height", "width")]] * 5


def test_jitter_and_blur_are_distributed_as_torchvisions():
    torch.manual_seed(4)
    params = augment.draw(DRAWN, (334, 334), RECIPE, generator())
    jitter, blur = v2.ColorJitter(*RECIPE.jitter), v2.GaussianBlur(23, RECIPE.blur_sigma)
    theirs = [jitter.make_params([]) for _ in range(DRAWN)]
    assert same_distribution(params.brightness_B, [p["brightness_factor"] for p in theirs])
    assert same_distribution(params.contrast_B, [p["contrast_factor"] for p in theirs])
    sigmas = [blur.make_params([])["sigma"][0] for _ in range(DRAWN)]
    assert same_distribution(params.sigma_B, sigmas)
    orders = [[int(i) for i in p["fn_idx"]] for p in theirs]
    first = np.mean([order.index(0) < order.index(1) for order in orders])
    assert float(params.brightness_first_B.float().mean()) == pytest.approx(first, abs=0.05)


@pytest.mark.parametrize(
    ("flags", "setting"),
    [("flip_B", "flip_prob"), ("jitter_B", "jitter_prob"), ("blur_B", "blur_prob")],
)
def test_chances_are_the_recipes(flags, setting):
    for prob in (0.0, 0.3, getattr(RECIPE, setting), 1.0):
        recipe = dataclasses.replace(RECIPE, **{setting: prob})
        drawn = getattr(augment.draw(DRAWN, (334, 334), recipe, generator()), flags)
        assert float(drawn.float().mean()) == pytest.approx(prob, abs=0.03)


def test_a_generator_tells_the_views_and_pairs_differ():
    x_NHW = cutouts(6)
    first = augment.two_views(x_NHW, SMALL, generator(1))
    assert first.shape == (12, 64, 64)
    assert first.dtype == torch.float32
    assert torch.equal(first, augment.two_views(x_NHW, SMALL, generator(1)))
    assert not torch.equal(first, augment.two_views(x_NHW, SMALL, generator(2)))
    assert all(not torch.equal(first[b], first[6 + b]) for b in range(6))


def test_nothing_else_random_is_used_or_moved():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    augment.two_views(cutouts(3), SMALL, generator())
    assert torch.equal(torch.get_rng_state(), state)


def test_autocast_does_not_round_the_pixels():
    x_NHW = cutouts(6)
    with torch.autocast("cpu", torch.bfloat16):
        inside = augment.two_views(x_NHW, SMALL, generator())
    assert torch.equal(inside, augment.two_views(x_NHW, SMALL, generator()))
