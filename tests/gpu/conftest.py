"""Tests that only a machine with a GPU can run: `make test-gpu`. Elsewhere each says why not."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from tiny_run import export_anyhow, write_data, write_run

from stronglens.engine.backends import open_backend
from stronglens.engine.bundle import load_bundle
from stronglens.engine.machine import count_gpus
from stronglens.export.assemble import Order
from stronglens.training.tasks import TASKS

HERE = Path(__file__).parent
NETS = {"resnext50": ("substructure", "reference"), "resnet18": ("lensfinding", "quick")}
"""what is served: task and recipe, with random weights"""


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not count_gpus():
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU, or no driver for it"))


@pytest.fixture(scope="session", params=list(NETS))
def bundle(request, tmp_path_factory):
    """A bundle with every precision of a net of full size."""
    task, recipe = NETS[request.param]
    root = tmp_path_factory.mktemp(request.param)
    write_data(root / "data", TASKS[task], np.random.default_rng(5))
    write_run(root / "run", root / "data", task, recipe=recipe)
    order = Order(run=root / "run", out=root / "bundle", half=True, int8=True)
    export_anyhow(order)
    return load_bundle(root / "bundle")


@pytest.fixture(scope="session", autouse=True)
def plans(tmp_path_factory):
    """Keep the plans of these nets out of the user's cache, but for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def opened(bundle):
    """Return a function that opens a backend of the bundle; all are closed at the end."""
    made = []

    def open_it(device, precision, **options):
        if device == "tensorrt" and not find_spec("tensorrt"):
            pytest.skip("tensorrt is not installed: pip install 'stronglens[tensorrt]'")
        backend = open_backend(bundle, device=device, precision=precision, say=print, **options)
        made.append(backend)
        return backend

    yield open_it
    for backend in made:
        backend.close()
