"""lens-verify tells a whole output from one that was altered, cut or is of something else."""

import shutil

import numpy as np
import pytest
import tiny_model
from commands import command, write_catalog


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify")
    tiny_model.make_bundle(folder / "bundles" / "tiny")
    write_catalog(folder / "catalog", 30, np.random.default_rng(1))
    (folder / "catalog" / "3.npy").write_bytes(b"")
    command("lens-infer", "catalog", "--precision", "float32", cwd=folder, status=3)
    return folder


@pytest.fixture
def copy(place, tmp_path):
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    return tmp_path


def verified(folder, *options, status=0):
    return command("lens-verify", "preds.csv", "catalog", *options, cwd=folder, status=status)


def problems(folder, *options, receipt=False):
    if not receipt:  # the rows alone must tell
        (folder / "preds.csv.receipt.json").unlink()
    said = verified(folder, "--precision", "float32", *options, status=1).stdout
    return [line.split("PROBLEM")[1].strip() for line in said.splitlines() if "PROBLEM" in line]


def test_a_whole_output(place):
    said = verified(place).stdout
    assert said.startswith("preds.csv, 30 rows: verified\n")
    for words in (
        "unchanged since it was written",
        "made by the model bundles/tiny",
        "made from these inputs, 30 cutouts",
        "a row for every input",
        "every id in its place",
        "30 rows drawn at random are scored or rejected again as they say",
        "their probabilities agree within 0",
    ):
        assert words in said


def edit(folder, change):
    lines = (folder / "preds.csv").read_text().splitlines(keepends=True)
    (folder / "preds.csv").write_text("".join(change(lines)))


def test_a_changed_byte_is_seen_by_the_receipt(copy):
    edit(copy, lambda lines: [*lines[:-1], lines[-1].replace("catalog/29", "catalog/30")])
    assert problems(copy, receipt=True) == [
        "changed since it was written",
        "row 30 is 'catalog/30.npy', the input there is 'catalog/29.npy'",
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: lines[:-1], "29 rows for 30 inputs"),
        (lambda lines: [*lines, lines[-1]], "31 rows for 30 inputs"),
        (lambda lines: [lines[0], *lines[2:], lines[1]], "row 1 is 'catalog/1.npy', the input"),
        (lambda lines: [*lines[:2], _numbers(lines[2], "0.5,0.25,0.5"), *lines[3:]], "1 rows with"),
        (lambda lines: [*lines[:2], _numbers(lines[2], "0.5,0.25,0.25"), *lines[3:]], "off by 0"),
    ],
)
def test_rows_that_are_not_right(copy, change, words):
    edit(copy, change)
    assert any(words in problem for problem in problems(copy)), words


def _numbers(line, numbers):
    """Give a row other probabilities, and the label that goes with them."""
    name, *_ = line.split(",")
    return f"{name},{numbers},no,ok,,0,\n"


def test_another_model_and_other_inputs(copy):
    tiny_model.make_bundle(copy / "bundles" / "other", parity={"float32": {}})
    write_catalog(copy / "more", 2, np.random.default_rng(1))
    found = problems(copy, "more", "--model", "bundles/other", receipt=True)
    assert found[0] == "made by another model than bundles/other: bundles/tiny"
    assert found[1] == "made from other inputs, 30 cutouts; these are 32"


def test_the_model_is_the_receipts_and_not_the_newest(copy):
    tiny_model.make_bundle(copy / "bundles" / "newer", classes=["a", "b", "c"])
    assert "made by the model bundles/tiny" in verified(copy).stdout
    (copy / "bundles" / "tiny").rename(copy / "moved")
    assert "made by another model than bundles/newer" in verified(copy, status=1).stdout


def test_inputs_that_changed_are_scored_otherwise(copy, rng):
    write_catalog(copy / "catalog", 1, rng)
    (copy / "catalog" / "5.npy").write_bytes(b"")
    found = problems(copy)
    assert "1 of 30 rows drawn at random are not; 'catalog/5.npy' was scored, is malformed" in found
    assert any("their probabilities are off by" in line for line in found)


def test_other_classes(copy):
    tiny_model.make_bundle(copy / "bundles" / "two", classes=["a", "b", "c"])
    found = problems(copy, "--model", "bundles/two")
    assert found == ["classes no, sphere, vort, the model's are a, b, c"]


def test_what_cannot_be_read_at_all(copy):
    (copy / "preds.csv").write_text("a,b\n1,2\n")
    done = verified(copy, status=1)
    assert "is not a whole output of lens-infer" in done.stderr
    done = command("lens-verify", "absent.csv", "catalog", cwd=copy, status=1)
    assert "cannot read absent.csv" in done.stderr
