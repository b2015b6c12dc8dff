import copy

import naive
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from stronglens.training.lars import Lars

TRUST, EPS = 0.001, 1e-8

values = arrays(
    np.float64, st.integers(1, 6), elements=st.one_of(st.just(0.0), st.floats(-100, 100, width=32))
)


def plain(weight, lr=0.1, weight_decay=0.0):
    """A base whose step is lr times the gradient, so that the gradient can be read off it."""
    return torch.optim.SGD([weight], lr, weight_decay=weight_decay)


@settings(deadline=None)
@given(values, st.data(), st.sampled_from([0.0, 0.01, 0.5]))
def test_gradients_are_scaled_by_the_formula(w, data, weight_decay):
    g = data.draw(arrays(np.float64, w.shape, elements=st.floats(-100, 100, width=32)))
    weight = nn.Parameter(torch.from_numpy(w.copy()))
    weight.grad = torch.from_numpy(g.copy())
    optimizer = Lars(plain(weight, weight_decay=weight_decay), trust_coefficient=TRUST, eps=EPS)
    optimizer.step()
    scaled = naive.lars_gradient(w, g, TRUST, weight_decay, EPS)
    np.testing.assert_allclose(weight.grad.numpy(), scaled, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(
        weight.detach().numpy(), w - 0.1 * (scaled + weight_decay * w), rtol=1e-12, atol=1e-12
    )


def test_a_step_is_as_long_as_the_trust_coefficient_says():
    """Without decay ‖step‖ = lr · trust · ‖w‖, however long the gradient."""
    for length in (1e-3, 1.0, 1e3):
        weight = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
        weight.grad = torch.tensor([0.0, length], dtype=torch.float64)
        Lars(plain(weight), trust_coefficient=TRUST, eps=0.0).step()
        moved = torch.tensor([3.0, 4.0]) - weight.detach()
        assert float(moved.norm()) == pytest.approx(0.1 * TRUST * 5.0, rel=1e-9)


def test_a_weight_of_norm_zero_moves_and_one_without_gradient_does_not():
    zero, still = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.ones(3))
    zero.grad = torch.ones(3)
    Lars(torch.optim.SGD([zero, still], 0.1), trust_coefficient=TRUST, eps=EPS).step()
    torch.testing.assert_close(zero.detach(), torch.full((3,), -0.1))
    assert torch.equal(still.detach(), torch.ones(3))


def adamw_and_net():
    net = nn.Linear(4, 3)
    base = torch.optim.AdamW(net.parameters(), 1e-2, fused=True)
    return net, Lars(base, trust_coefficient=TRUST, eps=EPS)


def train(net, optimizer, steps):
    for step in range(steps):
        optimizer.zero_grad()
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        net(x).square().mean().backward()
        optimizer.step()


def test_state_passes_through_to_the_base_and_resumes_it():
    torch.manual_seed(0)
    net, optimizer = adamw_and_net()
    train(net, optimizer, 3)
    other, resumed = adamw_and_net()
    other.load_state_dict(net.state_dict())
    # copied: torch optimisers share the tensors of a state they load
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert resumed.state_dict()["param_groups"] == resumed.base.state_dict()["param_groups"]
    train(net, optimizer, 2)
    train(other, resumed, 2)
    assert torch.equal(net.weight, other.weight)
    assert len(resumed.state) == 2


def test_learning_rates_set_from_outside_reach_the_base_also_after_loading():
    net, optimizer = adamw_and_net()
    optimizer.load_state_dict(optimizer.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = net.weight.detach().clone()
    train(net, optimizer, 1)
    assert torch.equal(net.weight, before)


def test_closures_groups_and_names_are_the_bases():
    _, optimizer = adamw_and_net()
    assert optimizer.step(lambda: 2.5) == 2.5
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": 0.5})
    assert [group["lr"] for group in optimizer.base.param_groups] == [1e-2, 0.5]
    assert optimizer.defaults["lr"] == 1e-2
    assert "AdamW" in repr(optimizer)


def test_a_gradient_scaler_unscales_before_the_norms_are_taken():
    results = []
    for scale in (1.0, 1024.0):
        torch.manual_seed(1)
        net, optimizer = adamw_and_net()
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        scaler.scale(net(torch.ones(2, 4)).square().mean()).backward()
        scaler.step(optimizer)
        results.append(net.weight.grad.clone())
    torch.testing.assert_close(*results)
