"""A run's folder: safetensors weights beside everything that says what they are.

model.safetensors     the weights of the best epoch
config.json           RunConfig: what was trained, on what, how
metrics.json          scores with intervals; written last, so a run that has it is finished
history.csv           losses by epoch          timings.csv  how long each took
val_predictions.csv   a row per validation cutout
roc.png  loss.png  mistakes.png
state/                what resuming needs; gone when the run is finished
"""

import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from stronglens.engine.errors import ConfigError, InputError
from stronglens.engine.preprocess import PreprocessSpec
from stronglens.training.state import cpu_weights
from stronglens.training.tasks import TASKS, Recipe

FORMAT = 1
LOCK = ".lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """What a run trains, on what and how, resolved: nothing in it is `auto`."""

    task: str
    classes: list[str]
    """in column order"""
    recipe: Recipe
    preprocess: PreprocessSpec
    data: dict[str, Any]
    """`DataSet.origin`"""
    weights: dict[str, str]
    """asked: the option; origin: what the first weights were"""
    precision: str
    device: str
    versions: dict[str, str]
    format: int = FORMAT

    def to_json(self) -> str:
        """Return the configuration as indented JSON, keys in the order of the fields."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "RunConfig":
        """Read `to_json`'s output.

        Raises:
            ConfigError: not JSON, another format, or keys that are missing or unknown.
        """
        try:
            d = json.loads(text)
            if d["format"] != FORMAT:
                raise ConfigError(f"config.json has format {d['format']}, this is {FORMAT}")
            if wrong := {field.name for field in fields(cls)} ^ d.keys():
                raise ConfigError(f"config.json: missing or unknown: {', '.join(sorted(wrong))}")
            d["recipe"] = _recipe(d["task"], d["recipe"])
            d["preprocess"] = PreprocessSpec.from_dict(d["preprocess"])
            return cls(**d)
        except (ValueError, KeyError, TypeError) as err:
            raise ConfigError(f"config.json is not a run's configuration: {err!r}") from err


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run, its net on the CPU in eval mode."""

    path: Path
    config: RunConfig
    net: nn.Module
    metrics: dict[str, Any]


def load_run(path: Path) -> Run:
    """Read a finished run's folder.

    Raises:
        InputError: no such run, or not finished.
        ConfigError: its configuration and weights do not fit this version or each other.
    """
    from stronglens.training.method import method_of
    from stronglens.training.weights import RANDOM

    config = read_config(path)
    if config is None:
        raise InputError(f"{path}: not a run: it has no config.json. Train one with lens-train")
    if not is_finished(path):
        raise InputError(f"{path}: not finished. The lens-train command that began it goes on")
    net = method_of(config.recipe).build(
        config.recipe, len(config.classes), config.preprocess, RANDOM
    )
    try:
        net.load_state_dict(load_file(path / "model.safetensors"))
    except (RuntimeError, OSError, SafetensorError) as err:
        raise ConfigError(f"{path}: model.safetensors does not fit config.json: {err}") from err
    return Run(path, config, net.eval(), json.loads((path / "metrics.json").read_text()))


def newest_run(root: Path = Path("runs")) -> Path:
    """Return the run under `root` that finished last.

    Raises:
        InputError: there is none.
    """
    finished = [path.parent for path in root.glob("*/metrics.json") if is_finished(path.parent)]
    if not finished:
        raise InputError(f"no finished run in {root}/: train one with lens-train")
    return max(finished, key=lambda run: (run / "metrics.json").stat().st_mtime_ns)


def is_finished(path: Path) -> bool:
    """Return whether a run's folder has all it will ever have."""
    return all((path / name).is_file() for name in ("metrics.json", "model.safetensors"))


def read_config(path: Path) -> RunConfig | None:
    """Return the configuration of a run's folder; None where there is none."""
    file = path / "config.json"
    return RunConfig.from_json(file.read_text()) if file.is_file() else None


def differences(found: RunConfig, wanted: RunConfig) -> list[str]:
    """Name what a run's configuration has and `wanted` has not, as "name: found, not wanted".

    Versions, and where the same data lie, make no difference.
    """
    return _differences("", _comparable(found), _comparable(wanted))


def save_weights(path: Path, net: nn.Module) -> None:
    """Write model.safetensors under a temporary name, then rename."""
    save_file(cpu_weights(net), path.with_suffix(".partial"))
    path.with_suffix(".partial").replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8", errors="surrogateescape")
    partial.replace(path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a run's folder, made if missing, against a second training into it.

    Raises:
        ConfigError: another process holds it.
    """
    path.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # not on Windows, where nothing is locked
        yield
        return
    with (path / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            raise ConfigError(
                f"{path}: another lens-train is at work on it; wait for it, or give another --out"
            ) from err
        yield


def versions() -> dict[str, str]:
    """Return the versions that a result may depend on."""
    packages = ("stronglens", "numpy", "torch", "torchvision", "scikit-learn")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def _recipe(task: str, d: dict[str, Any]) -> Recipe:
    kind: Any = type(TASKS[task].recipes["reference"])
    recipe: Recipe = kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in d.items()})
    return recipe


def _comparable(config: RunConfig) -> dict[str, Any]:
    d: dict[str, Any] = json.loads(config.to_json())
    del d["versions"], d["data"]["path"]
    return d


def _differences(prefix: str, found: Any, wanted: Any) -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        return [
            line
            for key in {**found, **wanted}
            for line in _differences(f"{prefix}{key}.", found.get(key), wanted.get(key))
        ]
    return [] if found == wanted else [f"{prefix.rstrip('.')}: {found}, not {wanted}"]
