"""Catalogues named as inputs: every row is a row, whatever its path means, with what it carries."""

import numpy as np
import pytest
from cutouts import flag_of, ids

from stronglens.engine.batches import Column, Flag
from stronglens.engine.errors import InputError
from stronglens.engine.sources import carried_of, open_source


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(3):
        np.save(f"{i}.npy", np.eye(4) + i)
    np.save("stack.npy", np.zeros((12, 4, 4)) + np.arange(12)[:, None, None])
    np.savez("one.npz", image=np.eye(4) + 7)
    np.savez("two.npz", a=np.eye(4) + 8, b=np.eye(4) + 9)
    return tmp_path


def catalogue(path, text):
    with open(path, "w", encoding="utf-8", newline="") as file:  # noqa: PTH123
        file.write(text)


def test_rows_carry_their_columns_and_repeats_are_kept():
    catalogue("cat.csv", 'ra,path,dec,note\n1.50,1.npy,-2,"a, b"\n2,0.npy,3,\n1.50,1.npy,-2,x\n')
    source = open_source(["cat.csv"])
    assert ids(source) == ["1.npy", "0.npy", "1.npy"]
    assert source.duplicates == 1
    assert source.columns == [Column("ra", "float"), Column("dec", "int"), Column("note", "text")]
    carried = [carried_of(entry) for entry in source.entries()]
    assert carried == [["1.50", "-2", "a, b"], ["2", "3", ""], ["1.50", "-2", "x"]]
    assert [cutout.read()[0, 1] for cutout in source] == [1, 0, 1]
    assert source.longest == {"id": 5, "ra": 4, "dec": 2, "note": 4}


def test_a_path_may_mean_a_part_of_a_file():
    given = ["stack.npy#3", "one.npz", "two.npz#b", "one.npz#image", "2.npy"]
    catalogue("cat.csv", "path\n" + "\n".join(given) + "\n")
    source = open_source(["cat.csv"])
    assert ids(source) == given
    assert [cutout.read()[0, 1] for cutout in source] == [3, 7, 9, 7, 2]


def test_what_is_no_cutout_is_a_rejected_row():
    given = {
        "absent.npy": Flag.MISSING,
        "stack.npy#99": Flag.MISSING,
        "two.npz": Flag.SHAPE,
        "two.npz#c": Flag.MISSING,
        "absent.npz#c": Flag.MISSING,
        "absent.tar": Flag.MISSING,
        "stack.npy": Flag.OK,
        "cat.csv": Flag.UNREADABLE,
        "absent": Flag.MISSING,
        "2.npy#1": Flag.MISSING,
    }
    catalogue("cat.csv", "path\n" + "\n".join(given) + "\n")
    source = open_source(["cat.csv"])
    assert ids(source) == list(given)
    for cutout, flag in zip(source, given.values(), strict=True):
        if flag:
            assert flag_of(cutout) == flag, cutout.id
        else:
            assert cutout.read().shape == (12, 4, 4)  # which prepare takes for no image


def test_paths_lie_beside_the_catalogue(folder):
    (folder / "sub").mkdir()
    (folder / "0.npy").rename(folder / "sub" / "0.npy")
    catalogue("sub/cat.csv", f"file,z\n0.npy,1\n{folder}/1.npy,2\n")
    source = open_source(["sub/cat.csv"])
    assert [cutout.read()[0, 1] for cutout in source] == [0, 1]


def test_a_catalogue_beside_other_inputs():
    catalogue("cat.csv", "path,z\n1.npy,1\n1.npy,2\n")
    source = open_source(["0.npy", "1.npy", "cat.csv", "1.npy", "2.npy"])
    assert ids(source) == ["0.npy", "1.npy", "1.npy", "1.npy", "2.npy"]
    assert source.duplicates == 3
    assert [carried_of(entry) for entry in source.entries()] == [[], [], ["1"], ["2"], []]


def test_catalogues_have_the_same_columns():
    catalogue("a.csv", "path,z\n0.npy,1\n")
    catalogue("b.csv", "path,z\n1.npy,1\n")
    catalogue("c.csv", "path,ra\n1.npy,1\n")
    assert ids(open_source(["a.csv", "b.csv"])) == ["0.npy", "1.npy"]
    with pytest.raises(InputError, match=r"c\.csv: its columns .* ra \(int\), expected z \(int\)"):
        open_source(["a.csv", "c.csv"])


def test_a_catalogue_in_a_folder_is_no_input():
    catalogue("cat.csv", "path\n0.npy\n")
    source = open_source(["."])
    assert "cat.csv" not in " ".join(ids(source))
    assert source.skipped == 1


def test_a_catalogue_among_many_inputs_is_still_one():
    catalogue("cat.csv", "path,z\n0.npy,1\n")
    source = open_source([*(f"absent/{i}.npy" for i in range(300)), "cat.csv"])
    assert ids(source)[-1] == "0.npy"


def test_the_digest_covers_what_rows_carry():
    rows = "".join(f"absent/{i}.npy,{i}\n" for i in range(50))
    catalogue("cat.csv", "path,z\n" + rows)
    digest = open_source(["cat.csv"]).digest
    assert open_source(["cat.csv"]).digest == digest
    catalogue("cat.csv", "path,z\n" + rows.replace("49\n", "48\n"))
    assert open_source(["cat.csv"]).digest != digest
