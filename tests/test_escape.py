"""Text comes back as it was, and is altered only where a format cannot hold it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_rows import IDS

from stronglens.engine.sinks.escape import FITS, PARQUET, XML, escape, escaping, unescape

PATTERNS = [escaping(special) for special in (PARQUET, XML, FITS)]


@pytest.mark.parametrize("pattern", PATTERNS, ids=["parquet", "xml", "fits"])
@given(text=IDS | st.text("\\x0af\udcff \n"))
def test_what_is_escaped_comes_back(pattern, text):
    escaped = escape(text, pattern)
    assert unescape(escaped) == text
    escaped.encode()  # is UTF-8


@given(st.from_regex(r"([!-\[\]-~ ]|\\[a-w])*[!-\[\]-~]", fullmatch=True))
def test_plain_names_are_left_alone(text):
    """Printable ASCII without blanks at the ends, with backslashes that begin no escape."""
    text = text.lstrip()
    assert [escape(text, pattern) for pattern in PATTERNS] == [text] * 3


@pytest.mark.parametrize(
    ("text", "parquet", "xml", "fits"),
    [
        ("C:\\new\\x", "C:\\new\\x", "C:\\new\\x", "C:\\new\\x"),
        ("\\x41", "\\\\x41", "\\\\x41", "\\\\x41"),
        ("\\\udcff", "\\\\\\xff", "\\\\\\xff", "\\\\\\xff"),
        ("é ", "é ", "é\\x20", "\\xc3\\xa9\\x20"),
        (" a\n", " a\n", "\\x20a\\x0a", " a\\x0a"),
    ],
)
def test_examples(text, parquet, xml, fits):
    assert [escape(text, pattern) for pattern in PATTERNS] == [parquet, xml, fits]
