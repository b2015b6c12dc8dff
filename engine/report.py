"""What a run did, in figures and in words."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stronglens.engine.batches import FLAGGED, REJECTED, Flag, Rows, reason
from stronglens.engine.progress import duration


@dataclass(slots=True)
class RunReport:
    """Counts and seconds of a run; `str` gives the summary that the command prints."""

    out: Path
    classes: list[str]
    model: Path
    label: str
    """what ran it, and why"""
    workers: int
    skipped: int = 0
    """files in folders that are no cutouts"""
    duplicates: int = 0
    """names given more than once"""
    resumed: int = 0
    """rows that were finished before this run began"""
    ok: int = 0
    """scored, and nothing to remark"""
    flagged: int = 0
    """scored, but to be looked at twice"""
    filled: int = 0
    """scored cutouts with missing pixels that were filled"""
    labels: Counter[str] = field(default_factory=Counter)
    """scored cutouts by class"""
    flags: Counter[str] = field(default_factory=Counter)
    """flagged cutouts by flag"""
    rejected: Counter[str] = field(default_factory=Counter)
    """rejected cutouts by reason"""
    notes: list[str] = field(default_factory=list)
    """what else was written, and by which rule"""
    wall: float = 0.0
    """seconds from the first cutout to the last row"""
    seconds: Counter[str] = field(default_factory=Counter)
    """start, list, wait (for the feed), run, write (parts) and finish (the output) on the clock;
    read and prepare summed over the feed's threads"""

    @property
    def inputs(self) -> int:
        """How many rows there are: ok + flagged + rejected."""
        return self.ok + self.flagged + self.rejected.total()

    def count(self, rows: Rows) -> None:
        """Add rows."""
        flags_B = rows.flags_B
        good_B = (flags_B & REJECTED) == 0
        twice_B = good_B & ((flags_B & FLAGGED) != 0)
        self.ok += int((good_B & ~twice_B).sum())
        self.flagged += int(twice_B.sum())
        for flag in FLAGGED:
            self.flags[str(flag.name).lower()] += int((good_B & ((flags_B & flag) != 0)).sum())
        self.filled += int((good_B & ((flags_B & Flag.NONFINITE) != 0)).sum())
        best_B = rows.prob_BK[good_B].argmax(axis=1)
        for name, n in zip(
            self.classes, np.bincount(best_B, minlength=len(self.classes)).tolist(), strict=True
        ):
            self.labels[name] += n
        self.rejected.update(reason(flags) for flags in flags_B[~good_B].tolist())

    def bound(self) -> str:
        """Return what bounded the run, in words."""
        s = self.seconds
        if s["run"] >= max(s["wait"], s["write"]):
            return f"the model ({s['run'] / max(self.wall, 1e-9):.0%} of the time)"
        if s["write"] > s["wait"]:
            return "writing the rows"
        if s["read"] > s["prepare"]:
            return "reading the files: faster storage or more --workers would help"
        return "preparing the cutouts: more --workers would help, where there are more cores"

    def __str__(self) -> str:
        fresh = self.inputs - self.resumed
        lines = [
            f"{self.inputs:,} cutouts = {self.ok:,} ok + {self.flagged:,} flagged + "
            f"{self.rejected.total():,} rejected{self._pace(fresh)}",
            *self._table(),
            *(self._times() if fresh else []),
            f"  model     {self.model}",
            f"  output    {self.out}",
            *(f"            {note}" for note in self.notes),
        ]
        return "\n".join(lines)

    def _pace(self, fresh: int) -> str:
        """Say how fast `fresh` rows were made, and how many there were before."""
        rate = fresh / self.wall if self.wall else 0.0
        spent = f", in {duration(self.wall)}: {rate:,.{0 if rate >= 100 else 1}f} cutouts/s"
        before = f"; {self.resumed:,} were finished before" if self.resumed else ""
        return (spent if fresh else "") + before

    def _table(self) -> list[str]:
        lines = ["  scored    " + _counts(self.labels)] if self.ok + self.flagged else []
        if self.flagged:
            lines.append("  flagged   " + _counts(+self.flags))
        if self.rejected:
            lines.append("  rejected  " + _counts(Counter(dict(self.rejected.most_common()))))
        notes = [
            f"{n:,} {what}"
            for n, what in (
                (self.filled, "scored with missing pixels filled"),
                (self.skipped, "other files skipped"),
                (self.duplicates, "named more than once"),
            )
            if n
        ]
        return [*lines, "  note      " + ", ".join(notes)] if notes else lines

    def _times(self) -> list[str]:
        s = self.seconds
        return [
            f"  time      start {s['start']:.2f} s, list {s['list']:.2f} s, then model "
            f"{s['run']:.2f} s, wait for cutouts {s['wait']:.2f} s, write "
            f"{s['write'] + s['finish']:.2f} s",
            f"  feed      read {s['read']:.2f} s, prepare {s['prepare']:.2f} s, "
            f"summed over {threads(self.workers)}",
            f"  bound by  {self.bound()}",
        ]


def threads(count: int) -> str:
    """Return 1 thread or N threads."""
    return f"{count} thread" + "s" * (count > 1)


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counts.items())
