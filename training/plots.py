"""The pictures of a run: ROC curves, the loss by epoch, the cutouts it got most wrong.

Drawn through matplotlib's object interface on an Agg canvas: no window, no pyplot, no state
left behind; the same input gives the same bytes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by colour-blind readers too
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#666666"
WRONG, RIGHT = "#B00020", "#1B7F3B"


def roc_png(
    y_N: NDArray[Any],
    prob_NK: NDArray[Any],
    classes: Sequence[str],
    metrics: Mapping[str, Any],
    path: Path,
) -> None:
    """Draw each class's ROC curve against the rest, linear and with a logarithmic FPR.

    `metrics` is what `metrics.summarise` returned: the legend quotes its ROC AUC and intervals.
    """
    figure = _figure(11.0, 5.0)
    linear, logarithmic = figure.subplots(1, 2)
    lowest = 1.0
    for k, name in enumerate(classes):
        is_class_N = np.asarray(y_N) == k
        fpr_T, tpr_T, _ = roc_curve(is_class_N, prob_NK[:, k], drop_intermediate=False)
        colour = COLOURS[k % len(COLOURS)]
        lowest = min(lowest, 1 / max(int((~is_class_N).sum()), 1))
        linear.plot(fpr_T, tpr_T, color=colour, lw=1.8, label=_legend(name, metrics))
        # held at the left edge: a threshold without false positives has no logarithm
        logarithmic.plot(fpr_T.clip(lowest / 2), tpr_T, color=colour, lw=1.8, ds="steps-post")
    chance_T = np.geomspace(lowest / 2, 1, 200)
    linear.plot([], [], " ", label=_legend("macro", metrics))
    for axes in (linear, logarithmic):
        axes.plot(chance_T, chance_T, color=GREY, lw=1, ls=":")
        axes.set(xlabel="false positive rate", ylabel="true positive rate", ylim=(-0.01, 1.01))
    linear.set(xlim=(-0.01, 1.01), title="ROC, one class against the rest")
    logarithmic.set(xscale="log", xlim=(lowest / 2, 1), title="the same at few false positives")
    linear.legend(
        loc="lower right", frameon=False, title=f"ROC AUC, 95 % interval, {len(y_N):,} cutouts"
    )
    _save(figure, path)


def loss_png(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the loss by epoch; mark the epoch whose weights were kept and each cut of the rate.

    A row of `history` is an epoch: "train_loss", and where there are any "val_loss" and "lr".
    "epoch" counts from 0, the picture from 1 as everything said to the user does; it counts the
    rows where absent. Missing and non-finite values are gaps.
    """
    from matplotlib.ticker import MaxNLocator

    figure = _figure(7.5, 4.5)
    axes = figure.subplots()
    epoch_E = _column(history, "epoch")
    epoch_E = np.where(np.isfinite(epoch_E), epoch_E, np.arange(len(history))) + 1
    train_E, val_E = _column(history, "train_loss"), _column(history, "val_loss")
    watched_E = val_E if np.isfinite(val_E).any() else train_E
    axes.plot(epoch_E, train_E, color=COLOURS[0], marker="o", ms=3.5, lw=1.6, label="training")
    if np.isfinite(val_E).any():
        axes.plot(epoch_E, val_E, color=COLOURS[1], marker="o", ms=3.5, lw=1.6, label="validation")
    if np.isfinite(watched_E).any():
        best = int(np.nanargmin(watched_E))
        label = f"kept: epoch {epoch_E[best]:g}, loss {watched_E[best]:.4g}"
        axes.plot(epoch_E[best], watched_E[best], "o", ms=11, mfc="none", mec="black", label=label)
    _mark_rate_cuts(axes, epoch_E, _column(history, "lr"))
    axes.set(xlabel="epoch", ylabel="loss", title="loss by epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    _save(figure, path)


def mistakes_png(
    x_NHW: NDArray[Any],
    ids: Sequence[str],
    y_N: NDArray[Any],
    prob_NK: NDArray[Any],
    classes: Sequence[str],
    path: Path,
    *,
    count: int = 16,
) -> None:
    """Show the `count` cutouts whose true class got the least probability, worst first.

    Red titles are misclassified, green ones right but least sure. Brightness: asinh between the
    cutout's own 1st and 99.7th percentile.
    """
    y_N = np.asarray(y_N, np.int64)
    p_true_N = np.asarray(prob_NK)[np.arange(len(y_N)), y_N]
    worst = np.argsort(p_true_N, kind="stable")[:count]
    columns = min(4, max(1, len(worst)))
    rows = max(1, -(-len(worst) // columns))
    figure = _figure(2.7 * columns, 3.0 * rows + 0.4)
    figure.suptitle("the cutouts whose true class was scored lowest", fontsize=11)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, n in zip(grid, worst, strict=False):
        guess = int(np.argmax(prob_NK[n]))
        _show(axes, x_NHW[n])
        text = f"{_short(ids[n])}\n{classes[y_N[n]]}, p = {p_true_N[n]:.3g}"
        if guess != y_N[n]:
            text += f" → {classes[guess]}, p = {prob_NK[n, guess]:.3g}"
        colour = RIGHT if guess == y_N[n] else WRONG
        axes.set_title(text, fontsize=7.5, color=colour, parse_math=False)
    _save(figure, path)


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: "Figure", path: Path) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    # matplotlib's own version would make two machines' files differ
    figure.savefig(path, format="png", metadata={"Software": None})


def _legend(name: str, metrics: Mapping[str, Any]) -> str:
    auc = metrics["roc_auc"][name]
    return f"{name}  {auc['value']:.4f}  [{auc['low']:.4f}, {auc['high']:.4f}]"


def _column(history: Sequence[Mapping[str, Any]], name: str) -> NDArray[np.float64]:
    values = (row.get(name) for row in history)
    return np.array([np.nan if v in (None, "") else float(v) for v in values], np.float64)


def _mark_rate_cuts(axes: "Axes", epoch_E: NDArray[Any], lr_E: NDArray[Any]) -> None:
    # a rate that had stayed the same: one that falls all the time is a schedule, not a cut
    before_E = np.concatenate([lr_E[:1], lr_E[:-2]])[: max(len(lr_E) - 1, 0)]
    cuts = np.flatnonzero((lr_E[1:] < 0.5 * lr_E[:-1]) & (before_E == lr_E[:-1])) + 1
    for nth, e in enumerate(cuts):
        label = "learning rate cut" if nth == 0 else None
        axes.axvline(epoch_E[e], color=GREY, lw=1, ls="--", label=label)


def _show(axes: "Axes", x_HW: NDArray[Any]) -> None:
    from matplotlib.colors import AsinhNorm

    low, high = (float(v) for v in np.percentile(x_HW, (1, 99.7)))
    high = high if high > low else low + 1.0
    # floats relative to `low`: AsinhNorm is linear about zero, which must be the sky
    norm = AsinhNorm(linear_width=0.1 * (high - low), vmin=0.0, vmax=high - low)
    axes.imshow(x_HW - low, cmap="magma", norm=norm, interpolation="nearest", origin="lower")


def _short(text: str, most: int = 34) -> str:
    return text if len(text) <= most else "…" + text[1 - most :]
