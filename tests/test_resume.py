"""What is finished is kept for the same run only; rejected rows are tried again when asked."""

import io
import json

import numpy as np
import pytest
import tiny_model
from commands import command, rows, write_catalog
from tiny_model import SIZE

from stronglens.engine.config import EngineConfig, Tolerated, Wanted
from stronglens.engine.errors import ConfigError, LensError, TooManyRejectedError
from stronglens.engine.pipeline import classify


@pytest.fixture
def bundle(tmp_path):
    return tiny_model.make_bundle(tmp_path / "bundles" / "tiny")


@pytest.fixture
def catalog(tmp_path, rng):
    folder = write_catalog(tmp_path / "catalog", 60, rng)
    for i in (7, 20, 41):
        (folder / f"{i}.npy").write_bytes(b"")
    return folder


def run(catalog, bundle, out, *, stop_after=None, config=None, **wanted):
    """Classify; with `stop_after`, be stopped after so many batches of 8."""
    left = iter(range(4 + stop_after)) if stop_after is not None else None

    def check():
        if left is not None and next(left, None) is None:
            raise KeyboardInterrupt

    stderr = io.StringIO()
    config = {"batch_size": 8, "precision": "float32", **(config or {})}
    report = classify(
        [catalog],
        model=bundle.path,
        out=out,
        wanted=Wanted(**wanted),
        config=EngineConfig(**config),
        stderr=stderr,
        check=check,
    )
    return report, stderr.getvalue()


def stopped(*args, **kwargs):
    with pytest.raises(KeyboardInterrupt):
        run(*args, stop_after=3, **kwargs)


def mend(catalog, rng, *numbers):
    for i in numbers:
        np.save(catalog / f"{i}.npy", rng.normal(size=(SIZE, SIZE)))


def test_the_same_command_goes_on(catalog, bundle, tmp_path):
    out, alone = tmp_path / "preds.csv", tmp_path / "alone.csv"
    stopped(catalog, bundle, out)
    assert not out.exists()
    report, said = run(catalog, bundle, out)
    assert "going on after 24 of 60 rows" in said
    assert (report.resumed, report.inputs, report.rejected.total()) == (24, 60, 3)
    run(catalog, bundle, alone)
    assert out.read_bytes() == alone.read_bytes()
    again, said = run(catalog, bundle, out)  # a finished output is made anew
    assert again.resumed == 0 and "going on" not in said


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda c, b, t: tiny_model.make_bundle(b.path, parity={"float32": {}}), "model"),
        (lambda c, b, t: np.save(c / "60.npy", np.zeros((SIZE, SIZE))), "inputs, listing, rows"),
        (lambda c, b, t: (c / "0.npy").rename(c / "00.npy"), "listing"),
    ],
)
def test_another_model_or_listing_is_refused(catalog, bundle, tmp_path, change, what):
    out = tmp_path / "preds.csv"
    stopped(catalog, bundle, out)
    change(catalog, bundle, tmp_path)
    with pytest.raises(LensError, match=rf"differs in {what}\..*remove that folder"):
        run(catalog, bundle, out)
    assert list((tmp_path / "preds.csv.parts").glob("*.part"))


def test_other_options_that_change_rows_are_refused_and_others_not(catalog, bundle, tmp_path):
    out = tmp_path / "preds.csv"
    stopped(catalog, bundle, out)
    with pytest.raises(LensError, match="differs in encodings"):
        run(catalog, bundle, out, encodings=tmp_path / "enc.npy")
    report, _ = run(
        catalog, bundle, out, config={"batch_size": 5, "workers": 1}, top=3, target="no"
    )
    assert report.resumed == 24 and len(rows(tmp_path / "preds.top.csv")) == 3


def test_a_folder_of_inputs_that_has_gone(catalog, bundle, tmp_path):
    out = tmp_path / "preds.csv"
    stopped(catalog, bundle, out)
    catalog.rename(tmp_path / "away")
    with pytest.raises(LensError, match="no such file or folder"):
        run(catalog, bundle, out)
    (tmp_path / "away").rename(catalog)
    assert run(catalog, bundle, out)[0].resumed == 24


def test_rejected_rows_are_tried_again_in_a_run_that_goes_on(catalog, bundle, tmp_path, rng):
    out, alone = tmp_path / "preds.csv", tmp_path / "alone.csv"
    stopped(catalog, bundle, out)
    mend(catalog, rng, 7)
    kept, _ = run(catalog, bundle, tmp_path / "preds.csv", retry=False)
    assert kept.rejected["malformed"] == 3
    stopped(catalog, bundle, tmp_path / "again.csv")
    mend(catalog, rng, 20)
    report, said = run(catalog, bundle, tmp_path / "again.csv", retry=True)
    assert "tried 1 rejected cutouts again: 1 are scored now" in said
    assert report.rejected == {"malformed": 1}
    run(catalog, bundle, alone)
    assert (tmp_path / "again.csv").read_bytes() == alone.read_bytes()


@pytest.mark.parametrize("ending", ["csv", "parquet", "fits", "vot"])
def test_rejected_rows_of_a_finished_output_are_tried_again(catalog, bundle, tmp_path, rng, ending):
    out, alone = tmp_path / f"preds.{ending}", tmp_path / f"alone.{ending}"
    wanted = {"encodings": tmp_path / "enc.npy"}
    run(catalog, bundle, out, **wanted)
    mend(catalog, rng, 7, 41)
    report, said = run(catalog, bundle, out, retry=True, **wanted)
    assert "tried 3 rejected cutouts again: 2 are scored now" in said
    assert report.rejected == {"malformed": 1}
    assert [row["id"] for row in rows(tmp_path / "preds.rejected.csv")] == [f"{catalog}/20.npy"]
    run(catalog, bundle, alone, encodings=tmp_path / "alone.npy")
    assert out.read_bytes() == alone.read_bytes()
    assert (tmp_path / "enc.npy").read_bytes() == (tmp_path / "alone.npy").read_bytes()


def test_only_the_runs_own_output_is_tried_again(catalog, bundle, tmp_path):
    out = tmp_path / "preds.csv"
    run(catalog, bundle, out)
    receipt = tmp_path / "preds.csv.receipt.json"
    text = receipt.read_text()
    for changed, words in (
        (text.replace(bundle.manifest.classes[0], "none"), "of another run"),
        ("{}", "is not a receipt"),
        (None, "missing"),
    ):
        receipt.unlink()
        if changed is not None:
            receipt.write_text(changed)
        with pytest.raises(LensError, match=words):
            run(catalog, bundle, out, retry=True)
    receipt.write_text(text)
    cut = out.read_text().splitlines(keepends=True)
    out.write_text("".join(cut[:-1]))
    with pytest.raises(LensError, match="59 rows of 60"):
        run(catalog, bundle, out, retry=True)


def test_too_many_rejected_cutouts_stop_a_run(catalog, bundle, tmp_path, rng):
    out = tmp_path / "preds.csv"
    with pytest.raises(TooManyRejectedError, match="3 of 48 cutouts were rejected"):
        run(catalog, bundle, out, max_bad=Tolerated(count=2, share=0.0))
    assert not out.exists()
    with pytest.raises(TooManyRejectedError, match="3 of 48"):  # without reading any
        run(catalog, bundle, out, max_bad=Tolerated(count=2, share=0.0))
    mend(catalog, rng, 7)
    wanted = {"max_bad": Tolerated(count=2, share=0.0), "retry": True}
    report, _ = run(catalog, bundle, out, **wanted)
    assert (report.resumed, report.rejected.total()) == (48, 2)


def test_how_many_are_borne():
    share = Tolerated(share=0.05)
    assert not share.exceeded(50, 10, 10**6)  # of the first thousand
    assert share.exceeded(51, 51, 10**6)
    assert not share.exceeded(500, 10_000, 10**6)
    assert share.exceeded(501, 10_000, 10**6)
    assert share.exceeded(1, 10, 10)
    assert not Tolerated().exceeded(10, 10, 10)
    assert Tolerated(count=0, share=0.0).exceeded(1, 1, 10)


def test_exit_status_four_as_installed(catalog, bundle, tmp_path):
    arguments = ("catalog", "--model", bundle.path, "--max-bad", "2%")
    done = command("lens-infer", *arguments, cwd=tmp_path, status=4)
    assert "more than --max-bad bears" in done.stderr
    command("lens-infer", *arguments[:-1], "10%", cwd=tmp_path, status=3)
    assert len(rows(tmp_path / "preds.csv")) == 60
    for wrong in ("101%", "x", "-1", "5.%"):
        command("lens-infer", *arguments[:-1], wrong, cwd=tmp_path, status=2)


def test_a_place_for_encodings_is_looked_at_before_any_work(catalog, bundle, tmp_path):
    with pytest.raises(ConfigError, match="there is no folder"):
        run(catalog, bundle, tmp_path / "preds.csv", encodings=tmp_path / "absent" / "enc.npy")
    assert not (tmp_path / "preds.csv.parts").exists()


def test_two_commands_on_one_output(catalog, bundle, tmp_path):
    from stronglens.engine.runs.parts import Parts

    with Parts(tmp_path / "preds.csv"):
        done = command("lens-infer", "catalog", "--model", bundle.path, cwd=tmp_path, status=1)
    assert "another run is writing this output (process" in done.stderr
    assert not (tmp_path / "preds.csv").exists()


def test_the_best_candidates_are_a_table_of_their_own(catalog, tmp_path):
    curve = {"fpr": [0.0, 0.04, 0.2], "tpr": [0.1, 0.5, 0.9], "threshold": [0.99, 0.6, 0.1]}
    metrics = {"roc_curve": {"vort": curve}, "counts": {"no": 20, "sphere": 30, "vort": 9}}
    metrics |= {"split": "validation", "simulated": False}
    bundle = tiny_model.make_bundle(tmp_path / "tiny", metrics=metrics)
    report, _ = run(catalog, bundle, tmp_path / "preds.csv", top=8, max_fpr=0.1, target="vort")
    by_score = sorted(
        (row for row in rows(tmp_path / "preds.csv") if float(row["p_vort"] or 0) >= 0.6),
        key=lambda row: -float(row["p_vort"]),
    )
    assert rows(tmp_path / "preds.top.csv") == by_score[:8]
    assert f"the best 8 of {len(by_score)} with p_vort ≥ 0.6" in str(report)
    assert "in validation (50 real others) let 0.04 of them pass, and 0.5 of the class" in str(
        report
    )
    with pytest.raises(ConfigError, match="the smallest is"):
        run(catalog, bundle, tmp_path / "preds.csv", max_fpr=0.001, target="vort")
    with pytest.raises(ConfigError, match="which class are candidates of"):
        run(catalog, bundle, tmp_path / "preds.csv", top=3)


def test_the_receipt_says_which_run_it_was(catalog, bundle, tmp_path):
    run(catalog, bundle, tmp_path / "preds.csv")
    receipt = json.loads((tmp_path / "preds.csv.receipt.json").read_text())
    assert receipt["run"]["inputs"] == 60 and receipt["run"]["rows"] == [0, 60]
    assert receipt["run"]["classes"] == tiny_model.CLASSES
    assert receipt["rows"] == {"ok": 57, "flagged": 0, "rejected": 3}
