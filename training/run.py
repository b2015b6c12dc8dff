"""One training from start to finish: data, first weights, epochs, scores, the run's folder."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError

from stronglens.engine.errors import BackendError, ConfigError, InputError
from stronglens.training import checkpoint
from stronglens.training.checkpoint import RunConfig, write_text
from stronglens.training.data import DataSet, load_dataset
from stronglens.training.hardware import Hardware, open_hardware
from stronglens.training.listing import hash_files, list_dataset
from stronglens.training.loop import train
from stronglens.training.method import method_of
from stronglens.training.models import describe
from stronglens.training.progress import Progress
from stronglens.training.results import write_results
from stronglens.training.state import newest_state
from stronglens.training.summary import summary
from stronglens.training.tasks import TASKS, Recipe, Task, override
from stronglens.training.weights import RANDOM, Weights, load_weights


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What `lens-train` was asked for."""

    task: str
    data: Path | None
    """None: the task's default folder, else the simulator"""
    out: Path
    recipe: str
    settings: Sequence[str] = ()
    """"name=value" each, changing the recipe"""
    weights: str = "auto"
    device: str = "auto"
    compiled: bool = False


def run(order: Order, progress: Progress) -> str:
    """Train, or go on with a training that was killed; return the summary for the user.

    Raises:
        LensError: what cannot be done, before the work begins wherever that can be known.
    """
    if order.data is not None and not order.data.is_dir():
        raise InputError(f"--data {order.data}: no such folder")
    recipe = chosen_recipe(TASKS[order.task], order.recipe, order.settings)
    hardware = open_hardware(order.device, recipe.precision)
    recipe = replace(recipe, precision=hardware.precision)
    with machine_faults(order.out):
        found = previous(order.out)
        finished = checkpoint.is_finished(order.out)
        weights = RANDOM if finished else _first_weights(order, recipe, found, progress)
        with checkpoint.locked(order.out):
            data_dir = find_data(TASKS[order.task], recipe, order.data, progress)
            if found is not None:
                check_same(order, found, _planned(order, found, recipe, hardware, data_dir))
            if finished:
                progress.say(f"{order.out} is finished: nothing to do")
            else:
                _go_on(order, found, recipe, hardware, weights, data_dir, progress)
            shutil.rmtree(order.out / "state", ignore_errors=True)
        return summary(order.out)


@contextmanager
def machine_faults(out: Path) -> Iterator[None]:
    """Turn what the machine does to a training into an error that says how to go on."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as err:
        raise BackendError(
            f"out of memory ({err}): try a smaller -o batch_size=… and another --out"
        ) from err
    except (OSError, SafetensorError) as err:
        raise InputError(
            f"{out}: {err}. Once that is mended, the same command goes on after the last "
            "finished epoch"
        ) from err


def chosen_recipe(task: Task, name: str, settings: Iterable[str]) -> Recipe:
    """Return a recipe of the task with the settings applied."""
    if name not in task.recipes:
        raise ConfigError(f"--recipe {name}: {task.name} has {', '.join(task.recipes)}")
    return override(task.recipes[name], settings)


def find_data(task: Task, recipe: Recipe, given: Path | None, progress: Progress) -> Path:
    """Return the data set's folder: the one given, the task's own, or a simulated one."""
    if given is not None:
        return given
    if (default := Path(task.default_data)).is_dir():
        progress.say(f"training data: {default}/")
        return default
    return _simulated(task, recipe, progress)


def previous(out: Path) -> RunConfig | None:
    """Return the configuration of the run that `out` holds; None where it is new or empty."""
    config = checkpoint.read_config(out)
    if config is None and out.exists() and (not out.is_dir() or _foreign(out)):
        raise ConfigError(f"{out} holds something that is no run: choose another --out")
    return config


def _foreign(out: Path) -> bool:
    return any(path.name != checkpoint.LOCK and path.suffix != ".partial" for path in out.iterdir())


def check_same(order: Order, found: RunConfig, wanted: RunConfig) -> None:
    """Refuse to go on with another training than the one the folder holds."""
    if lines := checkpoint.differences(found, wanted):
        more = f"\n  … and {len(lines) - 5} more" if len(lines) > 5 else ""
        raise ConfigError(
            f"{order.out} holds another training:\n  " + "\n  ".join(lines[:5]) + more + "\n"
            f"give another folder with --out, or delete {order.out}"
        )


def _simulated(task: Task, recipe: Recipe, progress: Progress) -> Path:
    from stronglens.training.simulate.cli import SEED
    from stronglens.training.simulate.writer import simulate

    train, val = recipe.simulated_train, recipe.simulated_val
    folder = Path("simulated", f"{task.name}-{train}-{val}")
    progress.say(
        f"NO DATA: there is no {task.default_data}/ here and no --data was given.\n"
        f"Training on SIMULATED cutouts instead, made in {folder}/; scores on them say nothing\n"
        "about real ones, and the run's record says that they are simulated."
    )
    simulate(task.name, folder, train=train, val=val, seed=SEED, progress=progress.simulated)
    return folder


def _planned(
    order: Order, found: RunConfig, recipe: Recipe, hardware: Hardware, data_dir: Path
) -> RunConfig:
    """Return what the configuration will be, as far as is known before the data are read."""
    listing = list_dataset(
        TASKS[order.task], data_dir, seed=recipe.seed, val_fraction=recipe.val_fraction
    )
    files = [each.path for each in listing.train + listing.val]
    return RunConfig(
        task=order.task,
        classes=listing.classes,
        recipe=recipe,
        preprocess=found.preprocess,
        data=found.data | {"sha256": hash_files(data_dir, files)[0], "path": str(data_dir)},
        weights=found.weights | {"asked": order.weights},
        precision=hardware.precision,
        device=hardware.device.type,
        versions=found.versions,
    )


def _first_weights(
    order: Order, recipe: Recipe, found: RunConfig | None, progress: Progress
) -> Weights:
    """Load the first weights; a training that has epochs behind it needs only their name.

    Builds the net once, before anything that takes long, to see that it can be built.
    """
    if found is not None and newest_state(order.out / "state") is not None:
        return Weights(found.weights["origin"])
    weights = load_weights(order.weights, recipe.net, progress.say)
    task = TASKS[order.task]
    method_of(recipe).build(recipe, len(task.classes), task.preprocess, weights)
    return weights


def _go_on(
    order: Order,
    found: RunConfig | None,
    recipe: Recipe,
    hardware: Hardware,
    weights: Weights,
    data_dir: Path,
    progress: Progress,
) -> None:
    data = load_dataset(
        TASKS[order.task],
        data_dir,
        seed=recipe.seed,
        val_fraction=recipe.val_fraction,
        cache_dir=order.out,
        say=progress.say,
    )
    config = _config(order, data, recipe, hardware, weights)
    if found is not None:
        check_same(order, found, config)
    write_text(order.out / "config.json", config.to_json())
    _train(order, config, data, weights, hardware, progress)


def _config(
    order: Order, data: DataSet, recipe: Recipe, hardware: Hardware, weights: Weights
) -> RunConfig:
    return RunConfig(
        task=order.task,
        classes=data.classes,
        recipe=recipe,
        preprocess=data.spec,
        data=data.origin,
        weights={"asked": order.weights, "origin": weights.origin},
        precision=hardware.precision,
        device=hardware.device.type,
        versions=checkpoint.versions(),
    )


def _train(
    order: Order,
    config: RunConfig,
    data: DataSet,
    weights: Weights,
    hardware: Hardware,
    progress: Progress,
) -> None:
    method = method_of(config.recipe)
    torch.manual_seed(config.recipe.seed)
    net = method.build(config.recipe, len(data.classes), data.spec, weights)
    progress.say(describe(net, config.recipe) + f" on {hardware}, {_sizes(data)}")
    if order.compiled:
        net.compile()
    state = train(
        net,
        data,
        config.recipe,
        method,
        hardware,
        state_dir=order.out / "state",
        progress=progress,
    )
    progress.say("scoring the validation split")
    predictions = method.finish(net, data, config.recipe, hardware)
    checkpoint.save_weights(order.out / "model.safetensors", net)
    write_results(order.out, config, data, state, predictions)


def _sizes(data: DataSet) -> str:
    return f"{len(data.train.ids):,} cutouts to train on, {len(data.val.ids):,} to validate on"
