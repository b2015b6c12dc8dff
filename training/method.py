"""What a training method is: the functions that `supervised` and `simclr` both define."""

import importlib
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stronglens.engine.preprocess import PreprocessSpec
from stronglens.training.data import DataSet
from stronglens.training.hardware import Hardware
from stronglens.training.tasks import Recipe, SimclrRecipe
from stronglens.training.weights import Weights


@dataclass(slots=True)
class Predictions:
    """What a trained net says of the validation split."""

    ids: list[str]
    y_N: NDArray[np.int64]
    prob_NK: NDArray[np.float32]
    extras: dict[str, Any] = field(default_factory=dict)
    """further figures for metrics.json, as the method names them"""


class Method(Protocol):
    """The functions of a method's module; `loop` calls nothing else of it."""

    def build(
        self, recipe: Any, num_classes: int, spec: PreprocessSpec, weights: Weights
    ) -> nn.Module:
        """Return the net to train, on the CPU, with its first weights."""

    def optimizer(self, net: nn.Module, recipe: Any) -> torch.optim.Optimizer:
        """Return what steps the weights; its state must be tensors and numbers."""

    def training_loss(
        self, net: nn.Module, x_BHW: Tensor, y_B: Tensor, recipe: Any, rng: torch.Generator
    ) -> Tensor:
        """Return the mean loss of a batch; called under autocast, in train mode.

        All randomness comes from `rng`, a CPU generator.
        """

    def validate(
        self, net: nn.Module, data: DataSet, train_loss: float, recipe: Any, hardware: Hardware
    ) -> float:
        """Return the loss that schedule, early stop and best weights go by."""

    def finish(self, net: nn.Module, data: DataSet, recipe: Any, hardware: Hardware) -> Predictions:
        """Complete the net with its best weights in place, and predict the validation split."""


def method_of(recipe: Recipe) -> Method:
    """Return the module that trains by this recipe; imported here, as it imports this one."""
    name = "simclr" if isinstance(recipe, SimclrRecipe) else "supervised"
    method: Method = importlib.import_module(f"stronglens.training.{name}")
    return method
