"""The progress of a run, on a terminal and in a log, and durations in words."""

import io

from stronglens.engine.progress import Progress, describe, duration


def test_progress_on_a_terminal_and_in_a_log(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("stronglens.engine.progress.time.monotonic", lambda: now[0])
    terminal, log = io.StringIO(), io.StringIO()
    terminal.isatty = lambda: True
    for stream in (terminal, log):
        now[0] = 0.0
        with Progress(1000, stream) as progress:
            for _ in range(100):
                now[0] += 1.0
                progress.add(10)
    assert log.getvalue().splitlines() == [
        "300 of 1,000 cutouts, 10/s, 1 min 10 s left",
        "600 of 1,000 cutouts, 10/s, 40.0 s left",
        "900 of 1,000 cutouts, 10/s, 10.0 s left",
    ]
    assert terminal.getvalue().count("\r") == 101
    assert terminal.getvalue().endswith("\r\x1b[2K")


def test_durations_in_words():
    spoken = {3.21: "3.2 s", 250: "4 min 10 s", 5 * 3600 + 180: "5 h 03 min", 187200: "2 d 04 h"}
    assert {seconds: duration(seconds) for seconds in spoken} == spoken
    assert describe(0, 10, 0.0) == "0 of 10 cutouts, 0/s, unknown left"
