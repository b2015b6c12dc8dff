"""SIGINT and SIGTERM end a run between two steps, with what is finished kept."""

import signal
import time

SETTLING = 2.0
"""seconds that a run which was told to stop has to do so in good order"""


class Signals:
    """Notes SIGINT and SIGTERM, so that a run ends between two steps.

    Raised at once, they would be swallowed by compiled code that happens to call Python, or
    leave a library half loaded. Only one that is repeated after SETTLING seconds is.
    """

    def __init__(self) -> None:
        self.came = ""
        """the name of the first one"""
        self._first = 0.0
        for each in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(each) is not signal.SIG_IGN:
                signal.signal(each, self._note)

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal came."""
        if self.came:
            raise KeyboardInterrupt

    def _note(self, signum: int, frame: object) -> None:
        if not self.came:
            self.came = signal.Signals(signum).name
            self._first = time.monotonic()
        elif time.monotonic() - self._first > SETTLING:
            raise KeyboardInterrupt
