"""Outputs that were damaged, altered or are somebody else's are refused, and never half read."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tiny_rows import AWKWARD, COLUMNS, ENDINGS, FLAGS, mixed, rows, write

from stronglens.engine.errors import InputError
from stronglens.engine.sinks import read_output


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_no_output_is_refused(tmp_path, ending):
    path = tmp_path / f"preds{ending}"
    with pytest.raises(InputError, match=r"cannot read .*No such file"):
        read_output(path)
    for content in (b"", b"id,lens,label\n", b"\0\xff" * 3000):
        path.write_bytes(content)
        with pytest.raises(InputError, match="is not a whole output of lens-infer"):
            list(read_output(path))


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_output_that_was_cut_off_is_refused(tmp_path, ending):
    path = write(tmp_path / f"preds{ending}", rows([f"{i}.npy" for i in range(500)]))
    data = path.read_bytes()
    for size in (len(data) // 2, len(data) - 2881 if ending == ".fits" else len(data) - 1):
        path.write_bytes(data[:size])
        if ending == ".vot" and size == len(data) - 1:
            continue  # only the last line's end is gone
        with pytest.raises(InputError, match="is not a whole output of lens-infer"):
            list(read_output(path))


@pytest.fixture(scope="module", params=ENDINGS)
def whole(request, tmp_path_factory):
    """An output with a bit of everything, and its bytes."""
    flags = [FLAGS[i % len(FLAGS)] for i in range(len(AWKWARD))]
    table = rows(AWKWARD, None, flags, None, [["1.5", "2", "x"]] * len(AWKWARD))
    path = write(tmp_path_factory.mktemp("whole") / f"preds{request.param}", table, COLUMNS)
    return path, path.read_bytes()


@given(place=st.floats(0, 1), cut=st.integers(0, 100), put=st.binary(max_size=4))
@example(place=1.0, cut=0, put=b"\n")
def test_a_damaged_output_is_read_or_refused(whole, place, cut, put):
    path, data = whole
    begin = int(place * len(data))
    path.write_bytes(data[:begin] + put + data[begin + cut :])
    try:
        list(read_output(path))
    except InputError as err:
        assert str(path) in str(err)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("b.npy,,,,rejected", "b.npy,,,,ok", "b.npy: status is 'ok', its numbers say 'rejected'"),
        (",0.25,lens", ",0.25,nonlens", "a.npy: label is 'nonlens', its numbers say 'lens'"),
        ("constant,0.5", "empty,0.5", "d.npy: reason is 'empty', its numbers say 'constant'"),
        ("0.75", "x", "row 1: could not convert string to float: 'x'"),
        ("|constant", "|constent", "there is no 'constent'"),
        (",saturated\n", ",SATURATED\n", "there is no 'SATURATED'"),
        ("e.npy,", "", "row 5: 7 fields instead of 8"),
        ("e.npy,", "\ne.npy,", "row 5: 0 fields instead of 8"),
        ("0.75,0.25", "0.75,", "a.npy: its probabilities are not what its flags say"),
        ("b.npy,,", "b.npy,1,", "b.npy: its probabilities are not what its flags say"),
        ("0,saturated\n", '0,"saturated\n', "line 6: unexpected end of data"),
    ],
)
def test_an_altered_row_is_refused(tmp_path, old, new, why):
    path = write(tmp_path / "preds.csv", mixed())
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(
        InputError, match=r"preds\.csv is not a whole output.*" + why.replace("|", ".")
    ):
        list(read_output(path))
