"""What the page offers: sliders, control types, units as widgets' values, and the line that says when a unit acts."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from controlstack.core.errors import ControlError
from controlstack.preprocessors import ABSENT, find, offered
from controlstack.preprocessors.networks.pool import PlainManager, Pool
from controlstack.preprocessors.networks.store import Store
from controlstack.preprocessors.perform import Runtime
from controlstack.scripts.webui.page import choices, page, preset_page
from controlstack.scripts.webui.page.gradio_shim import with_drawing
from controlstack.scripts.webui.page.unit import events, poses, preview
from controlstack.scripts.webui.request import preprocessing
from controlstack.scripts.webui.request.arguments import FIELDS, THRESHOLDS, from_page_unit
from controlstack.scripts.webui.request.preprocessing import OWN_SIZE
from controlstack.units.webui.fields import UnitArgs, parse_unit

MODELS = ["control_depth [00000000]", "old_canny [11111111]", "control_v11p_sd15_canny [22222222]"]
ABOUT = " (about: it depends on the sampler)"
ODD = {
    "enabled": True, "module": "canny", "model": "a, b: c [01234567]", "weight": 0.35, "guidance_start": 0.1,
    "guidance_end": 0.9, "processor_res": 768, "threshold_a": 50, "threshold_b": 60, "control_mode": 2,
    "resize_mode": 2, "range_basis": "steps", "hr_option": "High res only", "curve": "0: 1; 0.5: 0.3 ease-in",
    "union_control_type": "Depth", "block_weights": [0.5, 1], "pixel_perfect": True,
}  # fmt: skip


def widgets(**values: Any) -> dict[str, Any]:
    """A unit as the page sends it."""
    return {**dict.fromkeys(FIELDS), **choices.display(UnitArgs()), "input_mode": "simple", **values}


@pytest.mark.parametrize("preprocessor", offered(), ids=lambda each: each.id)
def test_every_parameter_has_a_slider(preprocessor: Any) -> None:
    found = choices.sliders(preprocessor.id)
    assert len(found) == 1 + len(THRESHOLDS)
    assert found[0].visible == (preprocessor.resizes and preprocessor.id not in OWN_SIZE)
    shown = [each for each in found[1:] if each.visible]
    assert [each.value for each in shown] == [each.default for each in preprocessor.parameters]
    assert all(each.minimum <= each.value <= each.maximum for each in shown)


def test_sliders_of_canny_have_its_names_and_ranges() -> None:
    resolution, low, high, *rest = choices.sliders("canny")
    assert (resolution.label, low.label, high.label) == ("Resolution", "Low Threshold", "High Threshold")
    assert (low.value, low.minimum, low.maximum) == (100, 1, 255)
    assert not any(each.visible for each in rest)


def test_a_control_type_chooses_its_own_and_prefers_version_11() -> None:
    offer = choices.offer("Canny", MODELS)
    assert offer.module == "canny" and offer.model == "control_v11p_sd15_canny [22222222]"
    assert offer.models == ["None", *MODELS] and offer.modules[0] == "none" and "shuffle" not in offer.modules
    assert choices.offer("Depth", MODELS[:2]).model == MODELS[0]


def test_the_page_tells_licences_and_what_is_missing(tmp_path: Path) -> None:
    text, runs = choices.about("depth_anything_v2_large", Store(tmp_path))
    assert not runs
    assert text.startswith("depth_anything_v2_large cannot run here: the weights model.safetensors (")
    assert "CC-BY-NC-4.0" in text and str(tmp_path) in text
    text, runs = choices.about("depth_anything_v2_large", Store(tmp_path, automatic=True))
    assert runs
    assert text.endswith(
        "CC-BY-NC-4.0: not for commercial use. model.safetensors will be downloaded when it first runs."
    )
    assert choices.about("canny", Store(tmp_path)) == (find("canny").doc, True)


@pytest.mark.parametrize("preprocessor", [*offered(), *ABSENT], ids=lambda each: each.id)
def test_what_cannot_run_says_why(preprocessor: Any, tmp_path: Path) -> None:
    text, runs = choices.about(preprocessor.id, Store(tmp_path))
    assert runs == (not preprocessor.missing(Runtime(store=Store(tmp_path), pool=Pool(PlainManager("cpu")))))
    assert runs or text.startswith(f"{preprocessor.id} cannot run here: ")


@pytest.mark.parametrize("module", [events, poses, preview, page, preset_page], ids=lambda each: each.__name__[-20:])
def test_gradio_can_resolve_the_annotations_of_what_it_calls(module: Any) -> None:
    """It does so for every function that is connected to an event, and names that exist for checkers alone stop it."""
    places = {"on": 1, "on_any": 1, "on_load": 0}  # of the function among their arguments
    calls = [node for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.Call)]
    given = [node.args[places[name]] for node in calls if (name := getattr(node.func, "id", "")) in places]
    connected = [node.id for node in given if isinstance(node, ast.Name)]
    assert connected
    for name in connected:
        get_type_hints(getattr(module, name))


def test_the_type_all_offers_everything_and_chooses_nothing() -> None:
    offer = choices.offer("All", MODELS)
    assert (offer.module, offer.model) == ("none", "None")
    assert offer.modules == choices.modules() and offer.models == ["None", *MODELS]


def test_a_type_without_models_offers_none() -> None:
    assert choices.offer("MLSD", []).models == ["None"] and choices.offer("MLSD", []).model == "None"


def test_a_units_values_come_back_from_the_page() -> None:
    unit = parse_unit(ODD)
    assert parse_unit(from_page_unit(widgets(**choices.display(unit)))) == unit


@pytest.mark.parametrize(
    "said",
    [
        {"resolution": 0}, {"resolution": -1}, {"resolution": 3000}, {"preprocessor_seed": 7}, {"delta_strength": 3.5},
        {"module": "auto", "model": "x", "processor_res": 640}, {"module": "tile_resample", "resolution": 640},
    ],
    ids=str,
)  # fmt: skip
def test_what_sliders_cannot_show_is_kept(said: dict[str, Any]) -> None:
    unit = preprocessing.with_defaults(parse_unit({"enabled": True, "module": "shuffle", "weight": 3, **said}))
    again = preprocessing.with_defaults(parse_unit(from_page_unit(widgets(**choices.display(unit)))))
    assert again == unit


def test_the_preprocessor_of_the_models_file_can_be_chosen() -> None:
    assert "auto" in choices.modules() and "auto" in choices.offer("Canny", []).modules
    resolution, *others = choices.sliders("auto")
    assert resolution.visible and not any(each.visible for each in others)
    assert choices.about("auto") == (
        "The preprocessor that the model's own file names; a file that names none is refused.", True,
    )  # fmt: skip


def test_numbers_beyond_the_second_have_names() -> None:
    unit = parse_unit({"enabled": True, "module": "outpaint", "parameters": {"bottom": 8, "feather": 3}})
    values = choices.display(unit)
    assert [values[name] for name in THRESHOLDS] == [64, 64, 64, 8, 3]
    assert parse_unit(from_page_unit(widgets(**values))).parameters == {"right": 64, "bottom": 8, "feather": 3}


@pytest.mark.parametrize(
    ("values", "steps", "line"),
    [
        ({}, 20, "fires on 20 of 20 steps"),
        ({"guidance_end": 0.5, "range_basis": "webui"}, 20, "fires on 12 of 20 steps"),
        ({"guidance_end": 0.5, "range_basis": "steps"}, 20, "fires on 10 of 20 steps"),
        ({"guidance_end": 0.5, "range_basis": "noise"}, 20, "fires on 11 of 20 steps" + ABOUT),
        ({"guidance_start": 0.99, "range_basis": "webui"}, 20, "fires on 0 of 20 steps"),
        ({"curve": "0: 1; 0.5: 0; 1: 0", "range_basis": "steps"}, 10, "fires on 5 of 10 steps"),
        ({"weight": 0}, 20, "fires on 0 of 20 steps: the weight is 0"),
    ],
)  # fmt: skip
def test_the_plan(values: dict[str, Any], steps: int, line: str) -> None:
    assert choices.plan(values, steps) == line


@pytest.mark.parametrize("values", [{"curve": "half"}, {"guidance_start": 0.8, "guidance_end": 0.2}])
def test_a_plan_that_cannot_be_is_an_error(values: dict[str, Any]) -> None:
    with pytest.raises(ControlError):
        choices.plan(values, 20)


@pytest.mark.parametrize(
    ("strength", "exact", "expected"), [(None, False, 20), (0.5, False, 11), (1.0, False, 20), (0.5, True, 20)]
)
def test_steps_of_img2img(strength: float | None, exact: bool, expected: int) -> None:
    assert choices.steps_of(20, strength, exact) == expected


# --- Pictures as gradio sends them

PICTURE = np.full((4, 6, 3), 200, np.uint8)


def strokes(alpha: int) -> Any:
    """Forge's canvas: the upper half painted with one opacity."""
    drawn = np.zeros((4, 6, 4), np.uint8)
    drawn[:2, :, 3] = alpha
    return drawn


def test_both_gradios_say_nothing_for_no_picture() -> None:
    assert with_drawing(None) is None and with_drawing(None, strokes(9)) is None
    assert with_drawing({"image": None, "mask": None}) is None


def test_what_is_painted_on_a_canvas_is_a_mask() -> None:
    drawn = with_drawing(PICTURE, strokes(90))
    assert drawn["mask"][:2].min() == 255 and drawn["mask"][2:].max() == 0 and drawn["image"] is PICTURE
    assert with_drawing(PICTURE, strokes(0))["mask"].max() == 0
    assert with_drawing(PICTURE) is PICTURE


def test_a_canvas_makes_units_and_regions() -> None:
    unit = from_page_unit(
        widgets(image=PICTURE, drawn=strokes(255), effective_region_mask=PICTURE, region_drawn=strokes(255))
    )
    assert unit["image"]["mask"][:2].min() == 255 and unit["effective_region_mask"][2:].max() == 0


def test_an_uploaded_mask_replaces_the_drawn_one() -> None:
    mask = np.full((4, 6), 255, np.uint8)
    unit = from_page_unit(widgets(image={"image": PICTURE, "mask": np.zeros((4, 6), np.uint8)}, mask=mask))
    assert unit["image"]["mask"] is mask and unit["mask"] is None


def test_a_region_is_what_was_drawn_or_the_picture_itself() -> None:
    mask = np.zeros((4, 6, 3), np.uint8)
    assert from_page_unit(widgets(effective_region_mask={"image": PICTURE, "mask": mask}))[
        "effective_region_mask"
    ] is PICTURE  # fmt: skip
    mask[0, 0] = 255
    assert from_page_unit(widgets(effective_region_mask={"image": PICTURE, "mask": mask}))[
        "effective_region_mask"
    ] is mask  # fmt: skip


def test_several_pictures_count_only_in_their_tab() -> None:
    unit = from_page_unit(widgets(multi_images=[PICTURE], image={"image": PICTURE, "mask": None}))
    assert unit["input_mode"] == "simple" and isinstance(unit["image"], dict)
    unit = from_page_unit(widgets(multi_images=None, input_mode="merge", image={"image": PICTURE, "mask": None}))
    assert unit["image"] is None
