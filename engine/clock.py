"""Where the time goes: seconds per stage, added up from any thread."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock


class StageClock:
    """Seconds spent in each named stage; those of several threads add up."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._lock = Lock()

    def add(self, **seconds: float) -> None:
        """Add to each stage named."""
        with self._lock:
            self.seconds.update(seconds)

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Add the time spent in the block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(**{stage: time.perf_counter() - start})
