"""What the user's inputs stand for: each is expanded into packed entries, in order."""

import glob
import os
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast

from stronglens.engine.batches import Column
from stronglens.engine.errors import CutoutError, InputError
from stronglens.engine.sources import tables
from stronglens.engine.sources.entries import Choice, Entry, Format, Many, ending, pack
from stronglens.engine.sources.formats import FORMATS, address
from stronglens.engine.sources.lists import names_in
from stronglens.engine.sources.walk import Walk

LOOKS = 256
"""inputs that are looked into, each by itself; of more, the first one speaks for all"""
SPECIAL = re.compile(r"[\0#*?[@]|^-$").search
"""finds what may make an input more than the name of a file"""
NO_COLUMNS = "[]"
"""what a row of a catalogue carries, where it has no column to carry: so it is known as a row"""


class Decided:
    """Which files of one input are looked into: as the first of each format turns out."""

    def __init__(self) -> None:
        self.many: dict[str, Many] = {each: form.MANY for each, form in FORMATS.items()}
        """by ending"""
        self._looks = 0

    def settle(self, form: Format, many: Many) -> None:
        """Take all files of a format for one cutout each, or for stacks."""
        self.many.update(dict.fromkeys(form.ENDINGS, many))

    def looked_in_vain(self, form: Format) -> None:
        """Note a file that told nothing; after many such files, no more are looked into."""
        self._looks += 1
        if self._looks >= LOOKS and form.MANY == "maybe":
            self.settle(form, "never")


@dataclass(slots=True)
class Inputs:
    """Expands inputs, and counts what it passes over."""

    choice: Choice
    null_separated: bool = False
    stdin: BinaryIO | None = None
    walk: Walk = field(default_factory=lambda: Walk(lambda name: ending(name) in FORMATS))
    columns: list[Column] | None = None
    """those of the catalogues; None where there is no catalogue"""
    may_repeat: bool = False
    """whether a cutout may have been named twice"""

    def expand(self, given: Sequence[str]) -> Iterator[str]:
        """Yield the packed entries that the inputs stand for.

        Raises:
            InputError: an input names nothing, or the user has to say what is meant.
        """
        self.may_repeat = len(given) > 1
        few, shared = len(given) <= LOOKS, Decided()
        for each in given:
            if not few and shared.many.get(ending(each)) == "never" and not SPECIAL(each):
                yield each
            else:
                yield from self._of_input(each, Decided() if few else shared, few)

    def _of_input(self, given: str, decided: Decided, few: bool) -> Iterator[str]:
        if "\0" in given:
            raise InputError(f"{given!r}: no file has a NUL in its name")
        path, inside = address(given)
        if ending(path.rstrip("/")) in FORMATS:  # a shell completes x.zarr to x.zarr/
            path = path.rstrip("/")
        kind = ending(path)
        if given == "-" or (given.startswith("@") and not os.path.lexists(given)):
            yield from self._of_list(given)
        elif glob.has_magic(path) and not os.path.lexists(path):
            yield from self._of_files(self.walk.matching(path), inside, Decided())
        elif kind in tables.ENDINGS and (few or kind not in FORMATS) and _is_catalogue(path):
            yield from self._of_catalogue(path)
        elif kind in FORMATS:
            yield from self._of_files([path], inside, decided)
        elif given and Path(given).is_dir():
            yield from self._of_files(self.walk.below(given), "", Decided())
        elif given and Path(given).exists():
            raise InputError(f"{given}: no format for the ending {kind!r}: {formats()}")
        else:
            raise InputError(f"{given}: no such file or folder")

    def _of_files(self, paths: Iterable[str], inside: str, decided: Decided) -> Iterator[str]:
        many = decided.many
        for path in paths:
            if not inside and many[ending(path)] == "never":
                yield path
            else:
                yield from self._of_file(path, inside, decided)

    def _of_file(self, path: str, inside: str, decided: Decided) -> Iterator[str]:
        """Look into a file. One that cannot be listed is a row, which will say why."""
        form = FORMATS[ending(path)]
        known = decided.many[ending(path)]
        try:
            found = form.entries(path, inside, self.choice)
            if known == "maybe" and not inside:
                decided.settle(form, "never" if found is None else "always")
            if found is None:
                yield pack(Entry(path, inside))
            else:
                yield from map(pack, self._listed(found, Entry(path, inside)))
        except CutoutError:
            decided.looked_in_vain(form)
            yield pack(Entry(path, inside))
        except InputError:
            if known == form.MANY:  # else an earlier file has told what these files are
                raise
            yield pack(Entry(path, inside))

    def _listed(self, found: Iterator[Entry], whole: Entry) -> Iterator[Entry]:
        """Yield the entries of a file, and count what it holds besides."""
        first = next(found, None)
        if first is not None:
            yield first
            passed_over = yield from cast(Generator[Entry, None, int | None], found)
            self.walk.skipped += passed_over or 0
        elif whole.inside:  # asked for by name: a row, which will say that it is no cutout
            yield whole
        else:
            self.walk.skipped += 1

    def _of_list(self, given: str) -> Iterator[str]:
        """List each name in a list as a file or a part of one; any other one is a row too."""
        self.may_repeat = True
        decided, known = Decided(), False
        for name in names_in(given, null_separated=self.null_separated, stdin=self.stdin):
            path, inside = address(name)
            if ending(path) in FORMATS:
                known = True
                yield from self._of_files([path], inside, decided)
            else:
                yield pack(Entry(name))
        if not known:
            raise InputError(f"nothing to read in {given}: {formats()}")

    def _of_catalogue(self, path: str) -> Iterator[str]:
        self.may_repeat = True
        catalogue = tables.open_catalogue(path)
        if self.columns not in (None, catalogue.columns):
            raise InputError(
                f"{path}: its columns are not those of the catalogue before: "
                f"{_named(catalogue.columns)}, expected {_named(self.columns or [])}; "
                "give them to one run each"
            )
        self.columns = catalogue.columns
        yield from map(pack, map(self._row, catalogue.entries()))

    def _row(self, entry: Entry) -> Entry:
        """Return a catalogue's row as a cutout: its path may name a part of a file."""
        path, inside = address(entry.path)
        found = Entry(path, inside)
        form = FORMATS.get(ending(path))
        if form and (form.MANY == "always" or inside):
            try:
                listed = list(islice(form.entries(path, inside, self.choice) or (), 2))
            except CutoutError:
                listed = []
            found = listed[0] if len(listed) == 1 else found
        whole = Entry(found.path, found.inside)
        name = "" if whole.id == entry.id else entry.id
        return replace(whole, name=name, carried=entry.carried or NO_COLUMNS)


def formats() -> str:
    """Return what the names of cutouts end in, in words."""
    return f"a cutout's name ends in {', '.join(FORMATS)}"


def _is_catalogue(path: str) -> bool:
    return os.path.lexists(path) and tables.is_catalogue(path)


def _named(columns: list[Column]) -> str:
    return ", ".join(f"{column.name} ({column.kind})" for column in columns) or "none"
