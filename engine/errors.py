"""All errors this package raises on purpose.

LensError             command-line tools print it without a traceback and exit 1
├── ConfigError       a setting is unknown, missing or out of range
├── InputError        a whole input cannot be read
├── BundleError       a model bundle is malformed, altered or too new
├── BackendError      a runtime is missing, or failed while running
└── TooManyRejectedError    more cutouts were rejected than the user bears

CutoutError           one cutout cannot be used; the feed turns it into a rejected row

A bad *cutout* never stops a run, so `CutoutError` is not a `LensError`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # batches needs numpy, which a command can explain itself without
    from stronglens.engine.batches import Flag


class LensError(Exception):
    """Base class; says what was wrong, what was found and what to do."""


class ConfigError(LensError):
    """A setting is unknown, missing or out of range."""


class InputError(LensError):
    """A whole input (a folder, a pattern, a data set) cannot be read."""


class BundleError(LensError):
    """A model bundle is malformed, altered or too new."""


class BackendError(LensError):
    """A runtime is missing, cannot do what was asked, or failed while running."""


class TooManyRejectedError(LensError):
    """More cutouts were rejected than the user bears; the run has stopped."""


class CutoutError(Exception):
    """One cutout cannot be used: `flag` is the reason its row will give."""

    def __init__(self, flag: "Flag", detail: str = "") -> None:
        super().__init__(detail or flag.name)
        self.flag = flag
