import dataclasses

import naive
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from stronglens.engine.errors import ConfigError, InputError
from stronglens.engine.preprocess import PreprocessSpec
from stronglens.export.graph import run_graph, serving
from stronglens.training import linear_head, simclr
from stronglens.training.data import DataSet, Split
from stronglens.training.hardware import open_hardware
from stronglens.training.method import method_of
from stronglens.training.tasks import LENSFINDING
from stronglens.training.weights import RANDOM

SIDE = 48
RECIPE = dataclasses.replace(
    LENSFINDING.recipes["reference"], crop_size=32, blur_kernel=5, batch_size=8
)
SPEC = PreprocessSpec(mode="none", size=SIDE, fit="crop")
CPU = open_hardware("cpu", "float32")


def build(recipe=RECIPE):
    torch.manual_seed(0)
    return simclr.build(recipe, 2, SPEC, RANDOM)


def split(name, lenses, nonlenses, seed):
    """Lenses are rings, non-lenses blobs, both in noise."""
    rng = np.random.default_rng(seed)
    y_N = np.repeat([0, 1], [lenses, nonlenses])
    radius_HW = np.hypot(*(np.mgrid[:SIDE, :SIDE] - SIDE / 2))
    light_2HW = np.exp(-((radius_HW - np.array([12, 0])[:, None, None]) ** 2) / 20)
    x_NHW = 0.08 + 0.2 * light_2HW[y_N] + rng.normal(0, 0.02, (len(y_N), SIDE, SIDE))
    ids = [f"{name}/{n}.npy" for n in range(len(y_N))]
    return Split(ids, x_NHW.astype(np.float32), y_N)


@pytest.fixture(scope="module")
def data():
    splits = split("train", 12, 8, 0), split("val", 6, 6, 1)
    return DataSet(*splits, ["lens", "nonlens"], SPEC, {})


@pytest.fixture(scope="module")
def finished(data):
    """(net before, net after, predictions) of one epoch and the linear head."""
    net = build().train()
    optimizer = simclr.optimizer(net, RECIPE)
    rng = torch.Generator().manual_seed(0)
    for start in range(0, 20, 8):  # the last batch is short
        optimizer.zero_grad()
        x_BHW = torch.from_numpy(data.train.x_NHW[start : start + 8])
        simclr.training_loss(net, x_BHW, torch.zeros(len(x_BHW)), RECIPE, rng).backward()
        optimizer.step()
    before = {name: weight.clone() for name, weight in net.state_dict().items()}
    return before, net, simclr.finish(net, data, RECIPE, CPU)


# ---------------------------------------------------------------- NT-Xent


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(2, 9), st.sampled_from([0.1, 0.5, 2.0]), st.integers(0, 99))
def test_nt_xent_is_the_papers_loop(pairs, dim, temperature, seed):
    z_ND = np.random.default_rng(seed).normal(size=(2 * pairs, dim))
    loss = simclr.nt_xent(torch.from_numpy(z_ND), temperature)
    assert float(loss) == pytest.approx(naive.nt_xent(z_ND, temperature), rel=1e-4, abs=1e-5)


def test_nt_xent_of_identical_embeddings_is_a_blind_guess():
    """Every other row is as near as the partner: log(2B - 1)."""
    loss = simclr.nt_xent(torch.ones(16, 4), 0.5)
    assert float(loss) == pytest.approx(np.log(15), rel=1e-6)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_nt_xent_of_orthogonal_pairs(temperature):
    """Partners alike, all else at right angles: log(1 + (2B - 2) exp(-1/τ))."""
    z_ND = torch.eye(8).repeat(2, 1)
    expected = np.log1p(14 * np.exp(-1 / temperature))
    assert float(simclr.nt_xent(z_ND, temperature)) == pytest.approx(expected, abs=1e-6)


def test_nt_xent_does_not_mind_which_view_is_first_nor_how_long_encodings_are():
    z_ND = torch.randn(10, 6, generator=torch.Generator().manual_seed(0))
    loss = simclr.nt_xent(z_ND, 0.5)
    torch.testing.assert_close(simclr.nt_xent(z_ND.roll(5, 0), 0.5), loss)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(simclr.nt_xent(z_ND[torch.cat([order, order + 5])], 0.5), loss)
    lengths = torch.arange(1.0, 11.0)[:, None]
    torch.testing.assert_close(simclr.nt_xent(z_ND * lengths, 0.5), loss)


def test_nt_xent_is_exact_under_autocast():
    z_ND = torch.randn(10, 6, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        inside = simclr.nt_xent(z_ND, 0.5)
    assert torch.equal(inside, simclr.nt_xent(z_ND, 0.5))


# ---------------------------------------------------------------- net and training


def test_the_recipe_leads_to_this_method():
    assert method_of(RECIPE) is simclr


def test_the_projection_head_is_the_references():
    layers = list(simclr.ProjectionHead(512, 128).layers)
    assert [type(layer).__name__ for layer in layers] == [
        "Linear",
        "BatchNorm1d",
        "ReLU",
        "Linear",
        "BatchNorm1d",
    ]
    assert [tuple(layers[i].weight.shape) for i in (0, 3)] == [(512, 512), (128, 512)]
    assert layers[0].bias is None
    assert layers[3].bias is None


@pytest.mark.parametrize(
    ("changes", "classes", "message"),
    [
        ({"net": "small_cnn"}, 2, "net=small_cnn"),
        ({"input_size": 224}, 2, "input_size=224"),
        ({"blur_kernel": 65}, 2, "crop_size=32: too small for blur_kernel=65"),
        ({}, 3, "3 classes"),
    ],
)
def test_what_this_method_cannot_follow_is_refused(changes, classes, message):
    with pytest.raises(ConfigError, match=message):
        simclr.build(dataclasses.replace(RECIPE, **changes), classes, SPEC, RANDOM)


def test_the_optimizer_follows_the_recipe_and_leaves_the_linear_head_out():
    net = build()
    recipe = dataclasses.replace(RECIPE, lr=0.02, weight_decay=0.3, trust_coefficient=0.5)
    optimizer = simclr.optimizer(net, recipe)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.02, 0.3)
    assert (optimizer.trust_coefficient, optimizer.eps) == (0.5, 1e-8)
    head = {id(weight) for weight in net.head.parameters()}
    assert len(group["params"]) == len(list(net.parameters())) - 2
    assert not head & {id(weight) for weight in group["params"]}


def test_training_loss_is_told_by_its_generator_and_ignores_labels(data):
    net = build().train()
    x_BHW, y_B = torch.from_numpy(data.train.x_NHW[:6]), torch.zeros(6)

    def loss(seed, y_B=y_B):
        rng = torch.Generator().manual_seed(seed)
        return float(simclr.training_loss(net, x_BHW, y_B, RECIPE, rng).detach())

    assert loss(1) == loss(1, y_B + 1)
    assert loss(1) != loss(2)


def test_a_last_batch_of_one_cutout_has_no_loss_and_no_harm(data):
    net = build().train()
    rng = torch.Generator().manual_seed(0)
    x_BHW = torch.from_numpy(data.train.x_NHW[:1])
    loss = simclr.training_loss(net, x_BHW, torch.zeros(1), RECIPE, rng)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert all(w.grad.isfinite().all() for w in net.parameters() if w.grad is not None)


def test_the_monitored_loss_is_the_training_loss(data):
    assert simclr.validate(build(), data, 4.812, RECIPE, CPU) == 4.812


# ---------------------------------------------------------------- the linear head


def test_fitting_the_head_changes_no_other_weight(finished):
    before, net, _ = finished
    after = net.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"head.weight", "head.bias"}
    assert net.training  # left in the mode it was in


def test_training_changed_the_encoder(finished):
    before, _, _ = finished
    fresh = build().state_dict()
    assert not torch.equal(before["encoder.body.conv1.weight"], fresh["encoder.body.conv1.weight"])


def encodings(net, x_NHW):
    net.eval()
    with torch.no_grad():
        z_ND = net(torch.from_numpy(x_NHW)).numpy().astype(np.float64)
    net.train()
    return z_ND


def test_probabilities_are_scikit_learns_on_encodings_of_whole_cutouts(data, finished):
    _, net, predictions = finished
    model = LogisticRegression().fit(encodings(net, data.train.x_NHW), data.train.y_N)
    expected_NK = model.predict_proba(encodings(net, data.val.x_NHW))
    np.testing.assert_allclose(predictions.prob_NK, expected_NK, atol=1e-4)
    assert predictions.ids == data.val.ids
    assert net.head.weight.shape == (1, 128)
    assert net.head.bias.shape == (1,)


def test_column_0_is_p_lens_here_and_in_the_exported_graph(data, finished):
    _, net, predictions = finished
    net.eval()
    prob_NK, _ = run_graph(serving(net).graph, data.val.x_NHW)
    net.train()
    np.testing.assert_allclose(predictions.prob_NK, prob_NK, atol=1e-5)
    is_lens_N = data.train.y_N == 0
    train_NK = simclr.probabilities(
        net.head, torch.from_numpy(encodings(net, data.train.x_NHW)).float()
    )
    assert train_NK[is_lens_N, 0].mean() > train_NK[~is_lens_N, 0].mean()


def test_both_figures_are_there_for_both_splits(data, finished):
    _, _, predictions = finished
    figures = predictions.extras
    y_N, prob_NK = data.val.y_N, predictions.prob_NK
    soft, hard = (figures[f"{kind}_roc_auc"]["val"] for kind in ("probability", "hard"))
    assert soft["value"] == pytest.approx(roc_auc_score(y_N == 0, prob_NK[:, 0]))
    assert hard["value"] == pytest.approx(roc_auc_score(y_N == 0, prob_NK[:, 0] > 0.5))
    for kind in ("probability", "hard"):
        for auc in figures[f"{kind}_roc_auc"].values():
            assert auc["low"] <= auc["value"] <= auc["high"]
    assert len(figures["remarks"]) >= 3
    assert f"{hard['value']:.4f}" in figures["remarks"][1]


def test_cross_validation_finds_what_is_there_and_nothing_where_nothing_is(rng):
    y_N = np.repeat([0, 1], 40)
    told = linear_head.cross_validate(
        rng.normal(size=(80, 4)) + 3 * y_N[:, None], y_N, c=1.0, seed=0
    )
    blind = linear_head.cross_validate(rng.normal(size=(80, 4)), y_N, c=1.0, seed=0)
    assert told["roc_auc"] > 0.98
    assert blind["roc_auc"] == pytest.approx(0.5, abs=0.2)  # its error is 0.065
    assert (told["folds"], told["repeats"], told["count"]) == (5, 5, 80)


def test_cross_validation_takes_fewer_folds_of_a_rare_class(rng):
    z_ND = rng.normal(size=(20, 3))
    assert linear_head.cross_validate(z_ND, np.repeat([0, 1], [17, 3]), c=1.0, seed=0)["folds"] == 3
    assert linear_head.cross_validate(z_ND, np.repeat([0, 1], [19, 1]), c=1.0, seed=0) == {}


def test_a_fit_that_stops_early_is_said_and_not_warned_of(rng):
    z_ND = rng.normal(size=(60, 40)) * np.geomspace(1e-3, 1e4, 40)
    fitted = linear_head.fit_logistic(z_ND, np.arange(60) % 2, c=1e6)
    assert not fitted.converged


def test_one_class_cannot_be_told_apart():
    with pytest.raises(InputError, match="3 cutouts, all of one class"):
        linear_head.fit_logistic(np.eye(3), np.zeros(3, int), c=1.0)


def test_the_penalty_is_the_recipes(rng):
    z_ND, y_N = rng.normal(size=(40, 5)), np.arange(40) % 2
    loose, tight = (linear_head.fit_logistic(z_ND, y_N, c=c) for c in (10.0, 0.01))
    assert np.linalg.norm(tight.weight_1D) < 0.5 * np.linalg.norm(loose.weight_1D)
