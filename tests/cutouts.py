"""What tests ask of the cutouts of a source."""

import pytest

from stronglens.engine.errors import CutoutError


def ids(source):
    return [cutout.id for cutout in source]


def flag_of(cutout):
    """Why a cutout cannot be read."""
    with pytest.raises(CutoutError) as caught:
        cutout.read()
    return caught.value.flag


def flags_of(source):
    return [flag_of(cutout) for cutout in source]
