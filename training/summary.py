"""What a finished run says of itself."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stronglens.training.checkpoint import RunConfig, read_config


def summary(run: Path) -> str:
    """Return a finished run's scores as a table, where it lies, and the next command."""
    config = read_config(run)
    assert config is not None  # callers have just checked or written it
    metrics = json.loads((run / "metrics.json").read_text())
    counts = metrics["counts"]
    lines = [
        f"{config.task}: {config.recipe.net}, best epoch "
        f"{metrics['best_epoch'] + 1} of {metrics['epochs']} (loss {metrics['best_loss']:.4f}), "
        f"first weights {config.weights['origin']}",
        f"validation: {sum(counts.values()):,} {_kind(config)}cutouts ({config.data['split']})",
        "",
        *_table(metrics, config.classes),
        "",
        f"accuracy {metrics['accuracy']:.4f}",
        *metrics.get("remarks", []),
        f"written: {run}/",
        f"next:    lens-export {run}",
    ]
    return "\n".join(lines)


def _kind(config: RunConfig) -> str:
    return "SIMULATED " if config.data["simulated"] else ""


def _table(metrics: Mapping[str, Any], classes: Sequence[str]) -> list[str]:
    names = [*classes, "macro"]
    width = max(len(name) for name in [*names, "class"])
    lines = [f"{'class':<{width}}  cutouts  ROC AUC  95 % interval     TPR at FPR 0.1"]
    for name in names:
        auc = metrics["roc_auc"][name]
        count = metrics["counts"].get(name)
        tpr = metrics["tpr_at_fpr"].get(name, {}).get("0.1")
        lines.append(
            f"{name:<{width}}  {'' if count is None else format(count, ','):>7}  "
            f"{auc['value']:.4f}   {auc['low']:.4f}–{auc['high']:.4f}  "
            f"{'' if tpr is None else format(tpr, '.4f'):>14}".rstrip()
        )
    return lines
