"""Options of a family in a unit: told by words, by the preprocessor, or not at all; and several hints of a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from controlstack.core.control import ControlModel
from controlstack.core.errors import HintError, UnitError
from controlstack.core.options import Option
from controlstack.models.families.controlnet.config import Block, ControlNetConfig
from controlstack.models.families.union import UnionModel, UnionNet
from controlstack.models.kinds.unions import OPTION
from controlstack.models.layers import Kit
from controlstack.preprocessors import offered
from controlstack.preprocessors.images import write_image
from controlstack.units.hint import beside_each_other
from controlstack.units.make import make
from controlstack.units.offer import shown_by
from controlstack.units.options import bound
from controlstack.units.ready import ready
from controlstack.units.record import from_record, to_record
from controlstack.units.request import UnitRequest, read_request
from controlstack.units.webui.fields import args_of, parse_unit, request_of

NUMBER = Option(name="share", label="Share", meaning="how much", default=0.5, least=0.0, most=1.0)
SWITCH = Option(name="deep", label="Deep", meaning="whether", default=False)
CHOICE = Option(name="kind", label="Kind", meaning="which", default="one", words={"one": ("1",), "two": ("Twice",)})


@pytest.fixture
def union() -> UnionModel:
    config = ControlNetConfig(
        channels=8, blocks=(Block(8, 1), Block(8, down=True)), middle_depth=1, context=12, heads=2, groups=4,
        hint_stem=(4,) * 7,
    )  # fmt: skip
    return UnionModel(UnionNet(config, kinds=8, sinusoids=4, layers=1, kit=Kit(groups=4)), name="union")


def told(
    model: ControlModel, preprocessor: str = "none", options: Mapping[str, str] | None = None
) -> dict[str, object]:
    return dict(bound(UnitRequest(preprocessor=preprocessor, options=options or {}), model).options)


@pytest.mark.parametrize(
    ("option", "said", "read"),
    [
        (NUMBER, "0.25", 0.25), (NUMBER, 1, 1.0), (SWITCH, True, True), (CHOICE, "TWICE", "two"), (CHOICE, 1, "one"),
        (CHOICE, "two/twice", "two"),
    ],
)  # fmt: skip
def test_values_are_read(option: Option, said: object, read: object) -> None:
    assert option.read(said) == read


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (NUMBER, 1.5), (NUMBER, "nan"), (NUMBER, True), (NUMBER, "much"), (NUMBER, None), (SWITCH, "yes"), (SWITCH, 1),
        (CHOICE, "three"), (CHOICE, "one+two"), (CHOICE, "one/two"), (CHOICE, ""),
    ],
)  # fmt: skip
def test_what_an_option_does_not_take_is_refused_by_what_it_takes(option: Option, said: object) -> None:
    with pytest.raises(UnitError, match=f"^{option.name} is '.*', expected "):
        option.read(said)


@pytest.mark.parametrize(
    ("preprocessor", "kind"),
    [
        ("canny", "canny"), ("mlsd", "canny"), ("lineart_anime", "canny"), ("depth_anything_v2", "depth"),
        ("dwpose", "openpose"), ("hed", "softedge"), ("scribble_xdog", "softedge"), ("normal_bae", "normal"),
        ("oneformer_ade20k", "segmentation"), ("tile_resample", "tile"), ("inpaint_only", "repaint"),
    ],
)  # fmt: skip
def test_the_preprocessor_tells_what_the_hint_shows(union: UnionModel, preprocessor: str, kind: str) -> None:
    assert told(union, preprocessor) == {OPTION: kind}


def test_preprocessors_that_show_nothing_of_a_union_tell_nothing(union: UnionModel) -> None:
    silent = {each.id for each in offered() if shown_by(each.id, union.offers[0]) is None}
    assert {"none", "shuffle", "recolor_luminance"} <= silent
    assert told(union, "none") == {}


def test_words_count_more_than_the_preprocessor(union: UnionModel) -> None:
    assert told(union, "canny", {OPTION: "depth"}) == {OPTION: "depth"}
    assert told(union, "canny", {OPTION: "auto"}) == {}
    before = union.bind({OPTION: "tile"})  # by a host, before the unit is made
    assert told(before, "canny") == {OPTION: "tile"}
    assert told(before, "canny", {OPTION: "depth"}) == {OPTION: "depth"}


def test_hints_of_several_kinds_lie_beside_each_other_for_each_picture(union: UnionModel) -> None:
    request = UnitRequest(options={OPTION: "depth+canny"})
    shades = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 3, 16, 16) / 10
    assert make(request, shades[:1], union).hint.equal(shades[:1])
    one = make(request, shades[:2], union).hint
    assert one[:, :, 0, 0].tolist() == [pytest.approx([0.0] * 3 + [0.1] * 3)]
    two = make(request, shades, union).hint
    assert two[:, ::3, 0, 0].tolist() == [pytest.approx([0.0, 0.2]), pytest.approx([0.1, 0.3])]
    with pytest.raises(HintError, match=r"'union' reads 2 hints of each picture, as union_control_type=depth\+canny"):
        make(request, shades[:3], union)
    assert len(make(UnitRequest(options={OPTION: "depth"}), shades, union).hint) == 4


def test_several_files_of_a_unit_are_its_hints_in_order(union: UnionModel, tmp_path: Path) -> None:
    shades = (50, 150)
    files = [tmp_path / f"{shade}.png" for shade in shades]
    for file, shade in zip(files, shades, strict=True):
        write_image(file, np.full((16, 16, 3), shade, np.uint8))
    said = {"image": f"{files[0]} | {files[1]}", "options": f"{OPTION}=depth+canny", "model": "union"}
    request = read_request(said)
    assert request.image == tuple(files)
    made = ready(request, union, None)
    assert (made.unit.hint[0, ::3, 0, 0] * 255).round().tolist() == list(shades)
    assert from_record(json.loads(json.dumps(to_record(request)))) == request
    assert beside_each_other(made.hint).shape == (16, 32, 3)
    write_image(files[1], np.zeros((16, 24, 3), np.uint8))
    with pytest.raises(UnitError, match=r"'.*150.png' is 24x16, '.*50.png' of the same unit 16x16"):
        ready(request, union, None)


@pytest.mark.parametrize(
    ("said", "label"), [("Depth", "Depth"), ("depth", "Depth"), ("mlsd", "Hard Edge"), ("repaint", "Inpaint")]
)
def test_other_programs_read_a_single_kind_in_their_words(said: str, label: str) -> None:
    """And ours is read back as it was said."""
    request = UnitRequest(preprocessor="none", options={OPTION: said})
    args = args_of(request)
    assert args.union_control_type.value == label
    assert request_of(args).options == request.options


def test_several_kinds_are_written_as_an_option(union: UnionModel) -> None:
    request = UnitRequest(options={OPTION: "depth+tile:0.5"})
    args = args_of(request)
    assert args.union_control_type.value == "Unknown"
    assert request_of(args).options == request.options


@pytest.mark.parametrize("said", ["Hard Edge", "canny", "mlsd", 3, "3"])
def test_clients_say_a_kind_in_any_words(union: UnionModel, said: object) -> None:
    args = parse_unit({"enabled": True, "union_control_type": said})
    assert bound(request_of(args), union).options == {OPTION: "canny"}


def test_only_models_of_one_network_told_the_same_are_computed_together(union: UnionModel) -> None:
    class Bare(ControlModel):
        """A model without a network."""

        network = None

    assert Bare().sameness != Bare().sameness
    assert union.bind({OPTION: "depth"}).sameness == union.bind({OPTION: "Depth:1"}).sameness
    assert len({union.bind({OPTION: kind}).sameness for kind in ("depth", "canny", "depth+canny", "auto")}) == 4
