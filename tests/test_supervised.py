"""The supervised method: its loss, its augmentation, and that it learns."""

import numpy as np
import pytest
import tiny_data
import torch
from torch import nn
from torch.nn import functional as F

from stronglens.engine.errors import ConfigError
from stronglens.engine.preprocess import PreprocessSpec
from stronglens.training import supervised
from stronglens.training.hardware import Hardware
from stronglens.training.models import Classifier
from stronglens.training.tasks import TASKS, override
from stronglens.training.weights import RANDOM

CPU = Hardware(torch.device("cpu"), torch.float32)
QUICK = TASKS["substructure"].recipes["quick"]


class Brightness(nn.Module):
    """Logits from the mean of each third of the columns: no training needed."""

    def forward(self, x_BHW):
        return torch.stack([third.mean((1, 2)) for third in x_BHW.chunk(3, dim=2)], dim=1)


@pytest.fixture
def rng_torch():
    return torch.Generator().manual_seed(5)


def test_build_follows_the_recipe():
    spec = PreprocessSpec(size=100)
    net = supervised.build(override(QUICK, ["net=resnext50"]), 5, spec, RANDOM)
    assert net.head.out_features == 5
    net = supervised.build(override(QUICK, ["input_size=60"]), 2, spec, RANDOM)
    assert net.front[0](torch.zeros(1, 1, 100, 100)).shape == (1, 1, 60, 60)


def test_a_net_of_another_task_is_refused():
    with pytest.raises(ConfigError, match="trains resnext50 or small_cnn"):
        supervised.build(override(QUICK, ["net=resnet18"]), 3, PreprocessSpec(), RANDOM)


def test_the_loss_is_smoothed_cross_entropy(rng_torch):
    recipe = override(QUICK, ["flips=false", "label_smoothing=0.3"])
    x_BHW, y_B = torch.rand(7, 12, 12), torch.arange(7) % 3
    log_prob_BK = F.log_softmax(Brightness()(x_BHW), dim=1)
    target_BK = 0.7 * F.one_hot(y_B, 3) + 0.1
    expected = -(target_BK * log_prob_BK).sum(dim=1).mean()
    found = supervised.training_loss(Brightness(), x_BHW, y_B, recipe, rng_torch)
    torch.testing.assert_close(found, expected)


def test_flips_are_drawn_for_each_cutout(rng_torch):
    x_BHW = torch.rand(1, 5, 7).expand(400, 5, 7)
    flipped_BHW = supervised.flip(x_BHW, rng_torch)
    kinds = [x_BHW[0].flip(axes) for axes in ((), (0,), (1,), (0, 1))]
    counts = [sum(torch.equal(kind, row) for row in flipped_BHW) for kind in kinds]
    assert sum(counts) == 400
    assert min(counts) > 60  # 100 expected of each, standard deviation 9


def test_flips_are_only_made_when_the_recipe_says_so(rng_torch):
    x_BHW, y_B = torch.rand(16, 12, 12), torch.arange(16) % 3
    plain, again, flipped = (
        supervised.training_loss(Brightness(), x_BHW, y_B, recipe, rng_torch)
        for recipe in [override(QUICK, [f"flips={flips}"]) for flips in ("false", "false", "true")]
    )
    assert plain == again
    assert plain != flipped


def test_validate_is_the_mean_over_all_cutouts():
    data = tiny_data.dataset(val=70)  # more than a batch, and no multiple of one
    logits = Brightness()(torch.from_numpy(data.val.x_NHW))
    expected = F.cross_entropy(logits, torch.from_numpy(data.val.y_N)).item()
    found = supervised.validate(Brightness(), data, 99.0, QUICK, CPU)
    assert found == pytest.approx(expected, rel=1e-6)


def test_finish_predicts_in_order_in_float32():
    data = tiny_data.dataset(val=70)
    torch.manual_seed(0)
    net = supervised.build(QUICK, 3, data.spec, RANDOM).train()
    half = Hardware(torch.device("cpu"), torch.bfloat16)
    found = supervised.finish(net, data, QUICK, half)
    assert net.training
    assert found.ids == data.val.ids
    assert found.prob_NK.dtype == np.float32
    with torch.inference_mode():
        expected = net.eval()(torch.from_numpy(data.val.x_NHW)).softmax(1).numpy()
    np.testing.assert_allclose(found.prob_NK, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_lower_the_loss(dtype):
    data = tiny_data.dataset()
    torch.manual_seed(0)
    recipe = override(QUICK, ["flips=false"])
    net = supervised.build(recipe, 3, data.spec, RANDOM)
    assert isinstance(net, Classifier)
    optimizer = supervised.optimizer(net, recipe)
    hardware = Hardware(torch.device("cpu"), dtype)
    x_BHW, y_B = torch.from_numpy(data.train.x_NHW), torch.from_numpy(data.train.y_N)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        with hardware.autocast():
            loss = supervised.training_loss(net, x_BHW, y_B, recipe, torch.Generator())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert all(weight.dtype == torch.float32 for weight in net.parameters())
