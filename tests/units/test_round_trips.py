"""A request survives a WebUI's text and a picture's metadata: what is read is what was written."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from controlstack.core.resize import ResizeMode
from controlstack.core.reuse.said import Level, Reuse
from controlstack.core.schedule import Easing, Keyframe, RangeBasis
from controlstack.core.unit import ControlMode
from controlstack.units.blocks import BlockWeights
from controlstack.units.choices import HiresOption
from controlstack.units.record import from_record, to_record
from controlstack.units.request import FIELDS, UnitRequest, read_request
from controlstack.units.webui import infotext
from controlstack.units.webui.fields import args_of, parse_unit, request_of

CURVE = (Keyframe(at=0, weight=1), Keyframe(at=1 / 3, weight=-0.1, easing=Easing.EASE_IN), Keyframe(at=1, weight=1e-7))
REQUESTS: list[dict[str, Any]] = [
    {},
    {"model": "a, b: 50% c [12345678]"},
    {"preprocessor": "canny"},
    {"preprocessor": "canny", "resolution": 512},
    {"preprocessor": "canny", "resolution": 4096},
    {"preprocessor": "canny", "resolution": 17},
    {"preprocessor": "canny", "pixel_perfect": True},
    {"preprocessor": "canny", "parameters": {"low": 50}},
    {"preprocessor": "canny", "parameters": {"high": 199, "low": 1}},
    {"preprocessor": "canny", "parameters": {"low": 300}},
    {"preprocessor": "lineart_standard", "parameters": {"sigma": 3.0625, "threshold": 9}},
    {"preprocessor": "tile_resample", "resolution": 768},
    {"preprocessor": "tile_resample"},
    {"preprocessor": "tile_resample", "pixel_perfect": True},
    {"preprocessor": "inpaint_only", "pixel_perfect": True},
    {"preprocessor": "auto", "pixel_perfect": True},
    {"preprocessor": "shuffle", "seed": 0},
    {"preprocessor": "shuffle", "seed": 2**40},
    {"preprocessor": "auto"},
    {"preprocessor": "auto", "resolution": 768},
    {"weight": 1 / 3},
    {"weight": -3.0},
    {"weight": 10.0},
    {"weight": 0.0},
    {"start": 0.1, "end": 0.7000000000000001},
    *({"basis": each, "end": 0.5} for each in RangeBasis),
    {"curve": CURVE},
    *({"mode": each} for each in ControlMode),
    *({"resize": each} for each in ResizeMode),
    *({"hires": each} for each in HiresOption),
    {"block_weights": BlockWeights(numbers=(1.0, 0.1, 1 / 3)), "weight": 0.5},
    {"block_weights": BlockWeights(base=0.825), "weight": 0.7, "mode": ControlMode.CONTROL},
    {"block_weights": BlockWeights(shape="all but the middle")},
    {"options": {"union_control_type": "Soft Edge"}},
    {
        "options": {
            "union_control_type": "of a later day",
            "share": 0.5,
            "on": True,
            "text": "1; %3B, true: x",
            "n": "1",
        }
    },
    {"delta_strength": 0.125},
    {"uncond_weight": 0.25},
    {"reuse": Reuse(level=Level.STRONG)},
    {"reuse": Reuse(steps=(0,))},
    {"reuse": Reuse(steps=(0, 1, 12))},
    {"reuse": Reuse(steps=(0, 1, 12), shallow=frozenset({1, 12}))},
    {"reuse": Reuse(change=1 / 3)},
]


@pytest.mark.parametrize("said", REQUESTS, ids=str)
@pytest.mark.parametrize("basis", RangeBasis)
@pytest.mark.parametrize("blocks", [None, 13])
def test_a_request_survives_a_webuis_text(said: dict[str, Any], basis: RangeBasis, blocks: int | None) -> None:
    request = UnitRequest(**said)
    text = infotext.write_unit(args_of(request, side=640), basis, blocks)
    assert request_of(parse_unit(infotext.read_unit(text), basis)) == request


@pytest.mark.parametrize("said", REQUESTS, ids=str)
def test_a_request_survives_a_pictures_metadata(said: dict[str, Any]) -> None:
    request = UnitRequest(**said)
    assert from_record(json.loads(json.dumps(to_record(request)))) == request


def test_pictures_survive_a_pictures_metadata() -> None:
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 256, (3, 4, 5, 3), np.uint8)
    said = read_request({"mask": "folder/mask.png"}, image=batch, inpaint_mask=batch[0, ..., 0])
    read = from_record(json.loads(json.dumps(to_record(said))))
    assert read == said
    assert read != read_request({"mask": "folder/mask.png"}, image=batch[:1], inpaint_mask=batch[0, ..., 0])


@pytest.mark.parametrize("said", REQUESTS, ids=str)
def test_every_field_survives_its_own_text(said: dict[str, Any]) -> None:
    request = UnitRequest(**said)
    written = {name: FIELDS[name].write(value) for name in said if (value := getattr(request, name)) is not None}
    assert read_request(written) == request


def test_other_programs_read_block_weights_with_the_weight_in_them() -> None:
    request = UnitRequest(weight=0.5, block_weights=BlockWeights(numbers=(1.0, 0.5)))
    text = infotext.write_unit(args_of(request))
    assert "Weight: 0.5" in text and "Advanced Weighting: 0.5 0.25" in text
    theirs = ", ".join(part for part in text.split(", ") if not part.startswith("Block Weights"))
    read = request_of(parse_unit(infotext.read_unit(theirs)))
    assert (read.weight, read.block_weights) == (1.0, BlockWeights(numbers=(0.5, 0.25)))


def test_old_texts_and_clients_mean_that_block_weights_replace_the_weight() -> None:
    client = parse_unit({"enabled": True, "weight": 0.5, "advanced_weighting": [1, 0.5]})
    for args in (client, parse_unit(infotext.read_unit(infotext.write_unit(client)))):
        request = request_of(args)
        assert (request.weight, request.block_weights) == (1.0, BlockWeights(numbers=(1.0, 0.5)))


@pytest.mark.parametrize(("module", "perfect"), [("canny", True), ("tile_resample", False), ("inpaint_only", False)])
def test_what_has_its_own_size_there_is_not_pixel_perfect(module: str, perfect: bool) -> None:
    for said in ({"pixel_perfect": True}, {"pixel_perfect": True, "processor_res": 768}):
        request = request_of(parse_unit({"enabled": True, "module": module, **said}))
        assert (request.pixel_perfect, request.resolution) == (perfect, None)
