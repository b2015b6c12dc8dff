"""How well a classifier orders cutouts: ROC AUC with intervals, and what lens finders quote.

Every figure is one class against the rest. A row of prob_NK is one cutout, a column one class;
y_N holds column numbers. Intervals are percentile intervals of a bootstrap that resamples within
each class (so every resample holds every class); they speak of the luck of the draw of cutouts,
not of the luck of training.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_recall_curve, roc_curve

from stronglens.engine.errors import InputError

Floats = NDArray[np.float64]

FPRS = (1e-1, 1e-2, 1e-3)
COMPLETENESSES = (0.5, 0.9, 0.95)
EACH, SPREAD = 100, 200
"""points of a stored ROC curve: one for each of the first false positives, then even in log FPR"""


def roc_auc(y_N: NDArray[Any], prob_NK: NDArray[Any]) -> dict[int | str, float]:
    """Return the ROC AUC of each column against the rest, and under "macro" their mean.

    Ties count one half. Raises InputError where a class has no cutout, or all of them.
    """
    y_N, prob_NK = _checked(y_N, prob_NK)
    ones_1N = np.ones((1, len(y_N)))
    auc: dict[int | str, float] = {
        k: float(_auc_R(y_N == k, prob_NK[:, k], ones_1N)[0]) for k in range(prob_NK.shape[1])
    }
    return auc | {"macro": float(np.mean(list(auc.values())))}


def bootstrap_roc_auc(
    y_N: NDArray[Any], prob_NK: NDArray[Any], *, seed: int = 0, n_boot: int = 1000
) -> dict[int | str, tuple[float, float]]:
    """Return 95 % intervals (low, high) for what `roc_auc` returns, under the same keys.

    All columns and the macro mean see the same resamples. Where the AUC is 1 the interval is
    (1, 1): the bootstrap can't invent the mistake that a larger set would hold.
    """
    y_N, prob_NK = _checked(y_N, prob_NK)
    chunks = [
        np.stack([_auc_R(y_N == k, prob_NK[:, k], count_RN) for k in range(prob_NK.shape[1])], 1)
        for count_RN in _resamples(y_N, np.random.default_rng(seed), n_boot)
    ]
    auc_RK = np.concatenate(chunks)
    columns: dict[int | str, Floats] = dict(enumerate(auc_RK.T))
    columns["macro"] = auc_RK.mean(1)
    return {key: _interval(auc_R) for key, auc_R in columns.items()}


def tpr_at_fpr(is_class_N: NDArray[Any], score_N: NDArray[Any], fpr: float) -> float:
    """Return the highest TPR that some threshold reaches with FPR at most `fpr`.

    No interpolation between thresholds: a threshold that reaches the figure exists. With fewer
    than 1/fpr cutouts outside the class this is the TPR at no false positive.
    """
    _check_two_sided(is_class_N)
    fpr_T, tpr_T, _ = roc_curve(is_class_N, score_N, drop_intermediate=False)
    return float(tpr_T[fpr_T <= fpr].max())


def tpr_below_false_positives(is_class_N: NDArray[Any], score_N: NDArray[Any], count: int) -> float:
    """Return the highest TPR with fewer than `count` false positives.

    `count` 1 gives TPR0, 10 gives TPR10, as defined in the strong-lens finding challenge
    (Metcalf et al. 2019, A&A 625, A119). Both depend on the size of the set: compare them only
    between classifiers scored on the same one.
    """
    outside = int(np.sum(~np.asarray(is_class_N, bool)))
    # half a cutout below: fpr * outside need not be a whole number after rounding
    return tpr_at_fpr(is_class_N, score_N, (count - 0.5) / max(outside, 1))


def roc_points(is_class_N: NDArray[Any], score_N: NDArray[Any]) -> dict[str, list[float]]:
    """Return the ROC curve in at most some 300 points, from the highest threshold down.

    Keys "fpr", "tpr" and "threshold": the shares of the rest and of the class whose score is at
    least the threshold. Each is a point of the whole curve, the best with its FPR; `tpr_at_fpr`
    for each of FPRS is among them, and every one with fewer than EACH false positives.
    Thresholds are finite: there is no point (0, 0) unless a score is above all of the rest's.
    """
    _check_two_sided(is_class_N)
    fpr_T, tpr_T, score_T = roc_curve(is_class_N, score_N, drop_intermediate=False)
    corner_T = np.r_[fpr_T[1:] > fpr_T[:-1], True] & np.isfinite(score_T)
    fpr_P = fpr_T[corner_T]
    outside = int(np.sum(~np.asarray(is_class_N, bool)))
    few, many = np.arange(EACH) / outside, np.geomspace(min(EACH / outside, 1), 1, SPREAD)
    wanted = np.concatenate([few[few <= 1], many, FPRS, [1]])
    index = np.unique(np.searchsorted(fpr_P, wanted, side="right") - 1)
    kept = np.flatnonzero(corner_T)[index[index >= 0]]
    curve = {"fpr": fpr_T, "tpr": tpr_T, "threshold": score_T}
    return {name: values_T[kept].astype(float).tolist() for name, values_T in curve.items()}


def purity_at_completeness(
    is_class_N: NDArray[Any], score_N: NDArray[Any], completeness: float
) -> float:
    """Return the best purity (precision) at a completeness (recall) of at least `completeness`.

    Purity is that of a set with this set's share of the class; a survey holds far fewer lenses.
    """
    _check_two_sided(is_class_N)
    purity_T, completeness_T, _ = precision_recall_curve(is_class_N, score_N)
    return float(purity_T[completeness_T >= completeness].max())


def accuracy(y_N: NDArray[Any], prob_NK: NDArray[Any]) -> float:
    """Return the share of cutouts whose largest probability is their own class's."""
    return float(np.mean(np.asarray(prob_NK).argmax(1) == y_N))


def confusion(y_N: NDArray[Any], prob_NK: NDArray[Any]) -> NDArray[np.int64]:
    """Count cutouts, (K, K): row the true class, column the class of largest probability."""
    labels = np.arange(prob_NK.shape[1])
    counts_KK: NDArray[np.int64] = confusion_matrix(y_N, prob_NK.argmax(1), labels=labels)
    return counts_KK


def summarise(
    y_N: NDArray[Any],
    prob_NK: NDArray[Any],
    classes: Sequence[str],
    *,
    seed: int = 0,
    n_boot: int = 1000,
) -> dict[str, Any]:
    """Return every figure as plain JSON values, by class name: what metrics.json holds.

    Keys: "roc_auc" {class or "macro": {"value", "low", "high"}}, "accuracy", "confusion"
    (rows true), "tpr_at_fpr" {class: {"0.1": …}}, "tpr0" and "tpr10" {class: …},
    "purity_at_completeness" {class: {"0.9": …}}, "counts" {class: …}, "bootstrap", "roc_curve"
    {class: see `roc_points`}.
    Raises InputError where a class has no cutout, or a probability is not finite.
    """
    y_N, prob_NK = _checked(y_N, prob_NK, classes)
    names: dict[int | str, str] = {**dict(enumerate(classes)), "macro": "macro"}
    bounds = bootstrap_roc_auc(y_N, prob_NK, seed=seed, n_boot=n_boot)
    roc = {
        names[key]: {"value": value, "low": bounds[key][0], "high": bounds[key][1]}
        for key, value in roc_auc(y_N, prob_NK).items()
    }

    def by_class(figure: Callable[[NDArray[Any], NDArray[Any]], Any]) -> dict[str, Any]:
        return {name: figure(y_N == k, prob_NK[:, k]) for k, name in enumerate(classes)}

    return {
        "roc_auc": {"macro": roc.pop("macro"), **roc},
        "accuracy": accuracy(y_N, prob_NK),
        "confusion": confusion(y_N, prob_NK).tolist(),
        "tpr_at_fpr": by_class(lambda c, s: {f"{f:g}": tpr_at_fpr(c, s, f) for f in FPRS}),
        "tpr0": by_class(lambda c, s: tpr_below_false_positives(c, s, 1)),
        "tpr10": by_class(lambda c, s: tpr_below_false_positives(c, s, 10)),
        "purity_at_completeness": by_class(
            lambda c, s: {f"{f:g}": purity_at_completeness(c, s, f) for f in COMPLETENESSES}
        ),
        "counts": by_class(lambda c, _: int(c.sum())),
        "bootstrap": {"resamples": n_boot, "seed": seed, "level": 0.95},
        "roc_curve": by_class(roc_points),
    }


def _auc_R(is_class_N: NDArray[np.bool_], score_N: NDArray[Any], count_RN: NDArray[Any]) -> Floats:
    """Return the AUC of each of R resamples, given how often each cutout was drawn.

    The share of (class, rest) pairs that are in the right order: one sort serves all resamples.
    """
    order_N = np.argsort(score_N, kind="stable")
    sorted_N = score_N[order_N]
    starts_G = np.flatnonzero(np.r_[True, sorted_N[1:] != sorted_N[:-1]])
    count_RN, inside_N = count_RN[:, order_N], is_class_N[order_N]
    inside_RG = np.add.reduceat(count_RN * inside_N, starts_G, axis=1, dtype=np.float64)
    outside_RG = np.add.reduceat(count_RN * ~inside_N, starts_G, axis=1, dtype=np.float64)
    beaten_RG = outside_RG.cumsum(1) - 0.5 * outside_RG
    pairs_R = inside_RG.sum(1) * outside_RG.sum(1)
    auc_R: Floats = np.einsum("rg,rg->r", inside_RG, beaten_RG) / pairs_R
    return auc_R


def _resamples(
    y_N: NDArray[np.int64], rng: np.random.Generator, n_boot: int
) -> Iterator[NDArray[np.int64]]:
    """Yield count_RN, chunk by chunk: how often each cutout is drawn, class by class."""
    members = [np.flatnonzero(y_N == k) for k in np.unique(y_N)]
    step = max(1, 1_000_000 // len(y_N))
    for done in range(0, n_boot, step):
        rows = min(step, n_boot - done)
        row_R1 = np.arange(rows)[:, None] * len(y_N)
        drawn = [row_R1 + m[rng.integers(len(m), size=(rows, len(m)))] for m in members]
        flat = np.concatenate([d.ravel() for d in drawn])
        yield np.bincount(flat, minlength=rows * len(y_N)).reshape(rows, -1)


def _interval(value_R: Floats) -> tuple[float, float]:
    low, high = np.quantile(value_R, (0.025, 0.975))
    return float(low), float(high)


def _checked(
    y_N: NDArray[Any], prob_NK: NDArray[Any], classes: Sequence[str] | None = None
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    y_N, prob_NK = np.asarray(y_N, np.int64), np.asarray(prob_NK)
    names = list(classes) if classes is not None else list(range(prob_NK.shape[-1]))
    if prob_NK.shape != (len(y_N), len(names)):
        raise InputError(
            f"probabilities are {prob_NK.shape}, expected {(len(y_N), len(names))}: one row a "
            "cutout, one column a class"
        )
    if not np.isfinite(prob_NK).all():
        bad = int((~np.isfinite(prob_NK)).any(1).sum())
        raise InputError(f"{bad} rows of probabilities are not finite: leave rejected cutouts out")
    counts_K = [int(np.sum(y_N == k)) for k in range(len(names))]
    if absent := [str(n) for n, count in zip(names, counts_K, strict=True) if not count]:
        raise InputError(
            f"no cutout of class {', '.join(absent)} among {len(y_N)}: ROC AUC needs every class"
        )
    if sum(counts_K) < len(y_N):
        raise InputError(f"labels outside 0…{len(names) - 1}: {len(y_N) - sum(counts_K)} cutouts")
    return y_N, prob_NK


def _check_two_sided(is_class_N: NDArray[Any]) -> None:
    inside, total = int(np.sum(is_class_N)), len(is_class_N)
    if inside in (0, total):
        raise InputError(f"{inside} of {total} cutouts are of the class: need some on both sides")
