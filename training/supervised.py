"""Cross entropy on labelled cutouts: the method of the task `substructure`."""

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stronglens.engine.errors import ConfigError
from stronglens.engine.preprocess import PreprocessSpec
from stronglens.training.data import DataSet
from stronglens.training.forward import outputs
from stronglens.training.hardware import Hardware
from stronglens.training.method import Predictions
from stronglens.training.models import resnext50, small_cnn
from stronglens.training.tasks import SupervisedRecipe
from stronglens.training.weights import Weights

NETS = {"resnext50": resnext50, "small_cnn": small_cnn}


def build(
    recipe: SupervisedRecipe, num_classes: int, spec: PreprocessSpec, weights: Weights
) -> nn.Module:
    """Return the classifier named by the recipe, for cutouts of the spec's size."""
    if recipe.net not in NETS:
        raise ConfigError(f"net={recipe.net}: this task trains {' or '.join(NETS)}")
    return NETS[recipe.net](num_classes, weights, size=spec.size, resize=recipe.input_size)


def optimizer(net: nn.Module, recipe: SupervisedRecipe) -> torch.optim.Optimizer:
    """Return AdamW over all weights."""
    return torch.optim.AdamW(
        net.parameters(), recipe.lr, weight_decay=recipe.weight_decay, fused=True
    )


def training_loss(
    net: nn.Module, x_BHW: Tensor, y_B: Tensor, recipe: SupervisedRecipe, rng: torch.Generator
) -> Tensor:
    """Return the mean cross entropy of a batch, of flipped cutouts if the recipe says so."""
    if recipe.flips:
        x_BHW = flip(x_BHW, rng)
    logits_BK = net(x_BHW)
    return F.cross_entropy(logits_BK.float(), y_B, label_smoothing=recipe.label_smoothing)


def flip(x_BHW: Tensor, rng: torch.Generator) -> Tensor:
    """Flip each cutout up-down and left-right, each with probability 1/2."""
    for axis in (1, 2):
        heads_B = torch.rand(len(x_BHW), generator=rng) < 0.5
        flipped_B11 = heads_B.to(x_BHW.device).view(-1, 1, 1)
        x_BHW = torch.where(flipped_B11, x_BHW.flip(axis), x_BHW)
    return x_BHW


def validate(
    net: nn.Module,
    data: DataSet,
    train_loss: float,
    recipe: SupervisedRecipe,
    hardware: Hardware,
) -> float:
    """Return the mean cross entropy on the validation split, without label smoothing."""
    logits_NK = outputs(net, data.val.x_NHW, hardware)
    return float(F.cross_entropy(logits_NK, torch.from_numpy(data.val.y_N)))


def finish(
    net: nn.Module, data: DataSet, recipe: SupervisedRecipe, hardware: Hardware
) -> Predictions:
    """Predict the validation split in float32, as the exported net does."""
    exact = dataclasses.replace(hardware, dtype=torch.float32)
    logits_NK = outputs(net, data.val.x_NHW, exact)
    return Predictions(data.val.ids, data.val.y_N, logits_NK.softmax(dim=1).numpy())
