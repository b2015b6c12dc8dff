"""Write the README's table of measured figures from results/*.json, which the benchmarks left.

    python benchmarks/readme.py

Nobody writes in it by hand: a test holds the table against this script's.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import RESULTS, ROOT, table

README = ROOT / "README.md"
START = "<!-- measured: made by benchmarks/readme.py -->"
END = "<!-- /measured -->"
ORDER = (
    "sub_nosub", "resolution", "simulation_to_real", "end_to_end_real", "end_to_end_resnext50",
    "end_to_end", "feed", "kernels", "backends",
    "memory", "growth", "startup", "simulator",
)  # fmt: skip
"""What the names of results begin with; others follow"""


@dataclass(frozen=True, slots=True)
class Result:
    """One results/NAME.json."""

    name: str
    machine: str
    gpu: str
    date: str
    readme: list[tuple[str, str]]
    """question, figure"""


def read_results(folder: Path) -> list[Result]:
    """Return the results that have something for the README, in its order."""
    found = [_result(path) for path in folder.glob("*.json")]
    return sorted((r for r in found if r.readme), key=lambda r: (_rank(r.name), r.name))


def _result(path: Path) -> Result:
    d: dict[str, Any] = json.loads(path.read_text())
    pairs = [(str(question), str(figure)) for question, figure in d["readme"]]
    return Result(path.stem, d["machine"], d["gpu"], d["date"], pairs)


def _rank(name: str) -> int:
    return next((i for i, start in enumerate(ORDER) if name.startswith(start)), len(ORDER))


def measured(results: Sequence[Result]) -> str:
    """Return the README's part: for each machine a line and a table, then what no GPU has shown."""
    parts = []
    for machine in dict.fromkeys(result.machine for result in results):
        here = [result for result in results if result.machine == machine]
        dates = sorted({result.date for result in here})
        rows = [
            [f"[{_cell(question)}](benchmarks/results/{result.name}.md)", _cell(figure)]
            for result in here
            for question, figure in result.readme
        ]
        line = f"On {machine}; {' to '.join(dict.fromkeys([dates[0], dates[-1]]))}:"
        parts += [line, table(["question", "figure"], rows)]
    if not any(result.gpu for result in results):
        parts.append("No GPU figure has been measured.")
    return "\n\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def rewritten(text: str, part: str) -> str:
    """Return a README with what stands between its two markers replaced.

    Raises:
        ValueError: not each marker once, in order.
    """
    before, *rest = text.split(START)
    if len(rest) != 1 or rest[0].count(END) != 1 or END in before:
        raise ValueError(f"a README has {START!r} once, and after it {END!r} once")
    return f"{before}{START}\n\n{part}\n\n{END}{rest[0].split(END)[1]}"


def main() -> None:
    README.write_text(rewritten(README.read_text(), measured(read_results(RESULTS))))
    print(f"wrote the measured table of {README.name}")


if __name__ == "__main__":
    main()
