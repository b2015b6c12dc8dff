r"""Text that a format cannot hold, written so that it comes back as the same bytes.

    \xNN   the byte NN (two lower-case hexadecimal digits) of the text in UTF-8
    \\     a backslash, where a single one would be read as the begin of either of these

Everything else stands for itself: a backslash that begins neither is left alone, so a name is
altered only where it must be. A byte that is no UTF-8 is a surrogate escape in memory (as
`os.fsdecode` makes it) and that byte here.
"""

import re
from re import Pattern

PARQUET = "[\udc80-\udcff]"
"""what a parquet string cannot hold: bytes that are not UTF-8"""
XML = "[\x00-\x1f\x7f-\x9f\udc80-\udcff\ufffe\uffff]|\\A | \\Z"
"""what XML cannot hold or its readers change: control characters, blanks at the ends"""
FITS = "[^ -~]| \\Z"
"""what a FITS string cannot hold: all but printable ASCII, and blanks at its end"""

ESCAPED = re.compile(rb"\\(?:\\|x([0-9a-f]{2}))")
DESCRIPTION = r"in text, \xNN is the byte NN (hexadecimal) and \\ a backslash"


def escaping(special: str) -> Pattern[str]:
    """Return what `escape` alters, where `special` matches what the format cannot hold."""
    return re.compile(rf"\\(?=\\|x[0-9a-f]{{2}}|{special})|{special}")


def escape(text: str, pattern: Pattern[str]) -> str:
    """Return text that a format can hold, see `escaping`; `unescape` gives it back."""
    return pattern.sub(_escaped, text) if pattern.search(text) else text


def _escaped(match: re.Match[str]) -> str:
    if match[0] == "\\":
        return r"\\"
    return "".join(f"\\x{byte:02x}" for byte in match[0].encode("utf-8", "surrogateescape"))


def unescape(text: str) -> str:
    """Return the text that `escape` was given, whatever the format."""
    if "\\" not in text:
        return text
    data = ESCAPED.sub(_byte, text.encode("utf-8", "surrogateescape"))
    return data.decode("utf-8", "surrogateescape")


def _byte(match: re.Match[bytes]) -> bytes:
    return bytes.fromhex(match[1].decode()) if match[1] else b"\\"
