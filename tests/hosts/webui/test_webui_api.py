"""The routes and modules that clients and other extensions of sd-webui-controlnet use, in a real WebUI."""

from __future__ import annotations

import base64
import io
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webui_host
from PIL import Image
from webui_host import Drawing, Host, Picture, RequestError, decode, encode

SIZE = 64
UNIT = {"enabled": True, "module": "none", "model": "canny"}


def squares() -> Picture:
    """Edges that Canny finds."""
    picture = np.full((SIZE, SIZE, 3), 40, np.uint8)
    picture[10:40, 8:50] = (220, 180, 90)
    return picture


def same(first: Drawing, second: Drawing) -> bool:
    return all((a == b).all() for a, b in zip(first.pictures, second.pictures, strict=True))


def test_version_and_settings(webui: Host) -> None:
    assert webui.get("controlnet/version") == {"version": 3}
    assert webui.get("controlnet/settings") == {"control_net_unit_count": 3}


def test_models(webui: Host) -> None:
    names = webui.get("controlnet/model_list")["model_list"]
    assert [name.split(" [")[0] for name in names] == [
        "adapter",
        "canny",
        "depth",
        "lora",
        "pose",
        "style",
        "t2i",
        "t2i_xl",
        "v2",
        "xl",
    ]
    assert webui.get("controlnet/model_list?update=false")["model_list"] == names


def test_modules(webui: Host) -> None:
    answer = webui.get("controlnet/module_list")
    assert {"none", "canny", "openpose_full", "depth", "inpaint"} <= set(answer["module_list"])
    assert answer["module_detail"]["canny"] == {
        "model_free": False,
        "sliders": [
            {"name": "Resolution", "value": 512, "min": 64, "max": 2048, "step": 8},
            {"name": "Low Threshold", "value": 100, "min": 1, "max": 255, "step": 1},
            {"name": "High Threshold", "value": 200, "min": 1, "max": 255, "step": 1},
        ],
    }
    assert "depth_midas" in webui.get("controlnet/module_list?alias_names=true")["module_list"]


def test_control_types(webui: Host) -> None:
    types = webui.get("controlnet/control_types")["control_types"]
    assert types["Canny"]["default_option"] == "canny"
    assert types["Canny"]["model_list"][0] == "None" and types["Canny"]["default_model"].startswith("canny [")


def test_the_lists_have_one_set_of_names(webui: Host) -> None:
    types = webui.get("controlnet/control_types")["control_types"]
    listed = set(webui.get("controlnet/module_list?alias_names=true")["module_list"])
    assert {name for each in types.values() for name in (*each["module_list"], each["default_option"])} <= listed
    assert (types["Inpaint"]["default_option"], types["Blur"]["default_option"]) == ("inpaint_only", "blur_gaussian")
    assert [name.split(" [")[0] for name in types["T2I-Adapter"]["model_list"][1:]] == ["t2i", "t2i_xl", "style"]


def test_a_model_is_found_by_its_file_and_right_after_it_was_copied(webui: Host) -> None:
    made = webui.draw({**UNIT, "image": encode(squares())})
    assert same(webui.draw({**UNIT, "model": "canny.safetensors", "image": encode(squares())}), made)
    folder = webui.models / "ControlNet"
    late = folder / "copied_late.safetensors"
    late.write_bytes((folder / "canny.safetensors").read_bytes())
    try:
        assert same(webui.draw({**UNIT, "model": "copied_late", "image": encode(squares())}), made)
    finally:
        late.unlink()
        webui.get("controlnet/model_list")


@pytest.mark.parametrize(
    ("unit", "words"),
    [
        ({"curve": 5}, "unit 1: curve is 5, expected keyframes"),
        ({"block_weights": [1e308] * 13}, "unit 1: block weights hold"),
        ({"curve": "0: 1e308"}, "unit 1: "),
        ({"model": "\x1b[2J\nfake"}, r"unit 1: there is no control model '\\\\x1b\[2J\\\\nfake'"),
        ({"model": "x" * 10**6}, "unit 1: there is no control model 'xxx"),
        ({"module": "a\nb"}, "unit 1: "),
        ({"weight": "x" * 10**5}, "unit 1: weight is 'xxx"),
        ({"image": "nothing"}, "unit 1: .*(no base64|no picture)"),
        ({"image": ""}, "unit 1: it is on, but has no picture"),
    ],
    ids=["curve", "block weights", "weight of a curve", "escape", "long", "lines", "long number", "picture", "none"],
)
def test_what_is_wrong_is_said_in_one_line_with_its_unit(webui: Host, unit: dict[str, Any], words: str) -> None:
    good = {**UNIT, "module": "canny", "image": encode(squares())}
    with pytest.raises(RequestError, match=words) as caught:
        webui.draw(good, {**good, **unit})
    assert caught.value.status == 422 and len(str(caught.value)) < 1200


def test_more_units_than_are_served(webui: Host) -> None:
    unit = {**UNIT, "image": encode(squares())}
    with pytest.raises(RequestError, match="takes 16 units, and this one has more"):
        webui.draw(*[unit] * 20)


@pytest.mark.parametrize(
    "unit",
    [{"guidance_start": 0.4, "guidance_end": 0.4, "range_basis": "steps"}, {"weight": 0},
     {"effective_region_mask": encode(np.zeros((SIZE, SIZE, 3), np.uint8))}],
    ids=["range", "weight", "region"],
)  # fmt: skip
def test_an_answer_says_that_a_unit_never_acted(webui: Host, plain: Drawing, unit: dict[str, Any]) -> None:
    made = webui.draw({**UNIT, "image": encode(squares()), **unit})
    note = made.info["extra_generation_params"]["Control notes"]
    assert note.startswith("unit 0 (none, canny) acted on 0 of 3 steps")
    assert "acted on 0 of 3 steps" in made.info["infotexts"][0]
    assert (made.pictures[0] == plain.pictures[0]).all()


def test_an_answer_says_what_a_preprocessor_does_not_read(webui: Host) -> None:
    made = webui.draw({**UNIT, "image": encode(squares()), "preprocessor_seed": 5, "resolution": 256})
    note = made.info["extra_generation_params"]["Control notes"]
    assert "unit 0: none uses no random numbers, so seed=5 changes nothing" in note
    assert "so resolution=256 changes nothing" in note


def test_an_answer_says_that_a_unit_does_not_say_that_it_is_on(webui: Host) -> None:
    made = webui.draw({"model": "canny", "image": encode(squares())})
    assert "unit 0 is off, since it does not say" in made.info["extra_generation_params"]["Control notes"]
    assert "Control notes" not in webui.draw({**UNIT, "image": encode(squares())}).info["extra_generation_params"]


def test_avif_is_read_where_the_program_can(webui: Host) -> None:
    buffer = io.BytesIO()
    try:
        Image.fromarray(squares()).save(buffer, "AVIF", quality=100)
    except (KeyError, OSError):
        pytest.skip("the Pillow of these tests writes no AVIF")
    sent = base64.b64encode(buffer.getvalue()).decode()
    answer = webui.post("controlnet/detect", {"controlnet_module": "invert", "controlnet_input_images": [sent]})
    assert answer["info"] == "Success"


def test_films_by_the_script_that_clients_look_for(webui: Host) -> None:
    """Each frame is drawn as a request of its own with that picture, one seed for all."""
    assert "controlnet m2m" in webui.get("sdapi/v1/scripts")["txt2img"]
    frames = [squares(), squares()[::-1].copy()]
    sent = base64.b64encode(write_film(frames)).decode()
    unit = {**UNIT, "module": "none"}
    film = webui.draw(unit, script_name="controlnet m2m", script_args=[sent, None, False])
    assert len(film.pictures) == 2
    for picture, frame in zip(film.pictures, frames, strict=True):
        alone = webui.draw({**unit, "image": encode(frame)}).pictures[0]
        assert np.abs(picture.astype(int) - alone).mean() < 2, "the film's compression is lossy"
    assert np.abs(film.pictures[0].astype(int) - film.pictures[1]).mean() > 2
    with pytest.raises(RequestError, match=r"unit 0: .*(base64|format)"):
        webui.draw(unit, script_name="controlnet m2m", script_args=["/etc/passwd", None, False])


def write_film(frames: list[Picture]) -> bytes:
    import cv2

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 8, (SIZE, SIZE))
        writer.set(cv2.VIDEOWRITER_PROP_QUALITY, 100)
        for frame in frames:
            writer.write(np.ascontiguousarray(frame[..., ::-1]))
        writer.release()
        return path.read_bytes()


@pytest.mark.parametrize("field", ["controlnet_input_images", "controlnet_images"])
def test_detect(webui: Host, field: str) -> None:
    answer = webui.post("controlnet/detect", {"controlnet_module": "canny", field: [encode(squares())] * 2})
    assert answer["info"] == "Success" and len(answer["images"]) == 2
    edges = decode(answer["images"][0])
    assert edges.shape == (512, 512, 3) and set(np.unique(edges)) == {0, 255}


def test_detect_with_a_mask(webui: Host) -> None:
    mask = np.zeros((SIZE, SIZE, 3), np.uint8)
    mask[:32] = 255
    body = {"controlnet_module": "inpaint_only", "controlnet_input_images": [encode(squares())]}
    assert len(webui.post("controlnet/detect", {**body, "controlnet_masks": [encode(mask)]})["images"]) == 1
    with pytest.raises(RequestError, match="needs a mask for each picture"):
        webui.post("controlnet/detect", body)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"controlnet_module": "nix"}, "there is no preprocessor"),
        ({"controlnet_module": "canny"}, "No image selected"),
        ({"controlnet_module": "clip_vision"}, "Module not supported"),
        ({"controlnet_module": "revision_clipvision"}, "Module not supported"),
        ({"controlnet_module": "canny", "controlnet_input_images": ["/etc/passwd"]}, "paths and addresses are not"),
        ({"controlnet_module": "canny", "controlnet_processor_res": "much"}, "controlnet_processor_res"),
        ({"controlnet_module": "densepose", "controlnet_input_images": ["X"]}, "densepose|base64"),
    ],
)
def test_detect_says_what_is_wrong(webui: Host, body: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        webui.post("controlnet/detect", body)
    assert caught.value.status == 422


def test_detect_gives_the_hint_that_a_unit_uses(webui: Host) -> None:
    hint = webui.post(
        "controlnet/detect",
        {"controlnet_module": "canny", "controlnet_input_images": [encode(squares())], "controlnet_processor_res": 64},
    )["images"][0]
    made = webui.draw({**UNIT, "module": "canny", "image": encode(squares()), "processor_res": 64})
    assert same(webui.draw({**UNIT, "image": hint}), made)


def test_poses_as_pictures(webui: Host) -> None:
    person = {"pose_keypoints_2d": [number for i in range(18) for number in (20 + 5 * i, 30 + 10 * (i % 5), 1)]}
    frame = {"people": [person], "canvas_width": 128, "canvas_height": 96}
    answer = webui.post("controlnet/render_openpose_json", [frame, frame])
    assert answer["info"] == "Success" and len(answer["images"]) == 2
    assert decode(answer["images"][0]).shape == (96, 128, 3) and decode(answer["images"][0]).any()
    assert webui.post("controlnet/render_openpose_json", []) == {"info": "No pose data detected."}
    with pytest.raises(RequestError, match="canvas_width"):
        webui.post("controlnet/render_openpose_json", [{"people": [person]}])


def test_detect_waits_for_its_turn_and_keeps_the_server_awake(webui: Host) -> None:
    jobs: list[str] = []

    def detect() -> None:
        webui.post("controlnet/detect", {"controlnet_module": "canny", "controlnet_input_images": [encode(squares())]})
        jobs.append(webui.get("sdapi/v1/progress")["state"]["job"])

    drawing = threading.Thread(target=webui.draw, kwargs={"steps": 30, "width": 128, "height": 128})
    detecting = threading.Thread(target=detect)
    drawing.start()
    while not webui.get("sdapi/v1/progress")["state"]["job"]:
        time.sleep(0.01)
    detecting.start()
    answers = 0
    while detecting.is_alive():
        assert webui.get("controlnet/version") == {"version": 3}  # though a computation waits for another
        answers += 1
    drawing.join()
    assert answers > 1
    assert jobs == [""], "it did not wait"


def test_unload(webui: Host) -> None:
    before = webui.draw({**UNIT, "image": encode(squares())})
    assert webui.post("controlnet/unload") == {"info": "Success"}
    assert same(webui.draw({**UNIT, "image": encode(squares())}), before)


INVERT = {
    "enabled": True, "module": "invert", "weight": 0.8, "guidance_start": 0.1, "guidance_end": 0.9, "processor_res": 64,
    "resize_mode": "Crop and Resize", "control_mode": "My prompt is more important",
}  # fmt: skip
FORMS: dict[str, dict[str, Any]] = {  # None: the field is left out
    "input_image": {"image": None, "input_image": encode(squares())},
    "data URL": {"image": "data:image/png;base64," + encode(squares())},
    "a list of one": {"image": [encode(squares())]},
    "an object": {"image": {"image": encode(squares()), "mask": None}},
    "a list of one object": {"image": [{"image": encode(squares())}]},
    "an empty mask": {"mask": "", "mask_image": None},
    "text for numbers": {"weight": "0.8", "guidance_end": "0.9", "processor_res": "64", "threshold_a": "-1"},
    "text for yes": {"enabled": "true", "low_vram": "false"},
    "numbers for modes": {"resize_mode": 1, "control_mode": 1},
    "older words for modes": {"resize_mode": "Scale to Fit (Inner Fit)"},
    "both names of a field": {"guidance": 0.9, "lowvram": False, "low_vram": False},
    "fields of long ago": {"guessmode": True, "invert_image": False, "rgbbgr_mode": False, "is_ui": False},
    "the module's long name": {"module": "invert (from white bg & black line)"},
    "a short model": {"model": "canny"},
    "a model in capitals": {"model": "CANNY"},
    "a model with the hash of another copy": {"model": "canny [00000000]"},
}


def send(host: Host, title: str, *units: Any) -> Drawing:
    return host.draw(scripts={title: list(units)})


@pytest.fixture(scope="module")
def inverted(webui: Host) -> tuple[dict[str, Any], Drawing]:
    """A unit in the present form, and what it draws."""
    name = next(each for each in webui.get("controlnet/model_list")["model_list"] if each.startswith("canny ["))
    unit = {**INVERT, "model": name, "image": encode(squares())}
    return unit, webui.draw(unit)


@pytest.mark.parametrize("name", FORMS)
def test_what_clients_have_sent_for_years(webui: Host, inverted: tuple[dict[str, Any], Drawing], name: str) -> None:
    unit, wanted = inverted
    given = {field: value for field, value in {**unit, **FORMS[name]}.items() if value is not None}
    assert same(send(webui, "controlnet", given), wanted)
    assert not same(webui.draw(), wanted)


def test_a_unit_that_does_not_say_that_it_is_on_is_off_and_said(
    webui: Host, inverted: tuple[dict[str, Any], Drawing]
) -> None:
    unit = {field: value for field, value in inverted[0].items() if field != "enabled"}
    before = len(webui.log.read_text())
    assert same(send(webui, "ControlNet", {"enabled": False}, unit), webui.draw())
    assert webui.log.read_text()[before:].count("unit 1 is off, since it does not say that it is on") == 1


OLD: dict[str, tuple[Any, str]] = {
    "positions": ([True, "canny", "canny", 1.0, encode(squares())], "a unit is bool, expected an object of named"),
    "two ends": ([{**INVERT, "model": "canny", "guidance": 0.5, "image": encode(squares())}], "guidance_end and guid"),
    "a renamed module": ([{**INVERT, "model": "canny", "module": "fake_scribble"}], "no preprocessor 'fake_scribble'"),
    "a path": ([{**INVERT, "model": "canny", "input_image": "/etc/hostname"}], "paths and addresses are not opened"),
}


@pytest.mark.parametrize("name", OLD)
def test_forms_that_are_refused_are_refused_with_a_sentence(webui: Host, name: str) -> None:
    units, words = OLD[name]
    with pytest.raises(RequestError, match=words) as caught:
        send(webui, "ControlNet", *units)
    assert caught.value.status == 422


@pytest.mark.parametrize("route", ["txt2img", "img2img"])
def test_the_routes_of_long_ago_name_those_of_today(webui: Host, route: str) -> None:
    with pytest.raises(RequestError, match=f"post to .*/sdapi/v1/{route}.*alwayson_scripts") as caught:
        webui.post(
            f"controlnet/{route}", {"prompt": "a cat", "controlnet_units": [{"input_image": "", "model": "canny"}]}
        )
    assert caught.value.status == 410


PATHS = (
    "extensions.sd-webui-controlnet.scripts.external_code",
    "extensions.ControlStack.scripts.external_code",
    "scripts.external_code",
    "internal_controlnet.external_code",
)


@pytest.mark.parametrize("path", PATHS)
def test_other_extensions_give_units(webui: Host, path: str) -> None:
    """As ADetailer and Deforum do; without a picture the unit takes the one of img2img."""
    scene = {"route": "img2img", "init_images": [encode(squares())], "denoising_strength": 0.9}
    sent = {**UNIT, "weight": 0.8, "guidance_end": 0.9, "control_mode": "My prompt is more important"}
    wanted = webui.draw(sent, **scene)
    webui.post(f"test/visit?path={path}&model=canny")
    assert same(webui.draw(**scene), wanted)
    assert not same(webui.draw(**scene), webui.draw(sent, **scene))


@pytest.fixture(scope="module")
def guarded(webui_path: Path, webui_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A WebUI whose API asks for a password."""
    base = tmp_path_factory.mktemp("guarded")
    with webui_host.started(webui_path, base, webui_models, flags=("--api-auth", "me:secret,you:other")) as host:
        yield host


@pytest.mark.parametrize("auth", ["", "me:wrong", "nobody:secret"])
def test_routes_ask_for_the_password(guarded: Host, auth: str) -> None:
    stranger = Host(guarded.base, guarded.port, guarded.log, auth)
    for path in ("version", "model_list", "module_list", "control_types", "settings"):
        with pytest.raises(RequestError) as caught:
            stranger.get(f"controlnet/{path}")
        assert caught.value.status == 401
    for path in ("detect", "render_openpose_json", "unload"):
        with pytest.raises(RequestError) as caught:
            stranger.post(f"controlnet/{path}", {})
        assert caught.value.status == 401


def test_routes_take_the_password(guarded: Host) -> None:
    for auth in ("me:secret", "you:other"):
        assert Host(guarded.base, guarded.port, guarded.log, auth).get("controlnet/version") == {"version": 3}


def test_the_webuiapi_client(webui: Host) -> None:
    """Unchanged: the lists, detect, and pictures with units."""
    webuiapi = pytest.importorskip("webuiapi", reason="the client `webuiapi` is not installed")
    from PIL import Image

    api = webuiapi.WebUIApi(port=webui.port, sampler="Euler a", steps=3)
    picture = Image.fromarray(squares())
    assert api.controlnet_version() == 3
    name = next(each for each in api.controlnet_model_list() if each.startswith("canny"))
    assert "canny" in api.controlnet_module_list()
    found = api.controlnet_detect(module="canny", images=[picture])
    assert len(found.images) == 1
    size = {"width": SIZE, "height": SIZE, "seed": 1}
    unit = webuiapi.ControlNetUnit(image=picture, module="canny", model=name)
    plain = np.array(api.txt2img(prompt="a cat", **size).image)
    drawn = api.txt2img(prompt="a cat", controlnet_units=[unit, unit], **size)
    assert len(drawn.images) == 3
    assert np.abs(plain.astype(int) - np.array(drawn.image)).mean() > 5
    bare = webuiapi.ControlNetUnit(module="none", model=name)
    without = api.img2img(prompt="a cat", images=[picture], **size)
    again = api.img2img(prompt="a cat", images=[picture], controlnet_units=[bare], **size)
    assert np.abs(np.array(again.image).astype(int) - np.array(without.image)).mean() > 5
