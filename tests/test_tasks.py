"""The recipes hold the reference's settings, and `-o` changes exactly what it names."""

import ast
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stronglens.engine.errors import ConfigError
from stronglens.training import tasks
from stronglens.training.tasks import TASKS, Recipe, SimclrRecipe, SupervisedRecipe, override

SUBSTRUCTURE = TASKS["substructure"].recipes["reference"]
LENSFINDING = TASKS["lensfinding"].recipes["reference"]


def test_substructure_is_trained_as_the_reference_was():
    assert TASKS["substructure"].classes == ("no", "sphere", "vort")
    wanted = {
        "net": "resnext50",
        "input_size": 224,
        "batch_size": 32,
        "epochs": 17,
        "steps_per_epoch": 0,
        "lr": 1e-3,
        "weight_decay": 0.01,
        "schedule": "plateau",
        "plateau_factor": 0.1,
        "plateau_patience": 2,
        "plateau_threshold": 0.01,
        "min_lr": 1e-6,
        "early_stop": 4,
        "seed": 42,
        "label_smoothing": 0.0,
        "flips": False,
        "simulated_train": 10_000,
        "simulated_val": 2_500,
    }
    assert wanted.items() <= asdict(SUBSTRUCTURE).items()
    spec = TASKS["substructure"].preprocess
    assert (spec.mode, spec.size, spec.fit) == ("minmax", 150, "exact")


def test_native_differs_from_the_reference_in_the_size_alone():
    native = TASKS["substructure"].recipes["native"]
    assert replace(native, input_size=224) == SUBSTRUCTURE and native.input_size == 0


def test_lens_finding_is_trained_as_the_reference_was():
    assert TASKS["lensfinding"].classes == ("lens", "nonlens")
    wanted = {
        "net": "resnet18",
        "batch_size": 128,
        "epochs": 15,
        "lr": 1e-3,
        "weight_decay": 0.01,
        "schedule": "plateau",
        "early_stop": 4,
        "seed": 42,
        "val_fraction": 0.1,
        "temperature": 0.5,
        "projection_dim": 128,
        "trust_coefficient": 0.001,
        "lars_eps": 1e-8,
        "crop_size": 224,
        "jitter": (0.8, 0.8, 0.8, 0.2),
        "jitter_prob": 0.8,
        "flip_prob": 0.5,
        "blur_kernel": 23,
        "blur_sigma": (0.1, 2.0),
        "blur_prob": 0.5,
        "logistic_c": 1.0,
        "simulated_train": 152,
        "simulated_val": 63,
    }
    assert wanted.items() <= asdict(LENSFINDING).items()
    spec = TASKS["lensfinding"].preprocess
    assert (spec.mode, spec.size) == ("none", 334)


@pytest.mark.parametrize(
    ("setting", "name", "value"),
    [
        ("epochs=3", "epochs", 3),
        (" lr = 2e-4 ", "lr", 2e-4),
        ("flips=true", "flips", True),
        ("flips=False", "flips", False),
        ("net=small_cnn", "net", "small_cnn"),
        ("schedule=onecycle", "schedule", "onecycle"),
    ],
)
def test_a_setting_changes_its_field_and_no_other(setting, name, value):
    changed = override(SUBSTRUCTURE, [setting])
    assert getattr(changed, name) == value
    assert type(getattr(changed, name)) is type(value)
    assert changed == replace(SUBSTRUCTURE, **{name: value})


def test_the_parts_of_a_tuple_are_separated_by_commas():
    assert override(LENSFINDING, ["blur_sigma=0.2, 1"]).blur_sigma == (0.2, 1.0)


def test_later_settings_win():
    assert override(SUBSTRUCTURE, ["epochs=3", "epochs=5"]).epochs == 5


@pytest.mark.parametrize(
    ("recipe", "setting", "message"),
    [
        (SUBSTRUCTURE, "epoch=3", "did you mean epochs"),
        (SUBSTRUCTURE, "zzz=3", "there are net, input_size"),
        (SUBSTRUCTURE, "temperature=1", "no such setting"),
        (SUBSTRUCTURE, "epochs", "expected name=value"),
        (SUBSTRUCTURE, "epochs=1.5", "expected a whole number"),
        (SUBSTRUCTURE, "lr=fast", "expected a number"),
        (SUBSTRUCTURE, "flips=maybe", "expected true or false"),
        (SUBSTRUCTURE, "net=vgg", "expected one of resnext50, small_cnn"),
        (SUBSTRUCTURE, "epochs=0", "expected above 0"),
        (SUBSTRUCTURE, "lr=nan", "expected a finite"),
        (SUBSTRUCTURE, "lr=inf", "expected a finite"),
        (SUBSTRUCTURE, "weight_decay=-1", "expected 0 or more"),
        (SUBSTRUCTURE, "val_fraction=1", "expected between 0 and 1"),
        (SUBSTRUCTURE, "warmup=1", "expected 0 or more and below 1"),
        (SUBSTRUCTURE, "label_smoothing=1", "expected 0 or more and below 1"),
        (LENSFINDING, "blur_sigma=1", "expected 2 numbers"),
        (LENSFINDING, "blur_kernel=4", "expected odd"),
        (LENSFINDING, "flip_prob=1.1", "expected from 0 to 1"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_was_expected(recipe, setting, message):
    with pytest.raises(ConfigError, match=message):
        override(recipe, [setting])


@given(st.floats(1e-8, 1e3), st.integers(1, 10**6))
def test_numbers_are_read_as_python_writes_them(lr, epochs):
    changed = override(SUBSTRUCTURE, [f"lr={lr}", f"epochs={epochs}"])
    assert (changed.lr, changed.epochs) == (lr, epochs)


def test_every_field_of_a_recipe_is_documented():
    tree = ast.parse(Path(tasks.__file__).read_text(encoding="utf-8"))
    documented = set()
    for cls in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for field, after in zip(cls.body, cls.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr):
                documented.add(field.target.id)
    for kind in (Recipe, SupervisedRecipe, SimclrRecipe):
        assert {field.name for field in fields(kind)} <= documented


def test_tasks_load_without_torch():
    probe = "import sys, stronglens.training.tasks; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", probe], check=True)
