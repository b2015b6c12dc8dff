"""Does `lens-infer --plan` tell how long a run will take?

    python benchmarks/plan.py [--rounds N]

The demo's nets on hard links to the demo's cutouts, each run long enough for its start not to
matter. The peer of a plan is the run itself: the ratio says how far the plan is off.
"""

import os
import re
from pathlib import Path
from statistics import median

import click
import many
from common import ROOT, child, read_predictions, table, write_result

CASES = {
    "substructure, the quick recipe's net": ("substructure", "catalog", 60_000),
    "substructure, ResNeXt50 at 224": ("resnext50", "catalog", 1_200),
    "lens finder, ResNet-18 at 334": ("lensfinding", "sky", 3_000),
}
"""bundle and cutouts of the demo, and how many cutouts to score"""
ALLOWED = 0.2
UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


def in_seconds(words: str) -> float:
    """Return the seconds of 3.2 s or 4 min 10 s."""
    return sum(float(n) * UNITS[unit] for n, unit in re.findall(r"([0-9.]+) (s|min|h|d)\b", words))


def links(folder: Path, made: Path, count: int) -> Path:
    """Fill a folder with links to the cutouts of another."""
    files = sorted(folder.glob("*.npy"))
    made.mkdir()
    for i in range(count):
        os.link(files[i % len(files)], made / f"{i}.npy")
    return made


@click.command()
@click.option("--rounds", default=3, show_default=True)
def main(rounds: int) -> None:
    rows, worst = [], 0.0
    with many.work_folder() as root:
        for name, (demo, cutouts, count) in CASES.items():
            folder = links(ROOT / "demo" / cutouts, root / demo, count)
            command = ["lens-infer", folder, "--model", ROOT / "demo" / "bundles" / demo]
            command += ["--out", root / "preds.csv"]
            plans, runs, bound = [], [], ""
            for _ in range(rounds):
                said = child(*command, "--plan").stdout
                plans.append(in_seconds(re.search("time +(.*?):", said)[1]))
                bound = re.search("bound by +(.*)", said)[1]
                done = child(*command)
                runs.append(done.seconds)
            found = len(read_predictions(root / "preds.csv")[0])
            if found != count:
                raise SystemExit(f"{found} rows for {count} cutouts")
            ratio = median(plan / run for plan, run in zip(plans, runs, strict=True))
            worst = max(worst, abs(ratio - 1))
            times = [f"{median(plans):.1f}", f"{median(runs):.1f}", f"{ratio:.2f}"]
            rows.append([name, f"{count:,}", bound, *times])
    write_result(
        "plan",
        "The time that a plan tells",
        f"Medians of {rounds} round{'s' * (rounds > 1)}, plan and run in turn; the run is the "
        "whole command. Every run wrote a row for every cutout.",
        table(["run", "cutouts", "bound by", "plan, s", "run, s", "plan ÷ run"], rows),
        f"Off by {worst:.0%} at most; {ALLOWED:.0%} are allowed.",
        readme=[
            (
                "time that `lens-infer --plan` tells, against the run itself",
                f"off by {worst:.0%} at most in {len(rows)} nets",
            )
        ],
    )
    if worst > ALLOWED:
        raise SystemExit(f"a plan was off by {worst:.0%}")


if __name__ == "__main__":
    main()
