"""lens-train as installed: kill and resume, refusals, what it says and where."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_data
from click.testing import CliRunner

from stronglens.training.cli import train

LENS_TRAIN = Path(sys.executable).with_name("lens-train")
# The same command gives the same bytes with the same number of threads.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_HOME": "/nonexistent"}
TINY = ["--recipe", "quick", "-o", "batch_size=16", "-o", "epochs=3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a data set and a finished run of it."""
    root = tmp_path_factory.mktemp("train")
    tiny_data.write(root / "dataset")
    installed(*TINY, cwd=root)
    return root


def installed(*arguments, cwd):
    """Run lens-train as its user does."""
    done = subprocess.run(
        [LENS_TRAIN, *arguments], cwd=cwd, capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    return done


def lens_train(*arguments, cwd, status=0):
    """Run lens-train in this process, which has loaded and compiled everything already."""
    with contextlib.chdir(cwd):
        done = CliRunner().invoke(train, arguments, env={"TORCH_HOME": "/nonexistent"})
    assert done.exit_code == status, done.output
    return done


def files(run):
    return {path.name: path.read_bytes() for path in run.iterdir() if path.name != "timings.csv"}


def test_help_loads_nothing_heavy():
    probe = (
        "import sys, click.testing, stronglens.training.cli as cli\n"
        "assert click.testing.CliRunner().invoke(cli.train, ['--help']).exit_code == 0\n"
        "print({'torch', 'numpy', 'numba', 'sklearn', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_the_data_of_the_task_are_found_and_the_next_command_told(folder):
    out = folder / "runs" / "substructure"
    assert json.loads((out / "config.json").read_text())["data"]["path"] == "dataset"
    again = lens_train(*TINY, cwd=folder)
    assert "macro" in again.stdout
    assert "next:    lens-export runs/substructure" in again.stdout
    assert "SIMULATED" not in again.stdout


def test_a_finished_run_is_left_as_it_is(folder):
    out = folder / "runs" / "substructure"
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.name[0] != "."}
    (out / "state" / "epoch-00003").mkdir(parents=True)  # killed just before it would go
    again = lens_train(*TINY, cwd=folder)
    assert "is finished: nothing to do" in again.stderr
    after = {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.name[0] != "."}
    assert after == before


def test_killed_and_started_again_it_writes_the_same_bytes(folder, tmp_path):
    shutil.copytree(folder / "dataset", tmp_path / "dataset")
    command = [LENS_TRAIN, *TINY]
    process = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    out = tmp_path / "runs" / "substructure"
    while not list(out.glob("state/epoch-0000[12]")):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "metrics.json").exists()
    resumed = installed(*TINY, cwd=tmp_path)
    assert "resuming after epoch" in resumed.stderr
    assert files(out) == files(folder / "runs" / "substructure")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "lr=0.5"], "recipe.lr: 0.002, not 0.5"),
        (["--precision", "float32", "-o", "seed=1"], "recipe.seed: 42, not 1"),
        (["--weights", "none"], "weights.asked: auto, not none"),
        (["--data", "other"], "data.sha256"),
    ],
)
def test_a_folder_with_another_training_is_refused(folder, options, message):
    if not (folder / "other").exists():
        tiny_data.write(folder / "other", seed=1)
    refused = lens_train(*TINY, *options, cwd=folder, status=1)
    assert message in refused.stderr
    assert "give another folder with --out, or delete runs/substructure" in refused.stderr


def test_a_folder_with_something_else_is_refused(folder):
    (folder / "photos").mkdir()
    (folder / "photos" / "cat.txt").touch()
    refused = lens_train(*TINY, "--out", "photos", cwd=folder, status=1)
    assert "holds something that is no run" in refused.stderr
    assert [path.name for path in (folder / "photos").iterdir()] == ["cat.txt"]


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--data", "nowhere"], 1, "--data nowhere: no such folder"),
        (["-o", "epoch=3"], 1, "did you mean epochs?"),
        (["--weights", "model.pth"], 1, "a pickle can run any code"),
        (["-o", "net=resnet18"], 1, "trains resnext50 or small_cnn"),
        (["--precision", "float16", "--device", "cpu"], 1, "float16 needs CUDA"),
        (["--recipe", "fast"], 2, "is not one of"),
        (["cooking"], 2, "is not one of"),
    ],
)
def test_what_cannot_be_done_is_said_before_the_work(tmp_path, options, status, message):
    refused = lens_train(*options, cwd=tmp_path, status=status)
    assert message in refused.stderr
    assert not list(tmp_path.iterdir())


def test_without_data_it_simulates_and_says_so_everywhere(tmp_path):
    done = lens_train(*TINY, "-o", "simulated_train=6", "-o", "simulated_val=4", cwd=tmp_path)
    assert "NO DATA" in done.stderr
    assert "SIMULATED" in done.stderr
    assert "12 SIMULATED cutouts" in done.stdout
    out = tmp_path / "runs" / "substructure"
    assert json.loads((out / "config.json").read_text())["data"]["simulated"] is True
    assert json.loads((out / "metrics.json").read_text())["simulated"] is True
    assert (tmp_path / "simulated" / "substructure-6-4" / "train" / "no" / "6.npy").is_file()


@pytest.mark.slow
def test_stopped_from_the_keyboard_it_says_how_to_go_on(folder):
    command = [LENS_TRAIN, *TINY, "-o", "epochs=500", "--out", "long"]
    process = subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    while not list(folder.glob("long/state/epoch-*")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the same command goes on after the last finished epoch" in stderr
    assert "Traceback" not in stderr


@pytest.mark.slow
def test_the_reference_net_trains_some_steps(folder):
    options = ["-o", "epochs=1", "-o", "steps_per_epoch=2", "-o", "batch_size=4"]
    done = installed(*options, "--out", "big", cwd=folder)
    assert "resnext50: 22.98 M parameters" in done.stderr
    assert "expect a worse model" in done.stderr
    assert (folder / "big" / "mistakes.png").is_file()


@pytest.mark.slow
def test_a_compiled_net_trains(folder):
    installed(*TINY, "--compile", "--out", "compiled", cwd=folder)
    assert (folder / "compiled" / "metrics.json").is_file()


@pytest.mark.slow
def test_lens_finding_trains_and_reports_both_scores(tmp_path):
    done = installed(
        "lensfinding", "--recipe", "quick", "-o", "simulated_train=24", "-o", "simulated_val=16",
        "-o", "epochs=1", "-o", "val_fraction=0.3", cwd=tmp_path,
    )  # fmt: skip
    assert "from probabilities" in done.stdout
    assert "hard 0/1 predictions" in done.stdout
