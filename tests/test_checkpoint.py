"""A run's folder: what is written comes back, and what is not a finished run is refused."""

import csv
import json
import os
from dataclasses import replace

import numpy as np
import pytest
import tiny_data
import torch

from stronglens.engine.errors import ConfigError, InputError
from stronglens.engine.preprocess import PreprocessSpec
from stronglens.training import checkpoint, supervised
from stronglens.training.checkpoint import RunConfig, differences, load_run, locked, newest_run
from stronglens.training.data import load_dataset
from stronglens.training.progress import Progress
from stronglens.training.run import Order, run
from stronglens.training.state import EpochRow, EpochTiming, State, restore_state, save_state
from stronglens.training.tasks import TASKS, override
from stronglens.training.weights import RANDOM

QUICK = TASKS["substructure"].recipes["quick"]
CONFIG = RunConfig(
    task="lensfinding",
    classes=["lens", "nonlens"],
    recipe=TASKS["lensfinding"].recipes["reference"],
    preprocess=PreprocessSpec(mode="none", size=334),
    data={"path": "real_hst", "sha256": "ab", "counts": {"train": {"lens": 3}}},
    weights={"asked": "auto", "origin": "random"},
    precision="bfloat16",
    device="cpu",
    versions={"torch": "2.9"},
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two epochs on a tiny data set, and that data set."""
    root = tmp_path_factory.mktemp("run")
    tiny_data.write(root / "data")
    order = Order(
        task="substructure",
        data=root / "data",
        out=root / "runs" / "first",
        recipe="quick",
        settings=["epochs=2", "batch_size=16", "precision=float32"],
    )
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        run(order, Progress(nowhere))
    return root


def test_a_configuration_comes_back(tmp_path):
    assert RunConfig.from_json(CONFIG.to_json()) == CONFIG
    assert isinstance(RunConfig.from_json(CONFIG.to_json()).recipe.jitter, tuple)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2"),
        ({"colour": "red"}, "missing or unknown: colour"),
        ({"recipe": {"net": "resnet18"}}, "not a run's configuration"),
        ({"task": "cooking"}, "not a run's configuration"),
    ],
)
def test_a_configuration_of_another_kind_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_json(json.dumps(json.loads(CONFIG.to_json()) | change))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_what_is_no_configuration_is_refused(text):
    with pytest.raises(ConfigError, match=r"config\.json"):
        RunConfig.from_json(text)


def test_differences_are_named():
    other = replace(
        CONFIG,
        recipe=override(CONFIG.recipe, ["lr=0.5"]),
        data=CONFIG.data | {"sha256": "cd", "path": "elsewhere"},
        versions={"torch": "3.0"},
    )
    assert differences(CONFIG, other) == [
        "recipe.lr: 0.001, not 0.5",
        "data.sha256: ab, not cd",
    ]


def test_a_run_has_all_its_files_and_no_more(finished):
    names = {path.name for path in (finished / "runs" / "first").iterdir()}
    assert names == {
        ".lock",
        "config.json",
        "history.csv",
        "loss.png",
        "metrics.json",
        "mistakes.png",
        "model.safetensors",
        "roc.png",
        "timings.csv",
        "val_predictions.csv",
    }


def test_a_loaded_run_predicts_what_was_written(finished):
    loaded = load_run(finished / "runs" / "first")
    data = load_dataset(
        TASKS["substructure"], finished / "data", seed=loaded.config.recipe.seed, cache_dir=finished
    )
    assert data.origin == loaded.config.data
    assert (loaded.config.preprocess, loaded.config.classes) == (data.spec, data.classes)
    assert not loaded.net.training
    with torch.inference_mode():
        prob_NK = loaded.net(torch.from_numpy(data.val.x_NHW)).softmax(1).numpy()
    with (loaded.path / "val_predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == data.val.ids
    assert [row["true"] for row in rows] == [data.classes[y] for y in data.val.y_N]
    written_NK = np.array([[float(row[f"p_{cls}"]) for cls in data.classes] for row in rows])
    np.testing.assert_allclose(written_NK, prob_NK, atol=1e-6)
    labels = [data.classes[k] for k in written_NK.argmax(1)]
    assert [row["label"] for row in rows] == labels
    right = np.mean([row["label"] == row["true"] for row in rows])
    assert loaded.metrics["accuracy"] == pytest.approx(right)
    assert loaded.metrics["simulated"] is False


def test_history_and_metrics_agree(finished):
    folder = finished / "runs" / "first"
    with (folder / "history.csv").open(newline="") as file:
        history = list(csv.DictReader(file))
    metrics = json.loads((folder / "metrics.json").read_text())
    losses = [float(row["monitored_loss"]) for row in history]
    assert metrics["epochs"] == len(losses) == 2
    assert metrics["best_loss"] == min(losses) == losses[metrics["best_epoch"]]


def test_the_newest_finished_run_is_found(finished, tmp_path):
    with pytest.raises(InputError, match="no finished run"):
        newest_run(tmp_path)
    for age, name in enumerate(["b", "a", "unfinished"]):
        (tmp_path / name).mkdir()
        for file in ("metrics.json", "model.safetensors"):
            if (name, file) != ("unfinished", "model.safetensors"):
                (tmp_path / name / file).touch()
                os.utime(tmp_path / name / file, (1000 + age, 1000 + age))
    assert newest_run(tmp_path) == tmp_path / "a"


def test_what_is_no_finished_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a run"):
        load_run(tmp_path)
    (tmp_path / "config.json").write_text(CONFIG.to_json())
    with pytest.raises(InputError, match="not finished"):
        load_run(tmp_path)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(CONFIG.to_json())
    (tmp_path / "metrics.json").write_text("{}")
    net = supervised.build(QUICK, 3, PreprocessSpec(size=24), RANDOM)
    checkpoint.save_weights(tmp_path / "model.safetensors", net)
    with pytest.raises(ConfigError, match="does not fit"):
        load_run(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ConfigError, match="does not fit"):
        load_run(tmp_path)


def test_a_folder_is_held_by_one_training(tmp_path):
    pytest.importorskip("fcntl")
    with (
        locked(tmp_path / "run"),
        pytest.raises(ConfigError, match="another lens-train"),
        locked(tmp_path / "run"),
    ):
        pass
    with locked(tmp_path / "run"):
        pass


def stepped(hardware_layout):
    """Return a net and its optimizer after a step."""
    torch.manual_seed(3)
    net = supervised.build(QUICK, 3, PreprocessSpec(size=24), RANDOM)
    net.to(memory_format=hardware_layout)
    optimizer = supervised.optimizer(net, QUICK)
    net(torch.rand(8, 24, 24)).square().mean().backward()
    optimizer.step()
    return net, optimizer


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_a_restored_optimizer_steps_on_as_if_never_stopped(tmp_path, layout):
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    net, optimizer = stepped(layout)
    best = checkpoint.cpu_weights(net)
    rows = [EpochRow(0, 0.1 + 0.2, float("1e-300"), 1e-3)], [EpochTiming(0, 1.0, 2.0, 0.5)]
    save_state(tmp_path, State(*rows, best), net, optimizer, scaler)
    other = supervised.build(QUICK, 3, PreprocessSpec(size=24), RANDOM)
    other.to(memory_format=layout)
    resumed = supervised.optimizer(other, QUICK)
    found = restore_state(tmp_path, other, resumed, scaler)
    assert (found.history, found.timings) == rows
    x_BHW = torch.rand(8, 24, 24)
    for each, stepper in ((net, optimizer), (other, resumed)):
        torch.manual_seed(4)
        stepper.zero_grad()
        each(x_BHW).square().mean().backward()
        stepper.step()
    for name, weight in net.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name]), name
        assert torch.equal(found.best[name], best[name]), name
