"""What other readers find in a VOTable."""

import numpy as np
import pytest
from astropy.io import votable
from astropy.table import Table
from hypothesis import given
from tiny_rows import COLUMNS, rows, tables, write

from stronglens.engine.batches import Flag
from stronglens.engine.errors import InputError
from stronglens.engine.sinks import read_output
from stronglens.engine.sinks.escape import unescape


def parsed(path):
    """The rows as astropy reads them; anything that is not as the standard says is an error."""
    return votable.parse_single_table(path, verify="exception").to_table()


def test_astropy_reads_the_rows(tmp_path):
    carried = [["1.5", "-7", "<é> "], ["", "", ""], ["inf", "007", "a\nb"]]
    flags, share = [0, Flag.MISSING, Flag.SATURATED], [0.25, np.nan, 0]
    table = rows(["a&b", "🔭", "\udcff"], None, flags, share, carried)
    found = parsed(write(tmp_path / "preds.vot", table, COLUMNS))
    first, second, third = found
    assert tuple(first) == ("a&b", 0.75, 0.25, "lens", "ok", "", 0.25, "", 1.5, -7, "<é>\\x20")
    assert (second["id"], second["label"], second["status"]) == ("🔭", "", "rejected")
    for name in ("p_lens", "p_nonlens", "nan_frac", "RA", "n"):
        assert found[name].mask.tolist() == [False, True, False]
    assert third["id"] == r"\xff"
    assert tuple(third)[-3:] == (np.inf, 7, "a\\x0ab")
    assert found["p_lens"].dtype == np.float32
    assert found["id"].meta["ucd"] == "meta.id;meta.main"


@given(tables())
def test_astropy_and_we_read_the_same(tmp_path_factory, table):
    path = write(tmp_path_factory.mktemp("sink") / "preds.vot", table, COLUMNS)
    found = parsed(path)
    assert [unescape(name) for name in found["id"]] == table.ids
    assert [unescape(text) for text in found["catalogue_label"]] == [r[2] for r in table.carried]
    filled_B = np.ma.filled(found["p_lens"].astype(np.float32), np.nan)
    np.testing.assert_array_equal(filled_B, table.prob_BK[:, 0])


def test_tables_of_others_are_refused(tmp_path):
    path = tmp_path / "preds.xml"
    Table({"id": ["a"], "p_lens": [1.0]}).write(path, format="votable")
    with pytest.raises(
        InputError, match="columns found: id, p_lens; expected id, p_<class>, label"
    ):
        read_output(path)


def test_a_row_of_other_cells_is_refused(tmp_path):
    path = write(tmp_path / "preds.vot", rows(["a", "b"]))
    path.write_text(path.read_text().replace("<TD>b</TD>", ""))
    with pytest.raises(InputError, match="row 2: 7 fields instead of 8"):
        list(read_output(path))


def test_an_encoding_that_nobody_knows_is_refused(tmp_path):
    path = write(tmp_path / "preds.vot", rows(["a"]))
    path.write_text(path.read_text().replace("UTF-8", "UTF-m"))
    with pytest.raises(InputError, match="unknown encoding"):
        read_output(path)
