"""Checkpoint in, bundle out: the whole export in one screen."""

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from stronglens.engine.bundle import GRAPHS, MANIFEST, Golden, write_bundle
from stronglens.engine.errors import ConfigError, InputError
from stronglens.export.checks import check_logistic, check_predictions
from stronglens.export.cutouts import Sample, take_calibration, take_sample
from stronglens.export.golden import make_golden
from stronglens.export.graph import Serving, count_flop, run_graph, serving
from stronglens.export.half import HalfBody, check_half, half_graph, halve
from stronglens.export.parity import (
    Parity,
    Reference,
    auto_count,
    computes_bfloat16,
    run_backends,
    runtime_version,
)
from stronglens.export.quantise import find_int8
from stronglens.export.report import report
from stronglens.export.to_onnx import to_onnx
from stronglens.export.to_tensorrt import build_plans, require_tensorrt
from stronglens.training.checkpoint import Run, load_run, newest_run, versions
from stronglens.training.listing import Listing, list_dataset
from stronglens.training.models import LensFinder
from stronglens.training.tasks import TASKS

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What `lens-export` was asked for."""

    run: Path | None = None
    """None: the newest under runs/"""
    out: Path | None = None
    """None: bundles/<task>"""
    data: Path | None = None
    """None: where the run found its data"""
    half: bool = False
    int8: bool = False
    tensorrt: bool = False
    """also build plans for this machine's GPU"""
    count: int = 0
    """cutouts to compare on; 0: chosen by what the net costs"""


def export(order: Order, say: Say) -> str:
    """Write a bundle and return the summary; `say` gets a line on each slow step.

    Raises:
        LensError: no such run or data, or an artefact misses its gate; no bundle is written.
    """
    run = load_run(order.run or newest_run())
    out = order.out or Path("bundles", run.config.task)
    _check_out(out)
    if order.tensorrt:
        require_tensorrt()
    served = serving(run.net)
    listing = _list_data(order, run)
    sample = _take_sample(order, run, served, listing)
    calibration = take_calibration(listing, run.config.preprocess, sample) if order.int8 else None
    say(f"exporting {run.path}; torch float32 on {_described(sample)}")
    reference, golden = _reference(order, run, served, sample)
    size = run.config.preprocess.size
    graphs = {"float32": to_onnx(served.graph, size, outputs=served.outputs)}
    half = halve(served.graph) if order.half else None
    if half is not None:
        graphs["float16"] = to_onnx(half_graph(half), size, outputs=served.outputs)
    found, remarks = _compare(graphs, half, reference, say)
    if calibration is not None:
        # between its int8 layers such a graph is rounded to bfloat16 only where that has passed
        between = "bfloat16" if any(each.precision == "bfloat16" for each in found) else ""
        compare = partial(_hold, precision="int8", reference=reference, between=between)
        graphs["int8"], int8 = find_int8(graphs["float32"], calibration, compare, say)
        found.append(int8)
    bundle = write_bundle(
        out,
        {GRAPHS[precision]: content for precision, content in graphs.items()},
        golden=golden,
        task=run.config.task,
        classes=run.config.classes,
        preprocess=run.config.preprocess,
        outputs=served.outputs,
        metrics=run.metrics,
        data=run.config.data,
        recipe=asdict(run.config.recipe),
        versions=_versions(run),
        parity={each.precision: each.to_dict() | {"from": sample.origin} for each in found},
    )
    if order.tensorrt:
        remarks = [*remarks, *build_plans(bundle, say)]
    return report(bundle, found, remarks)


def _list_data(order: Order, run: Run) -> Listing:
    """Return what the run's data holds, or the data named.

    Raises:
        InputError: they are not there, or are of other classes.
    """
    config = run.config
    listing = list_dataset(
        TASKS[config.task],
        _root(order, run),
        seed=config.recipe.seed,
        val_fraction=config.recipe.val_fraction,
    )
    if listing.classes != config.classes:
        raise InputError(
            f"{_root(order, run)} holds the classes {', '.join(listing.classes)}, "
            f"{run.path} was trained on {', '.join(config.classes)}"
        )
    return listing


def _take_sample(order: Order, run: Run, served: Serving, listing: Listing) -> Sample:
    """Return the cutouts to compare on, as many as asked for or as the net's cost allows."""
    spec = run.config.preprocess
    cost = count_flop(served.graph, spec.size)
    return take_sample(listing, spec, order.count or auto_count(cost))


def _root(order: Order, run: Run) -> Path:
    root = order.data or Path(run.config.data["path"])
    if not root.is_dir():
        raise InputError(
            f"{root}: no such folder; the graphs are compared on the run's cutouts: "
            "say where they are with --data DIR"
        )
    return root


def _check_out(out: Path) -> None:
    """Refuse, before the work, what `write_bundle` would refuse after it."""
    empty = out.is_dir() and not any(out.iterdir())
    if out.exists() and not empty and not (out / MANIFEST).is_file():
        raise ConfigError(f"{out} is there and is not a model bundle: choose another --out")


def _reference(order: Order, run: Run, served: Serving, sample: Sample) -> tuple[Reference, Golden]:
    """Score the sample and the golden batch in torch float32, and check that against training."""
    prob_NK, encoding_ND = run_graph(served.graph, sample.x_NHW)
    if encoding_ND is not None:
        assert isinstance(run.net, LensFinder)
        check_logistic(run.net.head, encoding_ND, prob_NK)
    if order.data is None:
        check_predictions(run, sample, prob_NK, _root(order, run))
    golden = make_golden(sample, run.config.preprocess, lambda x: run_graph(served.graph, x)[0])
    x_NHW = np.concatenate([sample.x_NHW, golden.x_NHW])
    return Reference(x_NHW, np.concatenate([prob_NK, golden.prob_NK]), sample.y_N), golden


def _compare(
    graphs: dict[str, bytes], half: HalfBody | None, reference: Reference, say: Say
) -> tuple[list[Parity], list[str]]:
    """Hold each graph to its gate; bfloat16 may miss, and is then only remarked on."""
    say("comparing float32 (ONNX Runtime and OpenVINO)")
    found = [_hold(graphs["float32"], "float32", reference)]
    found[0].check()
    if half is not None:
        say("comparing float16 (the file, and with every activation rounded)")
        # first: where an activation overflows it says so, and the file only differs
        rounded = check_half(half, reference)
        rounded.check()
        exact = _hold(graphs["float16"], "float16", reference)
        exact.check()
        exact = replace(
            exact,
            max_abs_activation=rounded.max_abs_activation,
            rounded_max_abs_dp=rounded.max_abs_dp,
        )
        found.append(exact)
    if not computes_bfloat16():
        return found, ["bfloat16 was not compared: this CPU does not compute in it"]
    say("comparing bfloat16 (OpenVINO)")
    brief = _hold(graphs["float32"], "bfloat16", reference)
    if brief.passed:
        return [*found, brief], []
    return found, [f"bfloat16 is left out, engines will use float32: {brief}"]


def _hold(content: bytes, precision: str, reference: Reference, between: str = "") -> Parity:
    """Compare a graph with torch float32, through the files that engines read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, GRAPHS[precision])
        path.write_bytes(content)
        return run_backends(path, precision, reference, between=between)


def _versions(run: Run) -> dict[str, str]:
    """Return what made the bundle, and where the training had another version, that too."""
    now = versions() | {name: version(name) for name in ("onnx", "onnxscript")}
    now |= {"onnxruntime": runtime_version("ort"), "openvino": runtime_version("ov")}
    trained = {
        f"{name} (training)": found
        for name, found in run.config.versions.items()
        if now.get(name) != found
    }
    return now | trained


def _described(sample: Sample) -> str:
    val, train = sample.origin["val"], sample.origin["train"]
    return f"{val:,} validation cutouts" + (f" and {train:,} training cutouts" if train else "")
