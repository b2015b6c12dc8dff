"""Find files in folders and by patterns, in natural order, without holding their names."""

import fnmatch
import glob
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from stronglens.engine.errors import InputError
from stronglens.engine.sources.names import in_order, named, natural

Above = tuple[tuple[int, int], ...]
"""The folders around one, as the system numbers them, so that no link makes a loop"""
States = frozenset[int]
"""Which parts of a pattern the next name on a path may match; one pattern can match in many ways"""


@dataclass(slots=True)
class Walk:
    """Finds files, and counts those that it passes over."""

    wanted: Callable[[str], bool]
    """whether a file's name is one to find"""
    skipped: int = 0
    """hidden files and folders, and files of other names"""

    def below(self, folder: str, above: Above = ()) -> Iterator[str]:
        """Yield the paths of the files in a folder and in all its folders.

        Raises:
            InputError: a folder cannot be listed.
        """
        prefix, inside = _enter(folder, above)
        for name in _sorted_names(folder, self._keep) if inside else ():
            if self.wanted(name):
                yield prefix + name
            else:
                yield from self.below(prefix + name, inside)

    def _keep(self, entry: os.DirEntry[str]) -> bool:
        keep = not entry.name.startswith(".") and (self.wanted(entry.name) or _is_folder(entry))
        self.skipped += not keep
        return keep

    def matching(self, pattern: str) -> Iterator[str]:
        """Yield the paths that match a pattern, and the files below each folder that does.

        `*`, `?` and `[…]` stand for part of a name, `**` for any number of folders; a hidden
        name is matched by a part that begins with a dot.

        Raises:
            InputError: nothing matches, or a folder cannot be listed.
        """
        folder, parts = _split(pattern)
        match = Match(parts)
        yield from self._matching(folder, match, match.start(), ())
        if not match.any:
            raise InputError(f"{pattern}: nothing matches this pattern")

    def _matching(self, folder: str, match: "Match", states: States, above: Above) -> Iterator[str]:
        def keep(entry: os.DirEntry[str]) -> bool:
            after = match.after(states, entry.name)
            if match.end not in after:
                return bool(after) and _is_folder(entry)
            match.any = True
            keep = self.wanted(entry.name) or _is_folder(entry)
            self.skipped += not keep
            return keep

        prefix, inside = _enter(folder, above)
        for name in _sorted_names(folder, keep) if inside else ():
            after = match.after(states, name)
            if match.end not in after:
                yield from self._matching(prefix + name, match, after, inside)
            elif self.wanted(name):
                yield prefix + name
            else:
                yield from self.below(prefix + name, inside)


class Match:
    """Tells how far the names on a path match the parts of a pattern."""

    def __init__(self, parts: list[str]) -> None:
        self._parts = parts
        self._matchers = [re.compile(fnmatch.translate(part)).match for part in parts]
        self.end = len(parts)
        """the state after all parts"""
        self.any = False
        """whether any path has matched"""

    def start(self) -> States:
        """Return the states before the first name."""
        return self._passing({0})

    def after(self, states: States, name: str) -> States:
        """Return the states after one more name; none where it matches nothing."""
        hidden = name.startswith(".")
        found = set()
        for i in states - {self.end}:
            part = self._parts[i]
            if part == "**" and not hidden:
                found |= {i, self.end} if i + 1 == self.end else {i}
            elif self._matchers[i](name) and (not hidden or part.startswith(".")):
                found.add(i + 1)
        return self._passing(found)

    def _passing(self, states: set[int]) -> States:
        """Add what follows each `**`, since it may stand for no folder at all."""
        for i, part in enumerate(self._parts[:-1]):
            if part == "**" and i in states:
                states.add(i + 1)
        return frozenset(states)


def _split(pattern: str) -> tuple[str, list[str]]:
    """Return the folder that a pattern begins in, "" for the current one, and its other parts."""
    parts = pattern.split("/")
    if not parts[-1]:
        parts[-1] = "**"  # the folders that match, so all that is in them
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return "/".join([*parts[:first], ""]), [part for part in parts[first:] if part]


def _sorted_names(folder: str, keep: Callable[[os.DirEntry[str]], bool]) -> Iterator[str]:
    """Yield the names that `keep` keeps of a folder's entries, in natural order."""
    try:
        with os.scandir(folder or ".") as entries:
            yield from map(named, in_order(natural(each.name) for each in entries if keep(each)))
    except OSError as err:
        raise InputError(f"{folder or '.'}: {err.strerror}") from err


def _enter(folder: str, above: Above) -> tuple[str, Above]:
    """Return what the paths in a folder begin with, and `above` with it; () where it is there."""
    try:
        status = os.stat(folder or ".")  # noqa: PTH116 - it keeps the path as given
    except OSError as err:
        raise InputError(f"{folder or '.'}: {err.strerror}") from err
    key = (status.st_dev, status.st_ino)
    return os.path.join(folder, ""), () if key in above else (*above, key)  # noqa: PTH118


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to where nobody may look
        return False
