"""What `lens-export` says when it is done."""

from collections.abc import Sequence

from stronglens.engine.bundle import Bundle
from stronglens.export.parity import Parity

HEADINGS = ("precision", "file", "MB", "max |Δp|", "ΔROC AUC", "labels flip", "cutouts", "runtime")


def report(bundle: Bundle, found: Sequence[Parity], remarks: Sequence[str]) -> str:
    """Return a table of the artefacts, remarks, where the bundle lies, and the next command."""
    lines = [
        f"{bundle.manifest.task}: {bundle.manifest.recipe['net']}, compared with torch float32",
        "",
        *_aligned([HEADINGS, *(_row(bundle, each) for each in found)]),
        "",
        *remarks,
        *_range(found),
        *_calibration(found),
        *_meaning(bundle),
        f"written: {bundle.path}/",
        f"next:    lens-infer catalog/*.npy --model {bundle.path} --out preds.csv",
    ]
    return "\n".join(lines)


def _row(bundle: Bundle, each: Parity) -> tuple[str, ...]:
    file = bundle.graph(each.precision)
    return (
        each.precision,
        file.name,
        f"{file.stat().st_size / 1e6:.1f}",
        f"{each.max_abs_dp:.1e}",
        f"{each.delta_roc_auc:.5f}",
        str(each.label_flips),
        f"{each.count:,}",
        each.runtime,
    )


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    text = (0, 1, len(HEADINGS) - 1)
    return [
        "  ".join(
            cell.ljust(width) if i in text else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _range(found: Sequence[Parity]) -> list[str]:
    return [
        f"{each.precision} with every activation rounded, as on a GPU: max |Δp| "
        f"{each.rounded_max_abs_dp:.1e}, largest |activation| {each.max_abs_activation:,.0f} "
        "of 65,504"
        for each in found
        if each.max_abs_activation is not None
    ]


def _calibration(found: Sequence[Parity]) -> list[str]:
    return [
        f"{each.precision} has its scales by {each.calibration} over {each.calibrated_on:,} "
        f"training cutouts; in float32 stay the head, {_kept(each.float_layers)}"
        + (", all sums" if each.float_sums else "")
        for each in found
        if each.float_layers
    ]


def _kept(layers: list[str]) -> str:
    if len(layers) == 1:
        return f"the first convolution ({layers[0]})"
    return f"the first {len(layers)} convolutions ({layers[0]} to {layers[-1]})"


def _meaning(bundle: Bundle) -> list[str]:
    if "lens" not in bundle.manifest.classes:
        return []
    return ["p_lens is the probability of a lens"]
