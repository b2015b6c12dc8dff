"""Fixtures that more than one test module uses."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# a deadline is a timed test: it fails where the machine is busy
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# A shell's background job ignores SIGINT, and so would the commands that the tests send it to.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]


@pytest.fixture
def rng():
    return np.random.default_rng(20261124)


@pytest.fixture
def image_HW(rng):
    return rng.normal(size=(12, 9)).astype("f4")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The test's folder, and the working folder for its time."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Where the engine keeps its plans, for the time of a test; not there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "stronglens"


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real cutouts and the reference's predictions; not part of the project."""
    folder = Path(os.environ.get("STRONGLENS_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is absent (set STRONGLENS_SHARED to its folder)")
    return folder
