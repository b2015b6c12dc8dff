"""The serving graph is the trained net, and the folded head is scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from stronglens.export.graph import count_flop, fold_logistic, run_graph, serving
from stronglens.training.models import LensFinder, resnet18_encoder, small_cnn


def projection():
    return nn.Sequential(nn.Linear(512, 128, bias=False), nn.BatchNorm1d(128))


def test_classifier_graph_is_softmax_of_the_net():
    torch.manual_seed(0)
    net = small_cnn(3, size=40, resize=48).eval()
    served = serving(net)
    x_BHW = torch.rand(5, 40, 40)
    with torch.no_grad():
        expected_BK = net(x_BHW).softmax(dim=1)
    assert served.outputs == ["prob"]
    prob_BK, encoding_BD = run_graph(served.graph, x_BHW.numpy())
    np.testing.assert_allclose(prob_BK, expected_BK.numpy(), rtol=0, atol=1e-6)
    assert encoding_BD is None


def test_serving_puts_the_net_in_eval_mode():
    net = small_cnn(3, size=40, resize=0).train()
    x_BHW = torch.rand(2, 40, 40).numpy()
    graph = serving(net).graph
    # dropout and batch statistics would make the two passes differ
    np.testing.assert_array_equal(run_graph(graph, x_BHW)[0], run_graph(graph, x_BHW)[0])


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_folded_head_equals_sklearn(rng, scale):
    z_ND = rng.normal(size=(300, 128)).astype(np.float32)
    y_N = (z_ND[:, 0] + rng.normal(size=300) > 0).astype(int)
    regression = LogisticRegression(max_iter=5000).fit(z_ND * scale, y_N)
    head = nn.Linear(128, 1)
    with torch.no_grad():
        head.weight.copy_(torch.tensor(regression.coef_))
        head.bias.copy_(torch.tensor(regression.intercept_))
        prob_NK = fold_logistic(head)(torch.tensor(z_ND * scale)).softmax(dim=1).numpy()
    expected_NK = regression.predict_proba(z_ND * scale)
    assert np.abs(prob_NK - expected_NK).max() <= 1e-5
    assert np.ptp(expected_NK[:, 1]) > 0.1


def test_lens_finder_returns_its_encodings_and_the_probability_of_class_0_first():
    torch.manual_seed(0)
    net = LensFinder(resnet18_encoder(), projection(), 128).eval()
    with torch.no_grad():
        net.head.weight.normal_()
        net.head.bias.fill_(0.3)
    served = serving(net)
    x_BHW = torch.rand(3, 64, 64)
    with torch.no_grad():
        prob_BK, encoding_BD = served.graph(x_BHW)
        expected_BD = net(x_BHW)
        nonlens_B = net.head(expected_BD).sigmoid().flatten()
    assert served.outputs == ["prob", "encoding"]
    torch.testing.assert_close(encoding_BD, expected_BD)
    torch.testing.assert_close(prob_BK[:, 1], nonlens_B)
    torch.testing.assert_close(prob_BK.sum(1), torch.ones(3))


@pytest.mark.parametrize("count", [1, 33])
def test_graph_runs_in_batches_and_keeps_the_order(count):
    torch.manual_seed(0)
    graph = serving(small_cnn(3, size=40, resize=0)).graph
    x_NHW = torch.rand(count, 40, 40).numpy()
    prob_NK, _ = run_graph(graph, x_NHW)
    one_by_one_NK = np.concatenate([run_graph(graph, x[None])[0] for x in x_NHW])
    np.testing.assert_allclose(prob_NK, one_by_one_NK, rtol=0, atol=1e-6)


def test_cost_grows_with_the_area():
    small, large = (
        count_flop(serving(small_cnn(3, size=size, resize=0)).graph, size) for size in (40, 80)
    )
    assert 3 < large / small < 5
