"""Epochs: the order of the cutouts, mixed precision, schedule, early stop, best weights, resume.

All randomness of an epoch comes from its seed and number, so a training that was killed goes
on from its last finished epoch as if nothing had happened; on a CPU, to the same bytes.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from stronglens.engine.errors import ConfigError
from stronglens.training.data import DataSet, Split, batches
from stronglens.training.hardware import Hardware
from stronglens.training.method import Method
from stronglens.training.progress import Progress
from stronglens.training.schedule import best_epoch, is_over, learning_rate
from stronglens.training.state import (
    EpochRow,
    EpochTiming,
    State,
    cpu_weights,
    restore_state,
    save_state,
)
from stronglens.training.tasks import Recipe

T = TypeVar("T")


def train(
    net: nn.Module,
    data: DataSet,
    recipe: Recipe,
    method: Method,
    hardware: Hardware,
    *,
    state_dir: Path,
    progress: Progress,
) -> State:
    """Train `net` in place from its last finished epoch on; leave its best weights in it.

    Raises:
        ConfigError: the loss stopped being a number.
    """
    net.to(hardware.device).to(memory_format=torch.channels_last)
    optimizer = method.optimizer(net, recipe)
    scaler = torch.amp.GradScaler(hardware.device.type, enabled=hardware.dtype == torch.float16)
    state = restore_state(state_dir, net, optimizer, scaler)
    start = len(state.history)
    if start:
        progress.say(f"resuming after epoch {start}")
    steps = _steps(data, recipe)
    train_count = min(steps * recipe.batch_size, len(data.train.ids))
    progress.start(recipe.epochs - start, train_count, len(data.val.ids))
    while not is_over(losses := [row.monitored_loss for row in state.history], recipe):
        began, epoch = time.monotonic(), len(losses)
        epoch_loop = EpochLoop(net, data.train, recipe, method, hardware, optimizer, scaler)
        train_loss = epoch_loop.run(losses, steps, progress)
        monitored = method.validate(net, data, train_loss, recipe, hardware)
        if not np.isfinite([train_loss, monitored]).all():
            raise ConfigError(
                f"the loss became {train_loss}, validation {monitored}, in epoch {epoch + 1}: "
                f"try a smaller step, such as -o lr={recipe.lr / 10:g}"
            )
        lr = learning_rate(losses, 0, steps, recipe)
        state.history.append(EpochRow(epoch, train_loss, monitored, lr))
        state.timings.append(epoch_loop.timing(epoch, time.monotonic() - began))
        if best_epoch([*losses, monitored]) == epoch:
            state.best = cpu_weights(net)
        save_state(state_dir, state, net, optimizer, scaler)
        progress.end_epoch(epoch, start, _summary(state, recipe))
    net.load_state_dict(state.best)
    return state


class EpochLoop:
    """One pass over the training split, and how long its parts took."""

    def __init__(
        self,
        net: nn.Module,
        split: Split,
        recipe: Recipe,
        method: Method,
        hardware: Hardware,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
    ) -> None:
        self.net, self.split, self.recipe, self.method = net, split, recipe, method
        self.hardware, self.optimizer, self.scaler = hardware, optimizer, scaler
        self.seen = 0
        self.waited = self.lasted = 0.0

    def run(self, losses: list[float], steps: int, progress: Progress) -> float:
        """Step through the epoch that follows `losses`; return the mean training loss."""
        epoch, batch_size = len(losses), self.recipe.batch_size
        order_N, rng = seeded(self.recipe.seed, epoch, len(self.split.ids))
        order_N = order_N[: steps * batch_size]
        total = torch.zeros((), device=self.hardware.device)
        self.net.train()
        began = time.monotonic()
        for step, (x_BHW, y_B) in enumerate(self._ahead(batches(self.split, order_N, batch_size))):
            set_learning_rate(self.optimizer, learning_rate(losses, step, steps, self.recipe))
            total += self._step(x_BHW, y_B, rng) * len(x_BHW)
            self.seen += len(x_BHW)
            progress.step(epoch, len(x_BHW), self.seen, len(order_N))
        mean = float(total) / self.seen  # waits for the device, so what follows times it all
        self.lasted = time.monotonic() - began
        return mean

    def timing(self, epoch: int, seconds: float) -> EpochTiming:
        """Return how long the epoch took: `seconds` with its validation."""
        return EpochTiming(epoch, seconds, self.seen / self.lasted, self.waited / self.lasted)

    def _step(self, x_BHW: Any, y_B: Any, rng: torch.Generator) -> Tensor:
        device = self.hardware.device
        self.optimizer.zero_grad(set_to_none=True)
        with self.hardware.autocast():
            loss = self.method.training_loss(
                self.net,
                torch.from_numpy(x_BHW).to(device, non_blocking=True),
                torch.from_numpy(y_B).to(device, non_blocking=True),
                self.recipe,
                rng,
            )
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()

    def _ahead(self, items: Iterator[T]) -> Iterator[T]:
        """Yield the items, the next one being made in a thread; add up the time waited."""
        end = object()
        with ThreadPoolExecutor(1, "batches") as pool:
            coming = pool.submit(next, items, end)
            while True:
                began = time.monotonic()
                item = coming.result()
                self.waited += time.monotonic() - began
                if item is end:
                    return
                coming = pool.submit(next, items, end)
                yield item  # type: ignore[misc]


def seeded(seed: int, epoch: int, count: int) -> tuple[Any, torch.Generator]:
    """Seed all of an epoch's randomness; return the order of the cutouts, and a generator."""
    order_seed, rng_seed, torch_seed = np.random.SeedSequence([seed, epoch]).spawn(3)
    torch.manual_seed(int(torch_seed.generate_state(1)[0]))  # dropout
    rng = torch.Generator().manual_seed(int(rng_seed.generate_state(1)[0]))
    return np.random.default_rng(order_seed).permutation(count), rng


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group of weights the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def _steps(data: DataSet, recipe: Recipe) -> int:
    """Return the steps of an epoch; the last one may be short."""
    most = -(-len(data.train.ids) // recipe.batch_size)
    return min(most, recipe.steps_per_epoch or most)


def _summary(state: State, recipe: Recipe) -> str:
    row, timing = state.history[-1], state.timings[-1]
    best = best_epoch([each.monitored_loss for each in state.history])
    kept = "best so far" if best == row.epoch else f"best is epoch {best + 1}"
    losses = f"loss {row.train_loss:.4f}"
    if row.monitored_loss != row.train_loss:
        losses += f", validation {row.monitored_loss:.4f}"
    return (
        f"epoch {row.epoch + 1} of {recipe.epochs}: {losses} ({kept}), {timing.seconds:.0f} s, "
        f"{timing.cutouts_per_s:,.0f} cutouts a second, "
        f"{timing.data_wait_share:.1%} of it waiting for data"
    )
