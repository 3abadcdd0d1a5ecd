"""What clients send is read as sd-webui-controlnet reads it, or refused with a sentence."""

from __future__ import annotations

import base64
import io
import sys
import urllib.parse
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from controlstack.core.errors import ControlError, HintError, ModelError, ScheduleError, UnitError
from controlstack.core.resize import ResizeMode
from controlstack.core.schedule import Easing, Keyframe, RangeBasis
from controlstack.core.unit import ControlMode
from controlstack.preprocessors.networks.pool import PlainManager, Pool
from controlstack.preprocessors.networks.store import Store
from controlstack.preprocessors.perform import Runtime
from controlstack.scripts.webui.clients.external import ControlNetUnit
from controlstack.scripts.webui.host.files import ModelFiles, short_hash
from controlstack.scripts.webui.pictures.reading import input_of, read_mask, rgba_pictures
from controlstack.scripts.webui.request import preprocessing
from controlstack.scripts.webui.request.arguments import FIELDS, MOST_UNITS, SLOTS, fill, raw_units, units_of
from controlstack.units.choices import HiresOption, UnionType
from controlstack.units.offer import models_of_type
from controlstack.units.text import read_curve, write_curve
from controlstack.units.webui import infotext
from controlstack.units.webui.fields import UnitArgs, numbers_of, parse_unit, request_of
from controlstack.units.webui.fileless import default_preprocessor, modules
from PIL import Image

RED = np.full((4, 6, 3), (255, 0, 0), np.uint8)


def as_text(picture: np.ndarray, kind: str = "PNG") -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


class Theirs(Enum):
    PROMPT = "My prompt is more important"


@pytest.mark.parametrize(
    ("field", "given", "expected"),
    [
        ("control_mode", "Balanced", ControlMode.BALANCED),
        ("control_mode", 2, ControlMode.CONTROL),
        ("control_mode", 1.0, ControlMode.PROMPT),
        ("control_mode", "0", ControlMode.BALANCED),
        ("control_mode", " 2 ", ControlMode.CONTROL),
        ("control_mode", "prefer prompt", ControlMode.PROMPT),
        ("control_mode", Theirs.PROMPT, ControlMode.PROMPT),
        ("control_mode", ControlMode.CONTROL, ControlMode.CONTROL),
        ("resize_mode", 0, ResizeMode.JUST_RESIZE),
        ("resize_mode", 2, ResizeMode.FILL),
        ("resize_mode", "1", ResizeMode.CROP),
        ("resize_mode", "Scale to Fit (Inner Fit)", ResizeMode.CROP),
        ("resize_mode", "Envelope (Outer Fit)", ResizeMode.FILL),
        ("hr_option", "High res only", HiresOption.HIGH),
        ("hr_option", 1, HiresOption.LOW),
        ("union_control_type", 0, UnionType.OPENPOSE),
        ("union_control_type", "Soft Edge", UnionType.SOFT_EDGE),
        ("range_basis", "steps", RangeBasis.STEPS),
        ("module", None, "none"),
        ("processor_res", "768", 768),
        ("pixel_perfect", "False", False),
        ("advanced_weighting", [1, 0.5], (1.0, 0.5)),
        ("advanced_weighting", "1, 0.5", (1.0, 0.5)),
        ("advanced_weighting", [], None),
        ("image", "", None),
        ("parameters", {"low": "10"}, {"low": 10.0}),
        ("curve", [[0, 1], [1, 0.5]], (Keyframe(at=0, weight=1), Keyframe(at=1, weight=0.5))),
    ],
)
def test_a_field_in_every_form_that_clients_send(field: str, given: object, expected: object) -> None:
    assert getattr(parse_unit({"enabled": True, field: given}), field) == expected


@pytest.mark.parametrize(
    ("alias", "value", "field"),
    [("guidance", 0.5, "guidance_end"), ("lowvram", True, "low_vram"), ("input_image", "x", "image")],
)
def test_aliases(alias: str, value: Any, field: str) -> None:
    assert getattr(parse_unit({"enabled": True, alias: value}), field) == value


def test_defaults_are_those_that_clients_expect() -> None:
    unit = parse_unit({"enabled": True, "is_ui": False, "foo": 1})
    assert (unit.weight, unit.guidance_start, unit.guidance_end) == (1.0, 0.0, 1.0)
    assert (unit.control_mode, unit.resize_mode) == (ControlMode.BALANCED, ResizeMode.CROP)
    assert unit.range_basis is RangeBasis.WEBUI and unit.schedule.basis is RangeBasis.WEBUI


@pytest.mark.parametrize("given", [None, {}, {"weight": "rubbish"}, {"enabled": False, "model": 3}])
def test_a_unit_that_is_off_is_not_looked_at(given: object) -> None:
    assert parse_unit(given) == UnitArgs()


def test_objects_of_other_extensions_are_units() -> None:
    assert parse_unit(SimpleNamespace(enabled=True, module=None, weight=0.5)).weight == 0.5


@pytest.mark.parametrize("basis", RangeBasis)
def test_units_that_name_no_basis_have_that_of_the_program(basis: RangeBasis) -> None:
    for given in ({"enabled": True}, SimpleNamespace(enabled=True), ControlNetUnit(enabled=True)):
        assert parse_unit(given, basis).range_basis is basis
    assert parse_unit({"enabled": True, "range_basis": "steps"}, basis).range_basis is RangeBasis.STEPS


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"weight": 12}, UnitError, "expected -10 to 10"),
        ({"weight": "much"}, UnitError, "weight is 'much', expected a number"),
        ({"weight": float("nan")}, UnitError, "finite"),
        ({"control_mode": 3}, UnitError, "balanced"),
        ({"control_mode": "loud"}, UnitError, "loud"),
        ({"resize_mode": True}, UnitError, "resize_mode is True"),
        ({"guidance_start": 0.8, "guidance_end": 0.2}, ScheduleError, "after its end"),
        ({"guidance_end": 1.5}, ScheduleError, "expected 0 to 1"),
        ({"model": 3}, UnitError, "expected text"),
        ({"curve": "0.5"}, ScheduleError, "expected a place from 0 to 1"),
        ({"curve": 5}, UnitError, "curve is 5"),
        ({"advanced_weighting": [1.0, 1e308]}, UnitError, "1e\\+308"),
        ({"image": "a", "input_image": "b"}, UnitError, "both image and input_image"),
    ],
)
def test_what_makes_no_sense_is_said(given: dict[str, Any], error: type[ControlError], words: str) -> None:
    with pytest.raises(error, match=words):
        parse_unit({"enabled": True, **given})


def test_something_that_is_no_unit() -> None:
    with pytest.raises(UnitError, match="a unit is int"):
        parse_unit(3)


def test_curves_survive_their_text() -> None:
    curve = (Keyframe(at=0, weight=1), Keyframe(at=0.25, weight=0.5, easing=Easing.EASE_IN), Keyframe(at=1, weight=0))
    assert read_curve("curve", write_curve(curve)) == curve
    assert read_curve("curve", "0: 1, 1: 0.2 hold") == (
        Keyframe(at=0, weight=1),
        Keyframe(at=1, weight=0.2, easing=Easing.HOLD),
    )


# --- Pictures


@pytest.mark.parametrize(
    "image",
    [
        RED,
        as_text(RED),
        "data:image/png;base64," + as_text(RED),
        {"image": as_text(RED), "mask": None},
        [{"image": RED}],
        Image.fromarray(RED),
    ],
    ids=["array", "base64", "data URL", "object", "list", "pillow"],
)
def test_every_form_of_a_picture(image: object) -> None:
    pictures = rgba_pictures(image)
    assert pictures is not None and len(pictures) == 1
    np.testing.assert_array_equal(pictures[0], np.dstack([RED, np.zeros((4, 6), np.uint8)]))


@pytest.mark.parametrize("form", ["fields", "object", "list", "tuple"])
def test_a_mask_is_the_fourth_channel(form: str) -> None:
    mask = np.zeros((4, 6), np.uint8)
    mask[1] = 255
    image, drawn = as_text(RED), as_text(mask)
    given: dict[str, tuple[object, object]] = {
        "fields": (image, drawn),
        "object": ({"image": image, "mask": drawn}, None),
        "list": ([image, drawn], None),
        "tuple": ((image, drawn), None),
    }
    pictures = rgba_pictures(*given[form])
    assert pictures is not None
    np.testing.assert_array_equal(pictures[0][..., 3], mask)


def test_grey_and_transparent_arrays() -> None:
    assert read_mask(np.full((2, 2), 7, np.uint8)).tolist() == [[7, 7], [7, 7]]
    clear = np.zeros((1, 1, 4), np.uint8)
    assert rgba_pictures(clear)[0].tolist() == [[[255, 255, 255, 0]]]  # type: ignore[index]


@pytest.mark.parametrize(
    "image",
    ["/etc/passwd", __file__, "http://example.org/a.png", as_text(RED)[:30], [], [[RED], [RED]], {"mask": RED}, 3.5,
     RED.astype(np.float32), base64.b64encode(b"text").decode()],
    ids=["path", "this file", "address", "cut", "empty", "nested", "no image", "number", "floats", "no picture"],
)  # fmt: skip
def test_what_is_no_picture_is_refused_and_no_path_is_opened(image: object) -> None:
    with pytest.raises(HintError):
        rgba_pictures(image)


def _wrapped(text: str) -> str:
    return base64.encodebytes(base64.b64decode(text)).decode()


def _url_safe(text: str) -> str:
    return text.translate(str.maketrans("+/", "-_"))


@pytest.mark.parametrize(
    "form",
    [
        _wrapped,
        "{} ".format,
        "\n{}\r\n".format,
        "data:image/png;base64, {}".format,
        "Data:Image/PNG;BASE64,{}".format,
        "data:image/png;name=a.png;base64,{}".format,
        "data:;base64,{}".format,
        _url_safe,
        lambda text: text.rstrip("="),
        lambda text: "data:image/png;base64," + urllib.parse.quote(text, safe=""),
        lambda text: "data:image/png," + urllib.parse.quote_from_bytes(base64.b64decode(text)),
        lambda text: "data:image/png;base64," + _url_safe(_wrapped(text)).replace("=", ""),
    ],
)  # fmt: skip
def test_base64_in_every_spelling(form: Callable[[str], str]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    text = as_text(noise)
    assert "+" in text and "/" in text and text.endswith("=")
    pictures = rgba_pictures(form(text))
    assert pictures is not None
    np.testing.assert_array_equal(pictures[0][..., :3], noise)


@pytest.mark.parametrize("form", [as_text, Image.fromarray, np.asarray])
def test_sixteen_bits_are_scaled_for_pictures_and_masks(form: Callable[[np.ndarray], object]) -> None:
    levels = np.linspace(300, 9000, 64 * 64).astype(np.uint16).reshape(64, 64)
    expected = np.rint(levels / 257).astype(np.uint8)
    pictures = rgba_pictures(form(levels), form(levels))
    assert pictures is not None
    np.testing.assert_array_equal(pictures[0], np.repeat(expected[..., None], 4, axis=2))


def test_a_picture_of_a_camera_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(RED).save(buffer, "PNG", exif=exif)
    for given in (base64.b64encode(buffer.getvalue()).decode(), Image.open(buffer)):
        pictures = rgba_pictures(given)
        assert pictures is not None
        np.testing.assert_array_equal(pictures[0][..., :3], np.rot90(RED, -1))


@pytest.mark.parametrize("empty", [None, "", " \n"])
def test_an_empty_text_is_no_picture_and_no_mask(empty: str | None) -> None:
    assert rgba_pictures(empty) is None
    forms: list[tuple[object, object]] = [
        ({"image": as_text(RED), "mask": empty}, None), ([as_text(RED), empty], None), (as_text(RED), empty),
    ]  # fmt: skip
    for image, mask in forms:
        pictures = rgba_pictures(image, mask)
        assert pictures is not None and not pictures[0][..., 3].any()
    with pytest.raises(HintError, match="expected one with a picture"):
        rgba_pictures({"image": empty, "mask": as_text(RED)})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (as_text(RED)[:30], "no picture of a known format|damaged"),
        (as_text(RED)[:-40], "damaged or truncated"),
        ("/etc/passwd", "paths and addresses are not opened"),
        ("http://example.org/a.png", "is no base64 text: .* paths and addresses are not opened"),
        (base64.b64encode(b"\x1b[2J a text").decode(), "no picture of a known format"),
        ("\x1b[2J\n" * 1000, "is no base64 text"),
    ],
)
def test_what_is_wrong_with_a_text_is_one_printable_line(given: str, words: str) -> None:
    with pytest.raises(HintError, match=words) as caught:
        rgba_pictures(given)
    told = str(caught.value)
    assert told.isprintable() and len(told) < 300 and "object at" not in told


def test_image_and_mask_of_two_sizes() -> None:
    with pytest.raises(HintError, match="6x4 and 3x3"):
        rgba_pictures(RED, np.zeros((3, 3), np.uint8))


def test_a_drawing_is_the_input_unless_it_covers_nothing_or_all() -> None:
    drawn = np.dstack([RED, np.zeros((4, 6), np.uint8)])
    np.testing.assert_array_equal(input_of(drawn), RED)
    drawn[1, :, 3] = 255
    assert input_of(drawn)[1].min() == 255 and input_of(drawn)[0].max() == 0
    np.testing.assert_array_equal(input_of(drawn, ignore_mask=True), RED)


# --- Infotext


def test_infotext_has_the_grammar_that_other_programs_read() -> None:
    unit = parse_unit(
        {"enabled": True, "module": "canny", "model": "control_v11p_sd15_canny [d14c016b]", "pixel_perfect": True}
    )
    assert infotext.write([preprocessing.with_defaults(unit)]) == {
        "ControlNet 0": "Module: canny, Model: control_v11p_sd15_canny [d14c016b], Weight: 1.0, "
        "Resize Mode: Crop and Resize, Processor Res: 512, Threshold A: 100, Threshold B: 200, Guidance Start: 0.0, "
        "Guidance End: 1.0, Pixel Perfect: True, Control Mode: Balanced"
    }


def test_every_setting_survives_the_infotext() -> None:
    unit = parse_unit(
        {
            "enabled": True,
            "module": "canny",
            "model": "a, b: 50% c [12345678]",
            "weight": 0.35,
            "resize_mode": 2,
            "processor_res": 640,
            "threshold_a": 12,
            "threshold_b": 34.5,
            "guidance_start": 0.1,
            "guidance_end": 0.9,
            "control_mode": 1,
            "hr_option": 2,
            "range_basis": "steps",
            "curve": "0: 1, 1: 0.5 ease-in",
            "union_control_type": "Depth",
            "advanced_weighting": [1.0, 0.25],
            "parameters": {"low": 3},
        }
    )
    text = infotext.write([unit])
    assert parse_unit(infotext.read(text)[0]) == unit


def test_texts_of_other_programs() -> None:
    forge = "Module: None, Model: None, Weight: 1, Resize Mode: Crop and Resize, Hr Option: Both, Whatever: 3"
    unit = parse_unit(infotext.read({"ControlNet 2": forge, "ControlNet": "x", "Seed": 1})[2])
    assert unit.enabled and unit.module == "None" and preprocessing.lookup(unit.module).id == "none"
    assert infotext.read_unit("nonsense") == {}


def test_a_text_of_reforge_names_enums() -> None:
    text = "Module: None, Model: a, Resize Mode: ResizeMode.OUTER_FIT, Control Mode: ControlMode.PROMPT, "
    unit = parse_unit(infotext.read_unit(text + "Hr Option: HiResFixOption.LOW_RES_ONLY"))
    assert (unit.resize_mode, unit.control_mode) == (ResizeMode.FILL, ControlMode.PROMPT)
    assert unit.hr_option is HiresOption.LOW


@pytest.mark.parametrize(
    ("version", "basis"),
    [
        ("v1.10.1", RangeBasis.WEBUI),
        ("1.10.1", RangeBasis.WEBUI),
        ("v1.9.4-3-gabc1234", RangeBasis.WEBUI),
        ("f2.0.1v1.10.1-previous-664-gd557aef9", RangeBasis.NOISE),
        ("f1.0.0v2-v1.10.1RC-1.10.1", RangeBasis.NOISE),
        ("f0.0.17v1.8.0rc-latest-276-g29be1da7", RangeBasis.NOISE),
        ("classic", RangeBasis.NOISE),
        ("neo", RangeBasis.NOISE),
        ("ComfyUI", None),
        ("1", None),
        ("", None),
    ],
)
def test_a_signed_text_says_what_its_ranges_mean(version: str, basis: RangeBasis | None) -> None:
    text = "Module: none, Model: a, Guidance End: 0.5"
    signed = infotext.read({"ControlNet 0": text, "Version": version})[0]
    for host in RangeBasis:
        assert parse_unit(signed, host).range_basis is (host if basis is None else basis)
    said = infotext.read({"ControlNet 0": text + ", Range Basis: steps", "Version": version})[0]
    assert parse_unit(said).range_basis is RangeBasis.STEPS


# --- Preprocessors


def test_thresholds_outside_their_range_become_the_default_with_a_line(caplog: pytest.LogCaptureFixture) -> None:
    unit = parse_unit({"enabled": True, "module": "canny", "threshold_a": -100, "threshold_b": 64, "processor_res": -1})
    checked = preprocessing.with_defaults(unit)
    assert (checked.threshold_a, checked.threshold_b, checked.processor_res) == (100, 64, 512)
    assert caplog.messages == ["[canny.threshold_a] Invalid value(-100.0), using default value 100."]


def test_module_details_are_those_of_the_original() -> None:
    assert preprocessing.detail(preprocessing.lookup("canny")) == {
        "model_free": False,
        "sliders": [
            {"name": "Resolution", "value": 512, "min": 64, "max": 2048, "step": 8},
            {"name": "Low Threshold", "value": 100, "min": 1, "max": 255, "step": 1},
            {"name": "High Threshold", "value": 200, "min": 1, "max": 255, "step": 1},
        ],
    }


def test_control_types_filter_preprocessors_and_models() -> None:
    types = preprocessing.control_types(lambda tag: models_of_type(tag, ["control_canny [0]", "my_depth [1]"]))
    assert types["Canny"]["module_list"][:2] == ["none", "canny"]
    assert types["Canny"]["model_list"] == ["None", "control_canny [0]"]
    assert types["Canny"]["default_option"] == "canny" and types["Depth"]["default_model"] == "my_depth [1]"
    assert types["All"]["model_list"] == ["None", "control_canny [0]", "my_depth [1]"]


def test_every_list_of_the_api_has_the_same_names() -> None:
    """Clients look a control type's names up in the list of modules with aliases."""
    types = preprocessing.control_types(lambda _: ["old_canny [0]", "control_v11p_canny [1]"])
    named = {name for each in types.values() for name in (*each["module_list"], each["default_option"])}
    assert named <= set(preprocessing.names(aliases=True))
    starts = {tag: types[tag]["default_option"] for tag in ("OpenPose", "Tile", "Inpaint", "Blur")}
    assert starts == {
        "OpenPose": "dw_openpose_full", "Tile": "tile_resample", "Inpaint": "inpaint_only", "Blur": "blur_gaussian",
    }  # fmt: skip
    assert all(types[tag]["default_option"] == preprocessing.label(default_preprocessor(tag)) for tag in types)
    assert types["Canny"]["default_model"] == "control_v11p_canny [1]", "as the page chooses"


def test_a_result_is_computed_once(tmp_path: Path) -> None:
    runtime = Runtime(store=Store(tmp_path), pool=Pool(PlainManager()))
    preprocess = preprocessing.Preprocessing(runtime)
    unit = preprocessing.with_defaults(parse_unit({"enabled": True, "module": "canny"}))
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    assert (preprocess(request_of(unit), picture) == preprocess(request_of(unit), picture.copy())).all()
    assert (runtime.cache.hits, runtime.cache.misses) == (1, 1)
    assert preprocess(replace(request_of(unit), resolution=64), picture).shape == (64, 64, 3)


def test_thresholds_set_only_what_they_set_for_clients() -> None:
    """The webuiapi client sends 64 for both, whatever the preprocessor."""
    sent = {"enabled": True, "threshold_a": 64, "threshold_b": 64}
    drawn = preprocessing.with_defaults(parse_unit({**sent, "module": "lineart_standard"}))
    assert numbers_of(drawn) == {}
    ours = preprocessing.with_defaults(parse_unit({**sent, "module": "pyracanny"}))
    assert numbers_of(ours) == {"low": 64, "high": 64}


def test_the_page_sets_every_number() -> None:
    (unit,) = units_of([*[None] * SLOTS, *page(enabled=True, module="lineart_standard", threshold_a=3, threshold_b=9)])
    assert numbers_of(preprocessing.with_defaults(unit)) == {"sigma": 3, "threshold": 9}


def test_inpainting_without_a_mask_invents_nothing() -> None:
    unit = preprocessing.with_defaults(parse_unit({"enabled": True, "module": "inpaint_only"}))
    hint = preprocessing.Preprocessing()(request_of(unit), RED)
    assert hint.shape == (4, 6, 4) and not hint[..., 3].any()


def test_clients_find_every_name_they_know() -> None:
    names, labels = preprocessing.names(), preprocessing.names(aliases=True)
    assert {"none", "canny", "openpose_full", "depth", "lineart", "color", "inpaint"} <= set(names)
    assert "invert (from white bg & black line)" in labels and len(set(names)) == len(names)
    assert all(preprocessing.lookup(name) in modules() for name in (*names, *labels))


# --- Files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("control_canny.safetensors", "Control_Canny_v2.pth", "sub/depth.safetensors", "readme.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


def test_models_are_listed_by_stem_and_hash(folder: Path) -> None:
    files = ModelFiles([folder, folder / "sub", folder / "absent"])
    assert files.names == ["control_canny [e3b0c442]", "Control_Canny_v2 [e3b0c442]", "depth [e3b0c442]"]
    (folder / "new.safetensors").write_bytes(b"x" * 0x100000 + b"y")
    files.refresh()
    assert short_hash(folder / "new.safetensors") == "a1fce436" and "new [a1fce436]" in files.names


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("control_canny [e3b0c442]", "control_canny"),
        ("CONTROL_CANNY", "control_canny"),
        ("control_canny [00000000]", "control_canny"),
        ("canny_v2", "Control_Canny_v2"),
        ("dep", "depth"),
        ('"depth"', "depth"),
        ("control_canny.safetensors", "control_canny"),
        ("control_canny.pth", "control_canny"),
        ("depth.safetensors [e3b0c442]", "depth"),
    ],
)
def test_models_are_found_by_what_clients_write(folder: Path, name: str, stem: str) -> None:
    assert ModelFiles([folder]).find(name)[1].stem == stem


def test_a_model_copied_since_the_last_listing_is_found(folder: Path) -> None:
    files = ModelFiles([folder])
    (folder / "late.safetensors").write_bytes(b"z")
    assert files.find("late")[1].stem == "late" and any(name.startswith("late [") for name in files.names)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_models_in_linked_folders_are_listed_and_what_cannot_be_read_is_told(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "models").mkdir()
    (folder / "models" / "linked").symlink_to(folder / "sub")
    (folder / "models" / "._pose.safetensors").write_bytes(b"of macOS")
    (folder / "models" / "gone.pth").symlink_to(folder / "nowhere.pth")
    assert ModelFiles([folder / "models"]).names == ["depth [e3b0c442]"]
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        f"{folder / 'models' / 'gone.pth'} is left out, since it cannot be read"
    ]


@pytest.mark.parametrize(
    ("name", "words"), [("None", "no model"), ("", "no model"), ("detph", r"did you mean depth \[")]
)
def test_a_model_that_is_not_there(folder: Path, name: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        ModelFiles([folder]).find(name)


# --- Arguments


def page(**values: object) -> list[object]:
    return [values.get(name) for name in FIELDS]


def test_slots_win_over_the_page() -> None:
    slots: list[object] = [None] * SLOTS
    rest = [*page(enabled=True, weight=0.5), *page(enabled=False)]
    assert [unit.weight for unit in units_of([*slots, *rest])] == [0.5]
    slots[0], slots[9] = {"enabled": True, "weight": 0.1}, {"enabled": True, "weight": 0.2}
    assert [unit.weight for unit in units_of([*slots, *rest])] == [0.1, 0.2]


def test_several_pictures_make_a_unit_of_several() -> None:
    (unit,) = raw_units([*[None] * SLOTS, *page(enabled=True, input_mode="merge", multi_images=[RED, RED])])
    assert unit["input_mode"] == "merge" and len(unit["image"]) == 2


def test_other_extensions_fill_the_slots() -> None:
    args: list[object] = ["other", *[None] * SLOTS, *page(enabled=True)]
    fill(args, 1, [{"enabled": True, "weight": 0.3}])
    assert [unit.weight for unit in units_of(args[1:])] == [0.3]
    fill(args, 1, [])
    assert units_of(args[1:]) == []
    with pytest.raises(UnitError, match="17 units"):
        fill(args, 1, [{}] * 17)


def test_more_units_than_a_request_takes_are_said() -> None:
    """The WebUI drops what is beyond the arguments of a script, so one more argument tells that there was more."""
    assert len(units_of([{"enabled": True}] * MOST_UNITS + [None] * (SLOTS - MOST_UNITS))) == MOST_UNITS
    with pytest.raises(UnitError, match="takes 16 units, and this one has more"):
        units_of(([{"enabled": True}] * 20)[:SLOTS])


def test_an_error_names_its_unit() -> None:
    slots: list[object] = [{"enabled": False}, {"enabled": True, "weight": "much"}, *[None] * (SLOTS - 2)]
    with pytest.raises(UnitError, match="unit 1: weight is 'much'"):
        units_of(slots)
    with pytest.raises(ScheduleError, match="unit 0: the range"):
        units_of([{"enabled": True, "guidance_start": 2}, *[None] * (SLOTS - 1)])
    slots[1] = {"enabled": True, "weight": 0.5}
    assert [unit.number for unit in units_of(slots)] == [1]
