"""A run's folder as lens-train leaves it, with a net that was never trained, and its data."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from stronglens.engine.preprocess import PreprocessSpec
from stronglens.export.assemble import export
from stronglens.export.cutouts import take_sample
from stronglens.export.graph import run_graph, serving
from stronglens.export.parity import Parity
from stronglens.training.checkpoint import RunConfig, save_weights, versions
from stronglens.training.listing import list_dataset
from stronglens.training.method import method_of
from stronglens.training.tasks import TASKS
from stronglens.training.weights import RANDOM

PER_CLASS = 6
SIDES = {"substructure": 40, "lensfinding": 48}


def write_data(root, task, rng):
    """Write noisy cutouts whose brightness grows with the class."""
    side = SIDES[task.name]
    names = {"substructure": "{split}/{cls}/{i}.npy", "lensfinding": "{prefix}{split}{i}.npy"}
    for split in ("train", "val"):
        for label, cls in enumerate(task.classes):
            for i in range(PER_CLASS):
                prefix = "nl_" if cls == "nonlens" else ""
                path = root / names[task.name].format(split=split, cls=cls, i=i, prefix=prefix)
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, rng.random((1, side, side)) ** (1 + label) + 0.1 * i)


def make_net(config):
    torch.manual_seed(3)
    net = method_of(config.recipe).build(
        config.recipe, len(config.classes), config.preprocess, RANDOM
    )
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
    # far apart, or the order of near ties would be all that the ROC AUC shows
    head = next(layer for layer in net.head.modules() if isinstance(layer, nn.Linear))
    with torch.no_grad():
        head.weight.normal_(std=1.0)
    return net.eval()


@torch.no_grad()
def settle(net, config):
    """Let a deep classifier tell cutouts apart: with random statistics it says the same of all."""
    listing = list_dataset(TASKS[config.task], Path(config.data["path"]), seed=42, val_fraction=0.1)
    x_NHW = take_sample(listing, config.preprocess, len(listing.val)).x_NHW
    graph = serving(net).graph
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    graph.train()(torch.from_numpy(x_NHW))
    head = next(layer for layer in net.head.modules() if isinstance(layer, nn.Linear))
    head.weight.normal_(std=0.01)
    head.bias.zero_()
    logit_NK = np.log(run_graph(graph.eval(), x_NHW)[0])
    scale = 0.25 / float(logit_NK.std(axis=0).mean())
    head.weight *= scale
    head.bias.copy_(torch.from_numpy(-scale * logit_NK.mean(axis=0)))


def write_predictions(run, config, net):
    listing = list_dataset(TASKS[config.task], Path(config.data["path"]), seed=42, val_fraction=0.1)
    sample = take_sample(listing, config.preprocess, len(listing.val))
    prob_NK, _ = run_graph(serving(net).graph, sample.x_NHW)
    root = Path(config.data["path"])
    with (run / "val_predictions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "true", *(f"p_{cls}" for cls in config.classes), "label"])
        for path, prob_K in zip(sample.paths, prob_NK, strict=True):
            table.writerow([Path(path).relative_to(root).as_posix(), "", *prob_K.tolist(), ""])


def write_run(run, data, name, recipe="quick"):
    """Write what lens-train leaves behind, with a net that was never trained."""
    task = TASKS[name]
    config = RunConfig(
        task=name,
        classes=list(task.classes),
        recipe=task.recipes[recipe],
        preprocess=PreprocessSpec(mode=task.preprocess.mode, size=SIDES[name]),
        data={"path": str(data), "simulated": True},
        weights={},
        precision="float32",
        device="cpu",
        versions=versions() | {"torch": "0.1"},
    )
    net = make_net(config)
    if recipe != "quick":
        settle(net, config)
    run.mkdir(parents=True)
    (run / "config.json").write_text(config.to_json())
    save_weights(run / "model.safetensors", net)
    write_predictions(run, config, net)
    (run / "metrics.json").write_text(json.dumps({"accuracy": 0.5}))
    return config


def export_anyhow(order):
    """Export also what misses a gate: rounding sways a deep net of random weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parity, "passed", True)
        export(order, lambda line: None)
