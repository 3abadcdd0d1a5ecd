"""What other extensions take from `external_code`: the names, and the calls as they make them."""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from controlstack.core.errors import UnitError
from controlstack.core.resize import ResizeMode
from controlstack.core.unit import ControlMode
from controlstack.models.families.controlnet import network
from controlstack.scripts.webui.clients import external
from controlstack.scripts.webui.host.foreign import EmptySlot
from controlstack.scripts.webui.page.page_script import PageHooks
from controlstack.scripts.webui.request.arguments import (
    FIELDS,
    SLOTS,
    as_units,
    empty_slots,
    misspelt,
    raw_units,
    units_of,
    unsaid,
)
from controlstack.units.webui.fields import InputMode, UnitArgs

NAMES = {  # read in the sources of these extensions
    "ADetailer": "get_models ControlNetUnit ControlMode.BALANCED update_cn_script_in_processing",
    "Deforum": "get_models get_modules get_modules_detail ControlNetUnit update_cn_script_in_processing",
    "Inpaint Anything": "is_cn_script to_processing_unit ResizeMode.RESIZE get_modules update_cn_script_in_processing",
    "AnimateDiff": "find_cn_script get_all_units_in_processing ControlModelType.IPAdapter "
    "ControlModelType.Controlllite",
    "Replacer": "to_processing_unit get_models ResizeMode.OUTER_FIT HWC3 ControlNetUiGroup.a1111_context "
    "ControlNetUiGroup.all_ui_groups",
    "others": "get_all_units get_all_units_from get_single_unit_from get_max_models_num update_cn_script "
    "update_cn_script_in_place pixel_perfect_resolution resize_mode_from_value to_base64_nparray get_api_version "
    "InputMode.SIMPLE InputMode.BATCH InputMode.MERGE HiResFixOption.BOTH ControlNetUnionControlType.UNKNOWN",
}


@pytest.mark.parametrize("client", NAMES)
def test_the_names_that_others_use_are_there(client: str) -> None:
    for name in NAMES[client].split():
        found: Any = external
        for part in name.split("."):
            found = getattr(found, part)
        assert not inspect.isfunction(found) or found.__doc__


def test_tiled_diffusion_finds_the_class_by_which_it_knows_us() -> None:
    assert isinstance(network.ControlNet, type) and external.NETWORKS == "scripts.cldm"


class Script:
    """A script as the host keeps it."""

    def __init__(self, title: str, args_from: int, count: int) -> None:
        self._title, self.args_from, self.args_to = title, args_from, args_from + count

    def title(self) -> str:
        return self._title


@dataclass
class Runner:
    alwayson_scripts: list[Script] = field(
        default_factory=lambda: [
            Script("Seed", 1, 3),
            Script("ControlNet", 4, SLOTS),
            Script("After", SLOTS + 4, 1),
        ]
    )


@dataclass
class Processing:
    """A request; its arguments are a tuple for some callers and a list for others."""

    script_args: Any
    scripts: Runner = field(default_factory=Runner)


def arguments() -> list[Any]:
    return [0, "seed", -1, False, *empty_slots(), "after"]


def unit(**settings: Any) -> external.ControlNetUnit:
    return external.ControlNetUnit(enabled=True, model="canny", **settings)


@pytest.mark.parametrize("kind", [tuple, list])
def test_units_are_put_into_a_request_and_others_keep_their_places(kind: type) -> None:
    p = Processing(kind(arguments()))
    external.update_cn_script_in_processing(p, [unit(weight=0.5), unit()], is_img2img=True, is_ui=False)
    assert isinstance(p.script_args, kind) and len(p.script_args) == len(arguments())
    assert [*p.script_args[:4], *p.script_args[-1:]] == [0, "seed", -1, False, "after"]
    assert [each.weight for each in external.get_all_units_in_processing(p)] == [0.5, 1.0]
    found = units_of(p.script_args[4 : 4 + SLOTS])
    assert [each.weight for each in found] == [0.5, 1.0]


def test_no_units_switch_those_of_the_page_off() -> None:
    p = Processing(arguments())
    external.update_cn_script_in_processing(p, [])
    assert units_of([*p.script_args[4 : 4 + SLOTS], *page(enabled=True)]) == []
    assert all(not each.enabled for each in p.script_args[4 : 4 + SLOTS])  # others ask all of them


def page(**settings: Any) -> list[Any]:
    """The arguments of the page's script, with one tab."""
    values = dict.fromkeys(FIELDS) | {"module": "none", "model": "canny", "weight": 0.3}
    return list((values | {"guidance_start": 0.0, "guidance_end": 1.0} | settings).values())


@pytest.mark.parametrize("filled", [False, True])
def test_units_of_the_page_are_found_while_nobody_has_given_others(filled: bool) -> None:
    tabs = PageHooks()
    tabs.args_from, tabs.args_to = SLOTS + 5, SLOTS + 5 + len(FIELDS)
    p = Processing([*arguments(), *page(enabled=True)])
    p.scripts.alwayson_scripts.append(tabs)  # type: ignore[arg-type]
    if filled:
        external.update_cn_script_in_processing(p, [unit(weight=0.5)])
    assert [each.weight for each in external.get_all_units_in_processing(p)] == [0.5 if filled else 0.3]
    p.scripts.alwayson_scripts.pop()  # another extension's list of scripts, without the page
    assert len(external.get_all_units_in_processing(p)) == filled


# --- What AnimateDiff does with all arguments of the script that is called ControlNet


def as_animatediff(args: list[Any]) -> None:
    """What `set_p` of its AnimateDiffProcess reads and sets, with a video."""
    for each in args:
        if not each.enabled:
            continue
        if (each.input_mode.name == "SIMPLE" and each.image is None) or (
            each.input_mode.name == "BATCH" and not each.batch_images
        ):
            each.input_mode, each.batch_images = each.input_mode.__class__.BATCH, "a folder"
        assert each.batch_images.split("\n")
        if each.input_mode.name == "BATCH":
            each.animatediff_batch = True


def test_animatediff_passes_by_what_is_off() -> None:
    args = as_units([{"enabled": False, "model": "canny"}, {"model": "canny"}, *empty_slots(SLOTS - 2)])
    as_animatediff(args)
    assert units_of(args) == [] and unsaid(args) == [1]


def test_animatediff_leaves_units_with_pictures_alone() -> None:
    """What a client has said counts to the word: fields that we do not know, names of older versions."""
    said = {"enabled": True, "model": "canny", "input_image": "abc", "guidance": 0.5, "unknown": 1}
    args = copy.deepcopy(as_units([said, *empty_slots(SLOTS - 1)]))
    as_animatediff(args)
    assert raw_units(args) == [said] and raw_units(as_units([said]))[0] is said
    assert units_of(args) == units_of([said])


def test_a_unit_for_the_frames_of_a_video_is_refused() -> None:
    args = as_units([{"enabled": True, "model": "canny"}, *empty_slots(SLOTS - 1)])
    as_animatediff(args)
    with pytest.raises(UnitError, match=r"unit 0 .* video in each frame .* one for all frames"):
        units_of(args)
    args[0].enabled = False
    assert units_of(args) == []


def test_what_others_change_of_a_clients_unit_counts() -> None:
    (made,) = as_units([{"enabled": True, "model": "canny", "weight": 0.5, "control_mode": 2}])
    made.weight = 0.7
    (found,) = units_of([made])
    assert (found.weight, found.control_mode) == (0.7, ControlMode.CONTROL)


def test_a_slot_that_somebody_switches_on_is_a_unit() -> None:
    slots = empty_slots()
    assert raw_units(slots) == [] and len(slots) == SLOTS and all(isinstance(each, EmptySlot) for each in slots)
    slots[3].enabled, slots[3].model = True, "canny"
    assert [each.model for each in units_of(slots)] == ["canny"]


def test_arguments_that_end_before_ours_are_left_alone() -> None:
    p = Processing([0, 1])
    external.update_cn_script_in_processing(p, [unit()])
    assert p.script_args == [0, 1]


def test_a_unit_as_deforum_makes_it() -> None:
    """Numbers of numpy, words of older versions, an object with a mask; its tabs that are off have no picture."""
    picture = np.zeros((8, 8, 3), np.uint8)
    made = unit(
        module="canny", weight=np.float64(0.6), resize_mode="Outer Fit (Shrink to Fit)", pixel_perfect=True,
        control_mode="ControlNet is more important", low_vram=False, processor_res=64, threshold_a=64, threshold_b=64,
        guidance_start=np.float64(0.1), guidance_end=np.float64(0.5), image={"image": picture, "mask": picture},
    )  # fmt: skip
    off = external.ControlNetUnit(enabled=False, image=None, weight=np.float64(9))
    p = Processing(arguments())
    external.update_cn_script_in_processing(p, [made, off])
    (found,) = units_of(p.script_args[4 : 4 + SLOTS])
    assert (found.weight, found.resize_mode, found.control_mode) == (0.6, ResizeMode.FILL, ControlMode.CONTROL)
    assert found.guidance_end == 0.5 and found.input_mode is InputMode.SIMPLE


def test_a_unit_as_inpaint_anything_makes_it() -> None:
    made = external.to_processing_unit({"enabled": True, "model": "canny", "resize_mode": external.ResizeMode.RESIZE})
    (found,) = units_of([made])
    assert found.resize_mode is ResizeMode.JUST_RESIZE and external.to_processing_unit(made) is made


def test_a_unit_as_adetailer_switches_it_off() -> None:
    """It knows a unit by the name of its class, copies it, and sets two attributes."""
    made = unit()
    assert "controlnet" in type(made).__name__.lower()
    changed = copy.copy(made)
    changed.enabled = False
    changed.input_mode = getattr(changed.input_mode, "SIMPLE", "simple")
    assert units_of([changed]) == [] and len(units_of([made])) == 1


def test_what_a_unit_is_made_of_is_what_we_read() -> None:
    read = units_of([unit()])[0]
    assert read == UnitArgs(enabled=True, model="canny")


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ([{"model": "canny", "image": "x"}], [0]),
        ([{"enabled": False, "model": "canny"}, {"enabled": True, "model": "canny"}], []),
        ([{"enabled": True, "model": "canny"}, {"input_image": "x", "model": "depth"}], [1]),
        ([{"model": "None"}, {"weight": 1}, None], []),
        ([external.ControlNetUnit(model="canny")], []),  # theirs has always been off
    ],
)
def test_units_that_do_not_say_that_they_are_on(units: list[Any], expected: list[int]) -> None:
    assert unsaid(units) == expected


@pytest.mark.parametrize(
    ("unit", "told"),
    [
        ({"wieght": 2}, ["unit 0: its field 'wieght' is ignored: did you mean weight?"]),
        ({"Control_mode": 1}, ["unit 0: its field 'Control_mode' is ignored: did you mean control_mode?"]),
        ({"guessmode": True, "invert_image": True, "rgbbgr_mode": True, "nonsense": 1, 5: 6}, []),
        ({"guidance": 1, "lowvram": True, "input_image": "", "mask_image": "", "weight": 1}, []),
    ],
)
def test_a_misspelt_field_is_told(unit: dict[Any, Any], told: list[str]) -> None:
    assert misspelt([{"enabled": True, **unit}]) == told
