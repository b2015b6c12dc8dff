"""The two tasks and their recipes: every setting of a training, with its default, once.

`reference` reproduces the published work line by line; another recipe may do anything that
scores better or faster, and says what. A recipe is changed on the command line with
`-o name=value`; nothing else in the package holds a default of a training.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from stronglens.engine.errors import ConfigError
from stronglens.engine.preprocess import PreprocessSpec

Net = Literal["resnext50", "small_cnn", "resnet18"]
Schedule = Literal["plateau", "onecycle"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]

VAL_FRACTION = 0.1


def _check(recipe: "Recipe", name: str, holds: bool, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{name}={getattr(recipe, name)}: expected {expected}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """The settings of any training."""

    net: Net
    """the architecture, see `stronglens.training.models`"""
    input_size: int = 0
    """side in pixels the net resizes a cutout to (nearest neighbour); 0 keeps the cutout's own"""
    batch_size: int
    """cutouts in a step; the last, shorter batch of an epoch is kept"""
    epochs: int
    """passes over the training split, at most"""
    steps_per_epoch: int = 0
    """steps after which an epoch ends; 0 means all of the training split"""
    lr: float = 1e-3
    """learning rate of AdamW: at the start for `plateau`, at the peak for `onecycle`"""
    weight_decay: float = 0.01
    """of AdamW; 0.01 is torch's default, which the reference left as it is"""
    schedule: Schedule = "plateau"
    """`plateau`: by factors, when the monitored loss stalls; `onecycle`: warm-up, then cosine"""
    plateau_factor: float = 0.1
    """what the learning rate is multiplied by when the loss stalls"""
    plateau_patience: int = 2
    """epochs without improvement that are forgiven"""
    plateau_threshold: float = 0.01
    """relative decrease of the loss that counts as improvement"""
    min_lr: float = 1e-6
    """the learning rate never falls below"""
    warmup: float = 0.05
    """share of all steps in which `onecycle` raises the learning rate from 0"""
    early_stop: int = 4
    """the training ends when its best epoch is more than this many epochs old; 0 never does"""
    seed: int = 42
    """of everything random: split, order, augmentation, weights, intervals"""
    val_fraction: float = VAL_FRACTION
    """share of each class held out where the data come without a `val` folder"""
    precision: Precision = "auto"
    """of the arithmetic; weights stay float32. `auto`: bfloat16 where the processor has it"""
    simulated_train: int
    """cutouts to simulate where there are no data: per class for training (lens finding: lenses)"""
    simulated_val: int
    """the same: per class for validation (lens finding: non-lenses)"""

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay", "plateau_threshold", "min_lr"):
            _check(self, name, getattr(self, name) < math.inf, "a finite number")
        for name in ("batch_size", "epochs", "lr", "simulated_train", "simulated_val"):
            _check(self, name, getattr(self, name) > 0, "above 0")
        for name in (
            "input_size",
            "steps_per_epoch",
            "weight_decay",
            "plateau_patience",
            "plateau_threshold",
            "min_lr",
            "early_stop",
            "seed",
        ):
            _check(self, name, getattr(self, name) >= 0, "0 or more")
        for name in ("plateau_factor", "val_fraction"):
            _check(self, name, 0 < getattr(self, name) < 1, "between 0 and 1")
        _check(self, "warmup", 0 <= self.warmup < 1, "0 or more and below 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class SupervisedRecipe(Recipe):
    """Cross entropy on labelled cutouts."""

    label_smoothing: float = 0.0
    """share of each label spread evenly over the classes"""
    flips: bool = False
    """flip each training cutout up-down and left-right, each with probability 1/2"""

    def __post_init__(self) -> None:
        Recipe.__post_init__(self)
        _check(self, "label_smoothing", 0 <= self.label_smoothing < 1, "0 or more and below 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class SimclrRecipe(Recipe):
    """SimCLR pre-training without labels, then a linear head on the frozen encodings."""

    temperature: float = 0.5
    """of the NT-Xent loss"""
    projection_dim: int = 128
    """length of an encoding: the output of the projection head"""
    trust_coefficient: float = 0.001
    """of LARS: how long a step may be, relative to the weights"""
    lars_eps: float = 1e-8
    """of LARS: added to the denominator"""
    crop_size: int = 224
    """side in pixels of a view"""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """share of the cutout's area that a view covers (torchvision's default)"""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """width over height of what a view covers (torchvision's default)"""
    flip_prob: float = 0.5
    """how often a view is flipped left-right"""
    jitter: tuple[float, float, float, float] = (0.8, 0.8, 0.8, 0.2)
    """brightness, contrast, saturation, hue; the last two do nothing on one band"""
    jitter_prob: float = 0.8
    """how often a view is jittered"""
    blur_kernel: int = 23
    """side in pixels of the Gaussian blur's kernel; odd"""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """range of the blur's width in pixels"""
    blur_prob: float = 0.5
    """how often a view is blurred"""
    logistic_c: float = 1.0
    """inverse strength of the L2 penalty of the linear head (scikit-learn's default)"""

    def __post_init__(self) -> None:
        Recipe.__post_init__(self)
        for name in ("temperature", "projection_dim", "trust_coefficient", "crop_size"):
            _check(self, name, getattr(self, name) > 0, "above 0")
        for name in ("flip_prob", "jitter_prob", "blur_prob"):
            _check(self, name, 0 <= getattr(self, name) <= 1, "from 0 to 1")
        _check(self, "blur_kernel", self.blur_kernel % 2 == 1, "odd")
        _check(self, "logistic_c", self.logistic_c > 0, "above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One thing to learn: its classes, where its data lie, how to train it."""

    name: str
    classes: tuple[str, ...]
    """in label order"""
    default_data: str
    """the folder that `lens-train` reads with no options"""
    preprocess: PreprocessSpec
    recipes: dict[str, Recipe]


SUBSTRUCTURE_REFERENCE = SupervisedRecipe(
    net="resnext50",
    input_size=224,
    batch_size=32,
    epochs=17,
    simulated_train=10_000,
    simulated_val=2_500,
)

SUBSTRUCTURE = Task(
    name="substructure",
    classes=("no", "sphere", "vort"),
    default_data="dataset",
    preprocess=PreprocessSpec(mode="minmax", size=150, fit="exact"),
    recipes={
        "reference": SUBSTRUCTURE_REFERENCE,
        # the reference enlarges 150 pixels to 224, which adds no light: 2.2 times the operations
        "native": replace(SUBSTRUCTURE_REFERENCE, input_size=0),
        # learns in minutes on two cores, from scratch; a smaller net than the reference's
        "quick": SupervisedRecipe(
            net="small_cnn",
            batch_size=64,
            epochs=16,
            lr=2e-3,
            weight_decay=0.02,
            schedule="onecycle",
            early_stop=0,
            label_smoothing=0.02,
            flips=True,  # not rot90: the published images are all stretched along x
            simulated_train=4_500,
            simulated_val=500,
        ),
    },
)

LENSFINDING = Task(
    name="lensfinding",
    classes=("lens", "nonlens"),
    default_data="real_hst",
    preprocess=PreprocessSpec(mode="none", size=334, fit="crop"),
    recipes={
        "reference": SimclrRecipe(
            net="resnet18",
            batch_size=128,
            epochs=15,
            simulated_train=152,
            simulated_val=63,
        ),
        # more cutouts and fewer epochs: three minutes on two cores
        "quick": SimclrRecipe(
            net="resnet18",
            batch_size=64,
            epochs=6,
            simulated_train=300,
            simulated_val=200,
        ),
    },
)

TASKS: dict[str, Task] = {task.name: task for task in (SUBSTRUCTURE, LENSFINDING)}

R = TypeVar("R", bound=Recipe)


def override(recipe: R, settings: Iterable[str]) -> R:
    """Return `recipe` with each "name=value" of `settings` applied, later ones winning.

    A value is read as its field's type; the parts of a tuple are separated by commas.

    Raises:
        ConfigError: no such setting (the nearest is named), not of its type, or out of range.
    """
    types = get_type_hints(type(recipe))
    changes: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = (part.strip() for part in setting.partition("="))
        if not equals:
            raise ConfigError(f"-o {setting!r}: expected name=value, such as -o epochs=3")
        if name not in types:
            raise ConfigError(_unknown(name, [field.name for field in fields(recipe)]))
        changes[name] = _read(name, text, types[name])
    return replace(recipe, **changes)


def _unknown(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"-o {name}: no such setting" + (
        f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
    )


def _read(name: str, text: str, kind: Any) -> Any:
    try:
        if get_origin(kind) is Literal:
            return _choice(text, get_args(kind))
        if get_origin(kind) is tuple:
            return tuple(float(part) for part in _parts(text, len(get_args(kind))))
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text)
    except (KeyError, ValueError) as err:
        raise ConfigError(f"-o {name}={text}: expected {_describe(kind)}") from err


def _choice(text: str, choices: tuple[str, ...]) -> str:
    if text not in choices:
        raise ValueError(text)
    return text


def _parts(text: str, count: int) -> list[str]:
    parts = text.split(",")
    if len(parts) != count:
        raise ValueError(text)
    return parts


def _describe(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(get_args(kind))
    if get_origin(kind) is tuple:
        return f"{len(get_args(kind))} numbers separated by commas"
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "text")
