"""What a unit says without effect is told, and nothing is told of what acts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from controlstack.preprocessors import REGISTRY
from controlstack.units.convention import warning
from controlstack.units.request import UnitRequest
from controlstack.units.unread import unread

PICTURE = np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"preprocessor": "canny", "seed": 5}, "canny uses no random numbers, so seed=5 changes nothing: leave it out"),
        ({"preprocessor": "canny", "resolution": 64}, ""),
        ({"preprocessor": "shuffle", "seed": 0}, ""),
        (
            {"resolution": 64},
            "none works at the picture's own size, so resolution=64 changes nothing: leave it out",
        ),
        ({"preprocessor": "invert", "pixel_perfect": True}, ""),
        ({}, ""),
    ],
)
def test_what_a_preprocessor_does_not_read(said: dict[str, Any], told: str) -> None:
    request = UnitRequest(**said)
    assert unread(request) == told
    assert warning(request, "", PICTURE) == told


def test_both_are_told() -> None:
    told = unread(UnitRequest(seed=0, resolution=64))
    assert "seed=0 changes nothing" in told and "; none works" in told


def test_a_resolution_that_is_said_to_change_nothing_changes_nothing() -> None:
    """Of every preprocessor that runs without weights: what it declares is what it does."""
    picture = np.random.default_rng(0).integers(0, 256, (48, 40, 3), np.uint8)
    for each in REGISTRY:
        if each.networks or each.refusal or each.by_model:
            continue
        mask = {"mask": np.full((48, 40), 255, np.uint8)} if each.takes_mask else {}
        small = each(picture, resolution=24, **mask)
        if each.resizes:
            assert small.shape[:2] != each(picture, **mask).shape[:2], each.id
        else:
            assert np.array_equal(small, each(picture, **mask)), each.id
