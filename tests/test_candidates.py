"""Which rows are the best ones, and the thresholds that a validation set can tell."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_rows import pieces, rows

from stronglens.engine.batches import REJECTED, Flag, Rows
from stronglens.engine.candidates import Top, target_class, threshold_at_fpr
from stronglens.engine.errors import BundleError, ConfigError
from stronglens.training import metrics

CLASSES = ["lens", "nonlens"]


def table(prob, flags=None):
    prob_B = np.float32(prob)
    return rows([f"{i}.npy" for i in range(len(prob_B))], np.stack([prob_B, 1 - prob_B], 1), flags)


@given(
    st.lists(st.tuples(st.integers(0, 8), st.sampled_from([*Flag])), min_size=1, max_size=60),
    st.integers(1, 20),
    st.sampled_from([-np.inf, 0, 0.5, 0.75]),
    st.lists(st.integers(0, 60), max_size=4),
)
def test_the_best_are_those_of_a_stable_sort(cases, count, threshold, cuts):
    everything = table([p / 8 for p, _ in cases], [f for _, f in cases])
    top = Top(count, 0, threshold)
    for piece in pieces(everything, [min(cut, len(cases)) for cut in cuts]):
        top.add(piece)
    good = [i for i, (p, f) in enumerate(cases) if not f & REJECTED and p / 8 >= threshold]
    best = sorted(good, key=lambda i: -cases[i][0])[:count]
    found = top.rows()
    assert found.ids == [everything.ids[i] for i in best]
    np.testing.assert_array_equal(found.prob_BK, everything.prob_BK[best].reshape(-1, 2))
    np.testing.assert_array_equal(found.flags_B, everything.flags_B[best])
    assert top.passed == len(good)


def test_the_best_keep_their_catalogue_columns():
    top = Top(1, 1)
    top.add(rows(["a", "b"], [[0.9, 0.1], [0.2, 0.8]], carried=[["1"], ["2"]]))
    found = top.rows()
    assert (found.ids, found.carried) == (["b"], [["2"]])


def test_a_threshold_is_not_rounded_to_compare_it():
    top = Top(5, 0, 0.1)  # the nearest float32 is a little higher
    top.add(table([np.nextafter(np.float32(0.1), np.float32(0)), np.float32(0.1)]))
    assert top.rows().ids == ["1.npy"]


def test_the_best_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="the best 0: must be a whole number from 1 on"):
        Top(0, 0)


def test_candidates_are_lenses_unless_another_class_is_named():
    assert target_class(["nonlens", "lens"]) == "lens"
    assert target_class(["no", "sphere", "vort"], "vort") == "vort"
    with pytest.raises(ConfigError, match=r"which class .* no, sphere, vort: give --target"):
        target_class(["no", "sphere", "vort"])
    with pytest.raises(ConfigError, match="--target Lens: the model's classes are nonlens, lens"):
        target_class(["nonlens", "lens"], "Lens")


def validated(is_lens_N, score_N, **more):
    """What a manifest says of a model with these scores."""
    score_N = np.float32(score_N)
    y_N, prob_NK = (~np.asarray(is_lens_N)).astype(int), np.stack([score_N, 1 - score_N], 1)
    summary = metrics.summarise(y_N, prob_NK, CLASSES, n_boot=10)
    return json.loads(json.dumps(summary)) | {"split": "val", "simulated": True} | more


@pytest.mark.parametrize("fpr", [1e-1, 1e-2, 1e-3, 0.3, 0.0123])
def test_a_threshold_does_what_it_says_on_the_validation_set(rng, fpr):
    is_lens_N = np.arange(4000) % 2 == 0
    score_N = (rng.random(4000, np.float32) + is_lens_N) / 2
    found = threshold_at_fpr(validated(is_lens_N, score_N), "lens", fpr)
    passed_N = score_N >= found.value
    assert passed_N[~is_lens_N].mean() == found.fpr <= fpr
    assert passed_N[is_lens_N].mean() == found.tpr
    assert (found.negatives, found.split, found.simulated) == (2000, "val", True)
    whole = metrics.tpr_at_fpr(is_lens_N, score_N, fpr)
    if fpr in metrics.FPRS:
        assert found.tpr == whole
    assert found.fpr > 0.95 * fpr - 1 / 2000


def test_the_smallest_rate_is_one_in_all_the_others(rng):
    is_lens_N = np.arange(1000) % 2 == 0
    known = validated(is_lens_N, rng.random(1000))
    assert threshold_at_fpr(known, "lens", 1 / 500).fpr <= 1 / 500
    with pytest.raises(
        ConfigError, match=r"0\.0019 cannot be told from 500 validation .* is 0\.002"
    ):
        threshold_at_fpr(known, "lens", 0.0019)
    for fpr in (0, 1, -0.1, float("nan")):
        with pytest.raises(ConfigError, match="must be between 0 and 1"):
            threshold_at_fpr(known, "lens", fpr)


def test_a_rate_below_that_of_the_best_score_is_refused():
    known = validated([True] * 10 + [False] * 100, [1.0] * 10 + [1.0] * 30 + [0.0] * 70)
    with pytest.raises(ConfigError, match=r"the best score is shared by 0\.3 of the other classes"):
        threshold_at_fpr(known, "lens", 0.2)
    assert threshold_at_fpr(known, "lens", 0.3).value == 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda m: m.pop("roc_curve"), BundleError, "has no ROC curve.*train and export it again"),
        (
            lambda m: m["roc_curve"].pop("lens"),
            ConfigError,
            "no ROC curve of class lens: there are non",
        ),
        (lambda m: m["roc_curve"]["lens"].pop("tpr"), BundleError, "damaged .'tpr'."),
        (lambda m: m["roc_curve"]["lens"]["fpr"].pop(), BundleError, "damaged"),
        (lambda m: m["roc_curve"]["lens"]["fpr"].reverse(), BundleError, "damaged"),
        (lambda m: m["roc_curve"]["lens"].update(fpr=["x"]), BundleError, "damaged"),
        (lambda m: m.update(roc_curve=[]), ConfigError, "no ROC curve of class lens"),
        (lambda m: m.update(roc_curve=3), BundleError, "damaged"),
        (lambda m: m.update(counts=None), BundleError, "damaged"),
        (lambda m: m.pop("split"), BundleError, "damaged"),
    ],
)
def test_a_bundle_without_a_sound_curve_is_refused(rng, change, error, message):
    known = validated(np.arange(100) % 2 == 0, rng.random(100))
    change(known)
    with pytest.raises(error, match=message):
        threshold_at_fpr(known, "lens", 0.1)


def test_what_the_summary_says_of_candidates():
    metrics = {
        "roc_curve": {"lens": {"fpr": [0.0, 0.02], "tpr": [0.3, 0.6], "threshold": [0.9, 0.7]}},
        "counts": {"lens": 10, "nonlens": 50},
        "split": "validation",
        "simulated": True,
    }
    threshold = threshold_at_fpr(metrics, "lens", 0.05)
    top = Top(1, 0, threshold.value, rule=f"p_lens {threshold}")
    prob_BK = np.float32([[0.8, 0.2], [0.75, 0.25], [0.1, 0.9]])
    top.add(Rows(list("abc"), prob_BK, np.zeros(3, np.uint16), np.zeros(3, np.float32), []))
    assert str(top) == (
        "the best 1 of 2 with p_lens ≥ 0.7, which in validation (50 simulated others) let 0.02 "
        "of them pass, and 0.6 of the class"
    )
    assert str(Top(5, 0)) == "the best 0 of 0"
