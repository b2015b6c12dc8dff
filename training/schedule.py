"""Learning rate, early stop and best epoch, as functions of the losses so far.

Nothing here keeps state: a resumed training only needs its history.
"""

import math
from collections.abc import Sequence

from stronglens.training.tasks import Recipe


def best_epoch(losses: Sequence[float]) -> int:
    """Return the epoch of the lowest loss, the earliest of equals."""
    return min(range(len(losses)), key=losses.__getitem__)


def is_over(losses: Sequence[float], recipe: Recipe) -> bool:
    """Return whether the training ends after these epochs: all done, or stopped early."""
    if len(losses) >= recipe.epochs:
        return True
    if not losses or not recipe.early_stop:
        return False
    return len(losses) - 1 - best_epoch(losses) > recipe.early_stop


def learning_rate(losses: Sequence[float], step: int, steps: int, recipe: Recipe) -> float:
    """Return the learning rate of a step of the epoch that follows `losses`.

    Args:
        losses: what `validate` returned for each epoch so far.
        step: of this epoch, from 0.
        steps: in every epoch.
    """
    if recipe.schedule == "plateau":
        return plateau(losses, recipe)
    done = (len(losses) * steps + step) / (recipe.epochs * steps)
    return one_cycle(done, recipe)


def plateau(losses: Sequence[float], recipe: Recipe) -> float:
    """Return what torch's ReduceLROnPlateau would have made of the learning rate by now."""
    lr, best, bad = recipe.lr, math.inf, 0
    for loss in losses:
        if loss < best * (1 - recipe.plateau_threshold):
            best, bad = loss, 0
        else:
            bad += 1
        if bad > recipe.plateau_patience:
            reduced = max(lr * recipe.plateau_factor, recipe.min_lr)
            # torch leaves a rate alone that would hardly change
            lr, bad = (reduced if lr - reduced > 1e-8 else lr), 0
    return lr


def one_cycle(done: float, recipe: Recipe) -> float:
    """Return the rate when a share `done` of all steps is behind: a ramp, then half a cosine."""
    if done < recipe.warmup:
        return max(recipe.lr * done / recipe.warmup, recipe.min_lr)
    fall = (done - recipe.warmup) / (1 - recipe.warmup)
    return max(recipe.lr * 0.5 * (1 + math.cos(math.pi * fall)), recipe.min_lr)
