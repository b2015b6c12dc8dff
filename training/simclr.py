"""SimCLR, then a linear head: the method of the task `lensfinding`.

An encoder and a projection head learn, without labels, that two views of a cutout belong
together (Chen et al. 2020, arXiv:2002.05709). Then a logistic regression on the encodings of
whole cutouts separates lenses from non-lenses; the encoder stays as it is.
"""

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from stronglens.engine.errors import ConfigError
from stronglens.engine.preprocess import PreprocessSpec
from stronglens.training import linear_head
from stronglens.training.augment import two_views
from stronglens.training.data import DataSet
from stronglens.training.forward import outputs
from stronglens.training.hardware import Hardware
from stronglens.training.lars import Lars
from stronglens.training.method import Predictions
from stronglens.training.models import LensFinder, resnet18_encoder
from stronglens.training.tasks import SimclrRecipe
from stronglens.training.weights import Weights

FEATURES = 512
"""what ResNet-18 makes of a cutout"""


class ProjectionHead(nn.Module):
    """(B, 512) → (B, dim): linear, batch norm, ReLU, linear, batch norm.

    The linear layers have no bias: the batch norm behind each would subtract it again.
    """

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features, features, bias=False),
            nn.BatchNorm1d(features),
            nn.ReLU(),
            nn.Linear(features, dim, bias=False),
            nn.BatchNorm1d(dim),
        )

    def forward(self, features_BD: Tensor) -> Tensor:
        """Return encodings z_BD."""
        z_BD: Tensor = self.layers(features_BD)
        return z_BD


def build(
    recipe: SimclrRecipe, num_classes: int, spec: PreprocessSpec, weights: Weights
) -> LensFinder:
    """Return encoder, projection head and a linear head that is still zero.

    Raises:
        ConfigError: a setting that this method cannot follow.
    """
    if recipe.net != "resnet18":
        raise ConfigError(f"net={recipe.net}: this task trains resnet18")
    if recipe.input_size not in (0, spec.size):
        raise ConfigError(
            f"input_size={recipe.input_size}: this task takes cutouts at their own size; "
            "crop_size sets the size of the views"
        )
    if num_classes != 2:
        raise ConfigError(f"{num_classes} classes: this task tells two apart, lens and nonlens")
    if recipe.crop_size <= recipe.blur_kernel // 2:
        raise ConfigError(
            f"crop_size={recipe.crop_size}: too small for blur_kernel={recipe.blur_kernel}, "
            f"expected more than {recipe.blur_kernel // 2}"
        )
    projection = ProjectionHead(FEATURES, recipe.projection_dim)
    return LensFinder(resnet18_encoder(weights), projection, recipe.projection_dim)


def optimizer(net: nn.Module, recipe: SimclrRecipe) -> Lars:
    """Return LARS over AdamW over all weights but the linear head's."""
    learning = [weight for weight in net.parameters() if weight.requires_grad]
    base = torch.optim.AdamW(learning, recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    return Lars(base, trust_coefficient=recipe.trust_coefficient, eps=recipe.lars_eps)


def training_loss(
    net: nn.Module, x_BHW: Tensor, y_B: Tensor, recipe: SimclrRecipe, rng: torch.Generator
) -> Tensor:
    """Return the NT-Xent loss of two views of each cutout; labels are not looked at.

    Both views go through the net together, so batch norm sees 2B of them. A last batch of one
    cutout has nothing to tell its two views from: its loss is 0.
    """
    return nt_xent(net(two_views(x_BHW, recipe, rng)), recipe.temperature)


def nt_xent(z_2BD: Tensor, temperature: float) -> Tensor:
    """Return the normalised temperature-scaled cross entropy (arXiv:2002.05709, eq. 1).

    Rows b and B + b are a pair; the mean of -log softmax over both directions of every pair,
    of cosine similarities over temperature, where a row is not compared with itself.
    """
    with torch.autocast(z_2BD.device.type, enabled=False):
        unit_2BD = F.normalize(z_2BD.float(), dim=1)
        similarity = unit_2BD @ unit_2BD.T / temperature
        count = len(similarity)
        itself = torch.eye(count, dtype=torch.bool, device=z_2BD.device)
        partner = torch.arange(count, device=z_2BD.device).roll(count // 2)
        return F.cross_entropy(similarity.masked_fill(itself, -torch.inf), partner)


def validate(
    net: nn.Module, data: DataSet, train_loss: float, recipe: SimclrRecipe, hardware: Hardware
) -> float:
    """Return the mean training loss, which the reference goes by: 22 cutouts make no batch."""
    return train_loss


def finish(net: nn.Module, data: DataSet, recipe: SimclrRecipe, hardware: Hardware) -> Predictions:
    """Fit the linear head on the training encodings; predict the validation split.

    Encodings are those after the projection head, of whole cutouts, un-augmented, in eval mode
    and float32. Changes `net.head` and nothing else. Column 0 is p(lens).

    `extras` gets, for metrics.json: "probability_roc_auc" and "hard_roc_auc" (of 0/1
    predictions, as the reference scored), each for train and val with 95 % intervals;
    "cross_validated"; "remarks", lines for the user.
    """
    assert isinstance(net, LensFinder)
    exact = dataclasses.replace(hardware, dtype=torch.float32)
    train_z, val_z = (outputs(net, split.x_NHW, exact) for split in (data.train, data.val))
    fitted = linear_head.fit_logistic(train_z.numpy(), data.train.y_N, c=recipe.logistic_c)
    with torch.no_grad():
        net.head.weight.copy_(torch.from_numpy(fitted.weight_1D))
        net.head.bias.copy_(torch.from_numpy(fitted.bias_1))
    train_NK, val_NK = (probabilities(net.head, z_ND) for z_ND in (train_z, val_z))
    splits = {"train": (data.train.y_N, train_NK), "val": (data.val.y_N, val_NK)}
    figures: dict[str, Any] = linear_head.scores(splits, seed=recipe.seed)
    figures["cross_validated"] = linear_head.cross_validate(
        torch.cat([train_z, val_z]).numpy(),
        np.concatenate([data.train.y_N, data.val.y_N]),
        c=recipe.logistic_c,
        seed=recipe.seed,
    )
    figures["head_converged"] = fitted.converged
    figures["remarks"] = linear_head.remarks(figures)
    return Predictions(data.val.ids, data.val.y_N, val_NK, figures)


@torch.no_grad()
def probabilities(head: nn.Linear, z_ND: Tensor) -> NDArray[np.float32]:
    """Return prob_N2 of encodings: the head's output is the logit of column 1, non-lenses."""
    logit_N1 = head(z_ND.to(head.weight.device))
    logits_N2 = torch.cat([torch.zeros_like(logit_N1), logit_N1], dim=1)
    prob_N2: NDArray[np.float32] = logits_N2.softmax(dim=1).cpu().numpy()
    return prob_N2
