"""What TensorRT says when it fails: it returns None or False, and logs the reason."""

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stronglens.engine.backends.cuda import OutOfMemoryError
from stronglens.engine.errors import BackendError

OUT_OF_MEMORY = re.compile(
    r"out ?of ?memory|insufficient (?:\w+ )?memory|could not be allocated|failed to allocate", re.I
)
SAID = 3
"""errors that are quoted: the first of a chain says what broke, the last what came of it"""


@functools.cache
def log_of(trt: Any) -> Any:
    """Return the logger of a module like tensorrt: its `lines` are the errors it got.

    There is one in a process: TensorRT goes on with the first that it was given, whatever it is
    given later.
    """

    class Log(trt.ILogger):  # type: ignore[misc]
        """Keeps errors, drops the rest: what fails is raised, and said once."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # the bindings refuse super()
            self.lines: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.lines.append(" ".join(msg.split()))

    return Log()


def failure(trt: Any, what: str) -> BackendError:
    """Return the error that says what failed and why, by the log; which is then empty."""
    lines = log_of(trt).lines
    words = "; ".join([*lines[:1], *lines[1:][1 - SAID :]]) or "it gives no reason"
    lines.clear()
    kind = OutOfMemoryError if OUT_OF_MEMORY.search(words) else BackendError
    return kind(f"{what}: {words}")


@contextmanager
def explained(trt: Any, what: str) -> Iterator[None]:
    """Turn what the bindings raise, where they do not return None, into `failure`."""
    log_of(trt).lines.clear()
    try:
        yield
    except (RuntimeError, TypeError, ValueError) as err:
        raise failure(trt, f"{what} ({err})") from err
