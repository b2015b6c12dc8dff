"""Plans kept on the machine that built them, for whoever built them.

A plan is machine code: one that somebody else could have written is not read, and one that
does not fit the GPU, the TensorRT and the graph at hand to the letter is not used.

A file is a first line, a line of JSON that says what it is for, and what was built.
"""

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stronglens.engine.errors import BackendError

FIRST_LINE = b"stronglens plan 1\n"
FORMAT = 1
"""in every key: raise it when the same graph is to be compiled otherwise"""
# Neither follow a link nor wait for a pipe; Windows has no such flags.
READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
READ |= getattr(os, "O_BINARY", 0)
OTHERS = 0o077
"""what nobody but the owner may do with the folder"""
WRITE = 0o022
"""what nobody but the owner may do with a file"""

Key = Mapping[str, Any]
"""what a file is for, as JSON has it: "kind", and all that another build would depend on"""


@dataclass(frozen=True, slots=True)
class Kept:
    """A file of the cache."""

    path: Path
    bytes: int
    key: dict[str, Any]
    """empty: not a file of ours"""


def cache_folder() -> Path:
    """Return where plans are kept: $XDG_CACHE_HOME/stronglens, else ~/.cache/stronglens."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "stronglens"


def recall(key: Key) -> bytes | None:
    """Return what was kept under a key; None where there is nothing that can be used.

    Raises:
        BackendError: the folder or the file is not this user's alone.
    """
    folder, name = cache_folder(), _name(key)
    if not os.path.lexists(folder):
        return None
    _require_private(folder)
    try:
        with open(folder / name, "rb", opener=lambda path, _: os.open(path, READ)) as file:
            _require_ours(folder / name, os.fstat(file.fileno()), stat.S_ISREG)
            found, digest, content = _parse(file.read())
    except FileNotFoundError:
        return None
    except OSError as err:  # ELOOP: a link
        raise BackendError(f"{folder / name} cannot be read ({err}): delete it") from err
    intact = hashlib.sha256(content).hexdigest() == digest
    return content if intact and found == _as_json(key) else None


def keep(key: Key, content: bytes) -> Path:
    """Write what was built under a key, whole or not at all; return the folder.

    Raises:
        BackendError: the folder is not this user's alone.
        OSError: it cannot be written.
    """
    folder = cache_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _require_private(folder)
    about = {"key": _as_json(key), "sha256": hashlib.sha256(content).hexdigest()}
    handle, temporary = tempfile.mkstemp(prefix=".", dir=folder)  # 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(FIRST_LINE + json.dumps(about).encode() + b"\n" + content)
        Path(temporary).replace(folder / _name(key))
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return folder


def contents() -> Iterator[Kept]:
    """Yield what the cache holds, sorted by name.

    Raises:
        BackendError: the folder is not this user's alone.
        OSError: it cannot be read.
    """
    folder = cache_folder()
    if not os.path.lexists(folder):
        return
    _require_private(folder)
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                key, _, _ = _parse(file.read(1 << 16))
            yield Kept(path, path.stat().st_size, key)
        else:
            yield Kept(path, 0, {})


def _name(key: Key) -> str:
    digest = hashlib.sha256(json.dumps(_as_json(key)).encode()).hexdigest()
    return f"{key['kind']}-{digest[:32]}"


def _as_json(key: Key) -> dict[str, Any]:
    """Return a key as it is after it was written and read: sorted, without tuples."""
    whole: dict[str, Any] = json.loads(json.dumps({**key, "format": FORMAT}, sort_keys=True))
    return whole


def _parse(whole: bytes) -> tuple[dict[str, Any], str, bytes]:
    """Return the key, the recorded sha256 and the content of a file; no key: not one of ours."""
    first, _, rest = whole.partition(b"\n")
    about, _, content = rest.partition(b"\n")
    try:
        parsed = json.loads(about) if first + b"\n" == FIRST_LINE else {}
        return dict(parsed["key"]), str(parsed["sha256"]), content
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}, "", b""


def _require_private(folder: Path) -> None:
    found = os.lstat(folder)
    _require_ours(folder, found, stat.S_ISDIR)
    if os.name == "posix" and found.st_mode & OTHERS:
        raise BackendError(
            f"{folder} is open to others (mode {stat.S_IMODE(found.st_mode):o}), and would hold "
            f"machine code: look at what is in it, then chmod 700 {folder}"
        )


def _require_ours(path: Path, found: os.stat_result, is_kind: Callable[[int], bool]) -> None:
    """Refuse links, other kinds of file, what belongs to others and files that they may write."""
    ours = os.name != "posix" or found.st_uid == os.getuid()
    safe = os.name != "posix" or stat.S_ISDIR(found.st_mode) or not found.st_mode & WRITE
    if not (is_kind(found.st_mode) and ours and safe):
        raise BackendError(
            f"{path} is a link, or not this user's alone, and would hold machine code: delete it"
        )
