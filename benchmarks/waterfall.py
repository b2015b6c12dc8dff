"""A picture of what each optimisation adds: rates climb step by step, accuracy stands below."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

matplotlib.use("Agg")

BASE, GAIN, LOSS, TEXT, RULE = "#8d99ae", "#2a9d8f", "#c8553d", "#2b2d42", "#d9dce3"


@dataclass(frozen=True, slots=True)
class Step:
    """One optimisation on top of those before it."""

    label: str
    rate: float
    """cutouts/s"""
    ratio: float
    """to the first step's"""
    max_dp: float
    auc: float
    """NaN where the truth is not known"""


def draw(path: Path, title: str, steps: Sequence[Step]) -> None:
    """Draw the steps from left to right: each bar is what its step adds to the rate before."""
    figure = Figure(figsize=(1.5 * len(steps) + 1.2, 4.4), dpi=110)
    axes = figure.add_subplot()
    before, ratio, top = 0.0, 1.0, max(step.rate for step in steps)
    for i, step in enumerate(steps):
        low, high = sorted((before, step.rate))
        colour = BASE if i == 0 else GAIN if step.rate >= before else LOSS
        axes.bar(i, high - low, 0.62, bottom=low, color=colour)
        if i:
            axes.plot([i - 1.31, i + 0.31], [before, before], color=TEXT, lw=0.7)
        if i and high - low > 0.07 * top:
            axes.text(i, (low + high) / 2, f"×{step.ratio / ratio:.2f}", ha="center", va="center",
                      color="white", fontsize=10)  # fmt: skip
        figures = f"{step.rate:,.{0 if step.rate >= 100 else 1}f}/s\n{step.ratio:.1f}×"
        axes.annotate(figures, (i, high), (0, 4), textcoords="offset points", ha="center",
                      va="bottom", color=TEXT, fontsize=10, fontweight="bold")  # fmt: skip
        before, ratio = step.rate, step.ratio
    axes.set_xticks(range(len(steps)), [_below(i, step) for i, step in enumerate(steps)])
    axes.set_ylim(0, 1.17 * top)
    axes.set_ylabel("cutouts/s", color=TEXT)
    axes.set_title(title, loc="left", color=TEXT, fontsize=11, pad=12)
    axes.tick_params(axis="both", length=0, labelsize=9, labelcolor=TEXT)
    axes.grid(axis="y", color=RULE, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)


def _below(i: int, step: Step) -> str:
    far = f"max |Δp| {step.max_dp:.1e}" if i else "reference"
    auc = "" if step.auc != step.auc else f"\nAUC {step.auc:.4f}"
    return f"{'+ ' if i else ''}{step.label}\n\n{far}{auc}"
