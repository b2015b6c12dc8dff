"""How good is the ResNeXt50 on real cutouts, and does every form of it that serves stay as good?

8,000 published DeepLense cutouts with and without substructure: 80 % to train on (a tenth of
them to choose the best epoch), the rest scored once, as .npy files, by torch in float32 and by
lens-infer in each precision that a CPU computes in, and by the bundle's float16 file.

    python benchmarks/sub_nosub.py [-o name=value …]      # options go to lens-train
"""

import io
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import read_predictions, run, shared_folder, table, write_result
from numpy.typing import NDArray
from PIL import Image

from stronglens.engine.backends.ort import OrtBackend
from stronglens.engine.bundle import load_bundle
from stronglens.engine.feed import feed
from stronglens.engine.preprocess import PreprocessSpec
from stronglens.engine.sources import open_source
from stronglens.training.checkpoint import load_run
from stronglens.training.metrics import summarise

WORK = Path("benchmarks/work/sub_nosub")
CLASSES = ("no_sub", "sub")
TRAIN_SHARE = 0.8
SERVED = ("float32", "bfloat16", "int8")


def unpack(archive: Path, work: Path) -> None:
    """Write train/CLASS/*.jpg as they are and test/CLASS/*.npy (uint8), split by name order."""
    done = work / "unpacked"
    if done.exists():
        return
    with zipfile.ZipFile(archive) as source:
        for cls in CLASSES:
            names = sorted(n for n in source.namelist() if n.startswith(f"{cls}/"))
            for part in ("train", "test"):
                (work / part / cls).mkdir(parents=True, exist_ok=True)
            # the names are random numbers, so their order is a shuffle
            cut = round(TRAIN_SHARE * len(names))
            for name in names[:cut]:
                (work / "train" / name).write_bytes(source.read(name))
            for name in names[cut:]:
                pixels = np.asarray(Image.open(io.BytesIO(source.read(name))))
                np.save((work / "test" / name).with_suffix(".npy"), pixels)
    done.touch()


def prepared(files: list[str], spec: PreprocessSpec) -> Iterator[NDArray[np.float32]]:
    """Yield the prepared cutouts, batch by batch."""
    batches = feed(open_source(files), spec, batch_size=32, workers=1)
    return (batch.x_BHW.copy() for batch in batches)


def torch_probabilities(run_folder: Path, files: list[str]) -> NDArray[np.float32]:
    """Return prob_NK of the run's net, torch eager float32."""
    trained = load_run(run_folder)
    with torch.inference_mode():
        batches = prepared(files, trained.config.preprocess)
        return np.concatenate(
            [trained.net(torch.from_numpy(x)).softmax(1).numpy() for x in batches]
        )


def half_probabilities(bundle_folder: Path, files: list[str]) -> NDArray[np.float32]:
    """Return prob_NK of the float16 file: lens-infer refuses it on a CPU, which computes it in
    float32 and so shows only what the rounding of the weights does."""
    bundle = load_bundle(bundle_folder)
    backend = OrtBackend(bundle.graph("float16"), precision="float16")
    return np.concatenate([backend.run(x) for x in prepared(files, bundle.manifest.preprocess)])


def row(name: str, y_N: Any, prob_NK: Any, reference_NK: Any) -> list[str]:
    """Return a line of the table: ROC AUC with interval, accuracy, distance from torch."""
    found = summarise(y_N, prob_NK, list(CLASSES))
    auc = found["roc_auc"]["sub"]
    return [
        name,
        f"{auc['value']:.5f}",
        f"{auc['low']:.4f} to {auc['high']:.4f}",
        f"{found['accuracy']:.4f}",
        f"{np.abs(prob_NK - reference_NK).max():.1e}",
        str(int((prob_NK.argmax(1) != reference_NK.argmax(1)).sum())),
    ]


def question(trained: Path) -> str:
    """Return the README's question: net, size, epochs, cutouts."""
    config = json.loads((trained / "config.json").read_text())
    side = config["recipe"]["input_size"] or config["preprocess"]["size"]
    learnt = sum(config["data"]["counts"]["train"].values())
    epochs = config["recipe"]["epochs"]
    return (
        f"ResNeXt50 at {side} pixels, {epochs} epochs on {learnt:,} real DeepLense cutouts, "
        "substructure or not: ROC AUC on those held out"
    )


def forms(rows: list[list[str]]) -> str:
    """Say how far the forms that serve are from torch: rows as `row` makes them, torch's first."""
    auc = [float(line[1]) for line in rows]
    flips = max(int(line[5]) for line in rows)
    names = ", ".join(line[0].split(",")[0] for line in rows[1:])
    apart = max(1e-5, *(abs(each - auc[0]) for each in auc))  # they are rounded
    changed = f"at most {flips} labels changed" if flips else "no label changed"
    return f"{names}: within {apart:.5f} of it, {changed}"


def main() -> None:
    unpack(shared_folder() / "data" / "deeplense_sub_nosub_8k.zip", WORK)
    trained, bundle = WORK / "run", WORK / "bundle"
    run("lens-train", "substructure", "--data", WORK / "train", "--out", trained, *sys.argv[1:])
    exported = run("lens-export", trained, "--fp16", "--int8", "--out", bundle)
    rows, outputs = [], {}
    for precision in (p for p in SERVED if p in load_bundle(bundle).manifest.parity):
        out = WORK / f"preds_{precision}.csv"
        pattern = f"{WORK}/test/*/*.npy"
        run("lens-infer", pattern, "--model", bundle, "--precision", precision, "--out", out)
        outputs[f"lens-infer {precision}"] = read_predictions(out)
    ids, classes, _ = outputs["lens-infer float32"]
    y_N = np.array([CLASSES.index(Path(name).parent.name) for name in ids])
    reference_NK = torch_probabilities(trained, ids)
    rows.append(row("torch float32", y_N, reference_NK, reference_NK))
    assert classes == list(CLASSES)
    outputs["float16 file, ONNX Runtime"] = (ids, classes, half_probabilities(bundle, ids))
    for name, (found, _, prob_NK) in outputs.items():
        assert found == ids
        rows.append(row(name, y_N, prob_NK, reference_NK))
    value, interval = rows[0][1:3]
    header = ["scored by", "ROC AUC", "95 % interval", "accuracy", "max abs Δp", "labels changed"]
    history = (trained / "history.csv").read_text()
    write_result(
        "sub_nosub",
        "ResNeXt50 on real DeepLense cutouts, substructure or not",
        f"{len(ids):,} cutouts held out of training and of the choice of the epoch.",
        table(header, rows),
        "A CPU runs the float16 file in float32, so its row shows the rounding of the weights; the "
        "export's gate below also shows it with every activation rounded.",
        f"The training, epoch by epoch:\n\n```\n{history}```",
        f"The export's own gate, on the validation split:\n\n```\n{exported}```",
        readme=[(question(trained), f"ROC AUC {value} (95 %: {interval}); {forms(rows)}")],
    )


if __name__ == "__main__":
    main()
