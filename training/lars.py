"""LARS over any base optimiser: step lengths in proportion to the weights they change.

You, Gitman and Ginsburg 2017, arXiv:1708.03888, in the form the reference work used: before
each step of the base optimiser the gradient g of every parameter w is multiplied by

    trust_coefficient · ‖w‖ / (‖g‖ + weight_decay · ‖w‖ + eps)

with the weight decay of the parameter's group, which the base optimiser goes on applying in
its own way. Over Adam, which divides a gradient by its recent size, a constant factor would
have no effect (but for Adam's own eps); what is left is that every step's gradient counts the
same in the moving averages, however long it was.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Lars(torch.optim.Optimizer):
    """Scale gradients, then step `base`; everything else is the base optimiser's own.

    A parameter whose norm is 0 (the shift of a fresh batch norm) keeps its gradient as it is:
    the formula would give it 0, and it would never move. So does a gradient of norm 0. A
    parameter without gradient is left alone. Gradients must be unscaled: under mixed precision
    step through `torch.amp.GradScaler`, which does that first.
    """

    def __init__(
        self, base: torch.optim.Optimizer, *, trust_coefficient: float, eps: float
    ) -> None:
        # Optimizer.__init__ would make groups and state of its own beside the base's
        self.base = base
        self.trust_coefficient = trust_coefficient
        self.eps = eps

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The base optimiser's groups: a learning rate set here is set there."""
        return self.base.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The base optimiser's state; LARS has none."""
        return self.base.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The base optimiser's defaults."""
        return self.base.defaults

    def state_dict(self) -> dict[str, Any]:
        """Return the base optimiser's state."""
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of the base optimiser."""
        self.base.load_state_dict(state_dict)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base optimiser."""
        self.base.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients."""
        self.base.zero_grad(set_to_none)

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Scale every gradient in place, then step the base optimiser.

        A closure is called once, before the scaling, and its loss returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._scale_gradients()
        self.base.step()
        return loss

    def __repr__(self) -> str:
        return f"Lars({self.base!r}, trust_coefficient={self.trust_coefficient}, eps={self.eps})"

    @torch.no_grad()
    def _scale_gradients(self) -> None:
        for group in self.base.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.grad.mul_(self._factor(weight, group.get("weight_decay", 0.0)))

    def _factor(self, weight: Tensor, weight_decay: float) -> Tensor:
        w = torch.linalg.vector_norm(weight)
        g = torch.linalg.vector_norm(weight.grad)
        factor = self.trust_coefficient * w / (g + weight_decay * w + self.eps)
        # chosen on the device: an `if` would wait for it, twice a parameter
        return torch.where((w > 0) & (g > 0), factor, torch.ones_like(factor))
