"""The loop: schedules against torch's, early stop, best weights, resuming, what is timed."""

import io
import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import tiny_data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stronglens.engine.errors import ConfigError
from stronglens.training import supervised
from stronglens.training.hardware import Hardware, open_hardware
from stronglens.training.loop import seeded, train
from stronglens.training.progress import Progress
from stronglens.training.schedule import best_epoch, is_over, learning_rate, plateau
from stronglens.training.tasks import TASKS, override
from stronglens.training.weights import RANDOM

CPU = Hardware(torch.device("cpu"), torch.float32)
REFERENCE = TASKS["substructure"].recipes["reference"]
TINY = override(
    TASKS["substructure"].recipes["quick"], ["batch_size=16", "epochs=4", "lr=0.003", "seed=7"]
)


class Scripted:
    """The supervised method with validation losses read off a list."""

    build = staticmethod(supervised.build)
    optimizer = staticmethod(supervised.optimizer)
    training_loss = staticmethod(supervised.training_loss)
    finish = staticmethod(supervised.finish)

    def __init__(self, losses):
        self.losses = iter(losses)
        self.seen = []

    def validate(self, net, data, train_loss, recipe, hardware):
        self.seen.append({k: v.clone() for k, v in net.state_dict().items()})
        return next(self.losses)


def new_net(data):
    torch.manual_seed(0)
    return supervised.build(TINY, 3, data.spec, RANDOM)


def run(tmp_path, data, recipe=TINY, method=supervised, hardware=CPU, net=None):
    net = new_net(data) if net is None else net
    log = io.StringIO()
    state = train(
        net, data, recipe, method, hardware, state_dir=tmp_path / "state", progress=Progress(log)
    )
    return net, state, log.getvalue()


# Losses in steps of 1/64 and a threshold of 1/128: no comparison hangs on the last digit.
losses = st.lists(st.integers(1, 200).map(lambda n: n / 64), max_size=40)


@settings(deadline=None)  # the first call loads torch's optimisers
@given(losses, st.integers(0, 3), st.sampled_from([0.1, 0.5]))
def test_plateau_is_torchs(losses, patience, factor):
    recipe = override(
        REFERENCE,
        [
            f"plateau_patience={patience}",
            f"plateau_factor={factor}",
            f"plateau_threshold={1 / 128}",
        ],
    )
    optimizer = torch.optim.SGD([torch.zeros(1)], recipe.lr)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=factor, patience=patience, threshold=1 / 128, min_lr=recipe.min_lr
    )
    for loss in losses:
        scheduler.step(loss)
    assert plateau(losses, recipe) == optimizer.param_groups[0]["lr"]


def test_one_cycle_rises_then_falls():
    recipe = override(REFERENCE, ["schedule=onecycle", "epochs=10", "warmup=0.1", "lr=0.01"])
    rates = [learning_rate([1.0] * e, s, 20, recipe) for e in range(10) for s in range(20)]
    assert rates[:21] == sorted(rates[:21])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[20] == pytest.approx(0.01)
    assert rates[110] == pytest.approx(0.005)  # half-way down the cosine
    assert recipe.min_lr <= min(rates[0], rates[-1]) < 1e-5


def test_early_stop_is_the_references():
    """Lens finding: best at epoch 5, over after epoch 10. Substructure: best at 12 of 17."""
    falling = [5.0 - 0.01 * i for i in range(6)]
    stalled = [5.0] * 6
    assert not is_over(falling + stalled[:4], REFERENCE)
    assert is_over(falling + stalled[:5], REFERENCE)
    long_fall = [5.0 - 0.01 * i for i in range(13)]
    assert not is_over(long_fall + stalled[:3], REFERENCE)
    assert is_over(long_fall + stalled[:4], REFERENCE)
    assert not is_over(falling + stalled, override(REFERENCE, ["early_stop=0"]))
    assert not is_over([], REFERENCE)


def test_the_earliest_of_equally_good_epochs_is_best():
    assert best_epoch([3.0, 2.0, 2.0, 4.0]) == 1


def test_best_weights_are_kept_and_the_training_stops_early(tmp_path):
    data = tiny_data.dataset(train=20, val=6)
    recipe = override(TINY, ["epochs=9", "early_stop=2"])
    method = Scripted([3.0, 1.0, 2.0, 1.5, 1.2, 0.1])
    net, state, _ = run(tmp_path, data, recipe, method)
    assert [row.monitored_loss for row in state.history] == [3.0, 1.0, 2.0, 1.5, 1.2]
    for name, weight in net.state_dict().items():
        assert torch.equal(weight, method.seen[1][name]), name


def test_it_learns(tmp_path):
    data = tiny_data.dataset(train=150)
    net, state, _ = run(tmp_path, data, override(TINY, ["epochs=6", "flips=false"]))
    predictions = supervised.finish(net, data, TINY, CPU)
    assert (predictions.prob_NK.argmax(1) == data.val.y_N).mean() > 0.9
    assert state.history[-1].train_loss < 0.5 * state.history[0].train_loss


def test_killed_between_epochs_it_ends_with_the_same_bytes(tmp_path):
    data = tiny_data.dataset()
    net, state, _ = run(tmp_path / "a", data)

    class Killed(Exception):
        pass

    class Dying(Scripted):
        def validate(self, *arguments):
            if next(self.losses):
                raise Killed
            return supervised.validate(*arguments)

    with pytest.raises(Killed):
        run(tmp_path / "b", data, method=Dying([False, False, True]))
    (tmp_path / "b" / "state" / "epoch-00003.partial").mkdir()  # died while writing
    other, resumed, log = run(tmp_path / "b", data, net=new_net(data))
    assert "resuming after epoch 2" in log
    assert resumed.history == state.history
    for name, weight in net.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name]), name
    left = [path.name for path in (tmp_path / "b" / "state").iterdir()]
    assert left == ["epoch-00004"]


def test_a_finished_training_is_not_trained_further(tmp_path):
    data = tiny_data.dataset(train=20, val=6)
    net, state, _ = run(tmp_path, data)
    again, found, _ = run(tmp_path, data, net=new_net(data))
    assert found.history == state.history
    assert torch.equal(net.head[1].weight, again.head[1].weight)


def test_an_epoch_may_be_a_few_steps(tmp_path):
    data = tiny_data.dataset()
    seen = []

    class Counting(Scripted):
        def training_loss(self, net, x_BHW, y_B, recipe, rng):
            seen.append(len(x_BHW))
            return supervised.training_loss(net, x_BHW, y_B, recipe, rng)

    for steps, expected in ((2, [16, 16]), (0, [16, 16, 16, 12]), (9, [16, 16, 16, 12])):
        recipe = override(TINY, ["epochs=1", f"steps_per_epoch={steps}"])
        run(tmp_path / str(steps), data, recipe, Counting([1.0]))
        assert seen == expected
        seen.clear()


def test_a_loss_that_is_no_number_stops_with_a_remedy(tmp_path):
    data = tiny_data.dataset(train=20, val=6)
    with pytest.raises(ConfigError, match=r"validation nan, in epoch 2: .* -o lr=0.0003"):
        run(tmp_path, data, method=Scripted([1.0, math.nan]))


def test_timings_say_what_waited_for_data(tmp_path):
    data = tiny_data.dataset()
    _, state, log = run(tmp_path, data)
    assert len(state.timings) == TINY.epochs
    assert all(0 <= timing.data_wait_share <= 1 for timing in state.timings)
    assert all(timing.seconds > 0 and timing.cutouts_per_s > 0 for timing in state.timings)
    assert "waiting for data" in log
    assert not {"seconds", "data_wait_share"} & asdict(state.history[0]).keys()


def test_an_epochs_randomness_is_its_own():
    orders = [seeded(seed, epoch, 50)[0] for seed, epoch in ((1, 0), (1, 1), (2, 0), (1, 0))]
    np.testing.assert_array_equal(orders[0], orders[3])
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == list(range(50)) for order in orders)
    seeded(1, 3, 5)
    first = torch.rand(3)
    seeded(1, 3, 5)
    assert torch.equal(torch.rand(3), first)


def test_a_log_gets_few_lines_and_an_estimate(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("stronglens.training.progress.time.monotonic", lambda: clock[0])
    log = io.StringIO()
    progress = Progress(log)
    progress.start(2, 1000, 0)
    for step in range(1, 101):
        clock[0] += 6.0
        progress.step(0, 10, 10 * step, 1000)
    lines = log.getvalue().splitlines()
    assert lines[0].startswith("the whole run takes about 20 min 00 s at most: 2 epochs at 2 ")
    assert 5 < len(lines) < 12


def test_the_estimate_follows_the_speed_of_the_last_minute(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("stronglens.training.progress.time.monotonic", lambda: clock[0])
    log = io.StringIO()
    progress = Progress(log)
    progress.start(1, 8_000, 0)
    for step in range(1, 701):
        clock[0] += 1.0 if step < 200 else 0.5
        progress.step(0, 10, 10 * step, 8_000)
    lines = log.getvalue().splitlines()
    assert "10 a second" in lines[1]
    assert "20 a second" in lines[-1]


def test_a_terminal_gets_one_line_that_is_rewritten(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("stronglens.training.progress.time.monotonic", lambda: clock[0])

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    log = Terminal()
    progress = Progress(log)
    progress.start(1, 100, 0)
    for step in range(1, 11):
        clock[0] += 1.0
        progress.step(0, 10, 10 * step, 100)
    assert "\n" not in log.getvalue()
    assert log.getvalue().count("\r") == 9
    progress.say("done")
    assert log.getvalue().endswith("\r\x1b[Kdone\n")


def test_progress_outlives_its_terminal():
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    Progress(Closed()).say("nobody hears")


def test_hardware_is_refused_or_runs():
    assert open_hardware("cpu", "bfloat16").dtype == torch.bfloat16
    with pytest.raises(ConfigError, match="float16 needs CUDA"):
        open_hardware("cpu", "float16")


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_takes_halves_where_the_cpu_has_them(monkeypatch, native, expected):
    monkeypatch.setattr("stronglens.training.hardware.native_bfloat16", lambda: native)
    assert open_hardware("cpu", "auto").precision == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_learns_and_resumes(tmp_path, dtype):
    """float16 goes through the gradient scaler, whose scale is part of the state."""
    data = tiny_data.dataset(train=48, val=6)
    hardware = Hardware(torch.device("cpu"), dtype)
    whole = Scripted([1.0, 0.9, 0.8, 0.7])
    _, state, _ = run(tmp_path / "a", data, TINY, whole, hardware)
    assert state.history[-1].train_loss < 0.8 * state.history[0].train_loss
    with pytest.raises(StopIteration):
        run(tmp_path / "b", data, TINY, Scripted([1.0, 0.9]), hardware)
    rows = json.loads((tmp_path / "b/state/epoch-00002/state.json").read_text())
    assert bool(rows["scaler"]) == (dtype == torch.float16)
    resumed = Scripted([0.8, 0.7])
    net, _, _ = run(tmp_path / "b", data, TINY, resumed, hardware, new_net(data))
    assert all(weight.dtype == torch.float32 for weight in net.parameters())
    for name, weight in whole.seen[-1].items():
        assert torch.equal(weight, resumed.seen[-1][name]), name
