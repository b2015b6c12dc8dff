"""What a run needs is compiled while its model loads, and nothing ever depends on it."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from stronglens.engine.preprocess import PreprocessSpec
from stronglens.engine.warmup import warming_up

SPEC = PreprocessSpec(size=12)

PROBE = """
import sys
from numba.core.event import install_recorder
from stronglens.engine.feed import feed
from stronglens.engine.preprocess import PreprocessSpec
from stronglens.engine.sources import open_source
from stronglens.engine.warmup import warming_up

source, spec = open_source(sys.argv[1:]), PreprocessSpec(size=12)
with install_recorder("numba:compile") as before, warming_up(source, spec):
    pass
with install_recorder("numba:compile") as after:
    batches = list(feed(source, spec, batch_size=2, workers=2))
print(len(batches), len(before.buffer) > 0, len(after.buffer))
"""


def test_the_feed_has_nothing_left_to_compile(tmp_path, rng):
    for i in range(4):
        np.save(tmp_path / f"{i}.npy", rng.normal(size=(12, 12)))
    done = subprocess.run(
        [sys.executable, "-c", PROBE, tmp_path], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.split() == ["2", "True", "0"], done.stderr


class Broken:
    id = "broken"

    def read(self):
        raise MemoryError("a fault that the feed is to report")


@pytest.mark.parametrize("source", [[], [Broken()]])
def test_a_fault_is_left_to_the_feed(source):
    with warming_up(source, SPEC):
        pass
    assert not [thread for thread in threading.enumerate() if thread.name == "warm-up"]


def test_what_ends_the_block_comes_through():
    with pytest.raises(KeyboardInterrupt), warming_up([], SPEC):
        raise KeyboardInterrupt
