"""Many random failures, actions and payloads in a real WebUI: each is followed by the picture that came before."""

from __future__ import annotations

import random
import string
import threading
import time
from typing import Any

import pytest
from webui_host import Drawing, Host, RequestError, encode
from webui_units import photograph, same, unit

pytestmark = [pytest.mark.hosts, pytest.mark.campaign]

FILES = ("canny", "depth", "pose", "t2i")
MODES = ("Balanced", "My prompt is more important", "ControlNet is more important")
FUNCTIONS = {  # which of the first calls fails; a request has more
    "controlstack.core.stack.ControlStack.__call__": 3,
    "torch.nn.functional.conv2d": 20,
    "torch.nn.functional.group_norm": 20,
}
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1e308, 10**30, 0.5, "", " ", "nan", "-inf", "\x1b[2J", "a" * 70_000, "None", [], [[]], {},
    {"a": {}}, ["x", 3], {"image": "", "mask": ""}, [1e308] * 13, "0: 1; 0.5: 0.3 ease-in", "\ud83d\ude00",
    "../../etc/passwd",
)  # fmt: skip
FIELDS = (
    "enabled", "module", "model", "weight", "image", "mask", "mask_image", "effective_region_mask", "resize_mode",
    "processor_res", "threshold_a", "threshold_b", "guidance_start", "guidance_end", "pixel_perfect", "control_mode",
    "inpaint_crop_input_image", "hr_option", "save_detected_map", "advanced_weighting", "input_mode", "batch_images",
    "union_control_type", "ipadapter_input", "curve", "parameters", "low_vram", "loopback", "unknown",
)  # fmt: skip


ASKED = (  # of `/controlnet/detect`
    "controlnet_module", "controlnet_input_images", "controlnet_images", "controlnet_processor_res",
    "controlnet_threshold_a", "controlnet_threshold_b", "controlnet_masks", "low_vram", "unknown",
)  # fmt: skip
DETECTED = (  # preprocessors without networks
    "none", "canny", "invert", "threshold", "shuffle", "tile_resample", "scribble_xdog", "blur_gaussian",
    "inpaint_only", "reference_only", "color", "recolor_luminance",
)  # fmt: skip


def random_units(chance: random.Random) -> list[dict[str, Any]]:
    return [
        unit(
            chance.randint(0, 5),
            chance.choice(FILES[:2]),
            weight=round(chance.uniform(0.2, 2), 2),
            control_mode=chance.choice(MODES),
            module=chance.choice(("none", "canny")),
            threshold_a=chance.randint(0, 200),
        ).request
        for _ in range(chance.randint(1, 3))
    ]


@pytest.mark.tries(4, 100)
def test_failures_leave_nothing_behind(webui: Host, plain: Drawing, times: int) -> None:
    failed = 0
    for trial in range(times):
        chance = random.Random(trial)
        units = random_units(chance)
        if chance.random() < 0.5:
            webui.post(f"test/set?how=raise&call={chance.randint(1, 3)}")
        else:
            function = chance.choice(list(FUNCTIONS))
            webui.post(f"test/meddle?function={function}&call={chance.randint(1, FUNCTIONS[function])}")
        try:
            webui.post("sdapi/v1/txt2img", _body(units))
        except RequestError as error:
            failed += "the test asked for a failure" in str(error)
        assert webui.get("test/meddled") == 0, trial
        assert webui.count()["hooks"] == 0, trial
        assert same(webui.draw(), plain), trial
    assert failed >= times * 0.9


@pytest.mark.tries(4, 100)
def test_users_actions_leave_nothing_behind(webui: Host, plain: Drawing, times: int) -> None:
    for trial in range(times):
        chance = random.Random(trial)
        body = _body(random_units(chance), steps=20)
        thread = threading.Thread(target=webui.post, args=("sdapi/v1/txt2img", body))
        thread.start()
        time.sleep(chance.uniform(0, 1))
        webui.post(f"test/act?how={chance.choice(('interrupt', 'skip', 'stop'))}")
        thread.join()
        assert webui.count()["hooks"] == 0, trial
        assert same(webui.draw(), plain), trial


@pytest.mark.tries(40, 1_000)
def test_payloads_are_drawn_or_answered_by_a_sentence(webui: Host, plain: Drawing, times: int) -> None:
    answers: dict[int, int] = {}
    for trial in range(times):
        chance = random.Random(trial)
        fuzzed = random_units(chance)
        for _ in range(chance.randint(1, 3)):
            chance.choice(fuzzed)[chance.choice(FIELDS)] = _odd(chance)
        try:
            webui.draw(*fuzzed, steps=1)
            status, said = 200, ""
        except RequestError as error:
            status, said = error.status, str(error)
        answers[status] = answers.get(status, 0) + 1
        assert status in {200, 422}, (trial, said)
        assert all(each in string.printable or ord(each) > 159 for each in said), trial
        if trial % 50 == 49:
            assert webui.count()["hooks"] == 0
            assert same(webui.draw(), plain), trial
    print(f"answers by status: {answers}")


@pytest.mark.tries(40, 1_000)
def test_detections_are_hints_or_a_sentence(webui: Host, times: int) -> None:
    """`/controlnet/detect` with fields of other types, sizes and contents: no traceback on the console either."""
    before, modules = len(webui.log.read_text()), webui.get("controlnet/module_list")["module_list"]
    drawn = [each for each in DETECTED if each in modules]
    answers: dict[int, int] = {}
    for trial in range(times):
        chance = random.Random(trial)
        pictures = [encode(photograph(chance.randint(0, 5))) for _ in range(chance.randint(1, 2))]
        body: dict[str, Any] = {"controlnet_module": chance.choice(drawn), "controlnet_input_images": pictures}
        for _ in range(chance.randint(1, 2)):
            body[chance.choice(ASKED)] = _odd(chance)
        try:
            webui.post("controlnet/detect", body)
            status, said = 200, ""
        except RequestError as error:
            status, said = error.status, str(error)
        answers[status] = answers.get(status, 0) + 1
        assert status in {200, 422}, (trial, said)
        assert all(each in string.printable or ord(each) > 159 for each in said), trial
    assert "Traceback" not in webui.log.read_text()[before:]
    assert {200, 422} <= set(answers)
    print(f"answers of detect by status: {answers}")


def _odd(chance: random.Random) -> Any:
    """A value that a field may not expect: of another type, size or content, or a damaged picture."""
    if chance.random() < 0.8:
        return chance.choice(ODD)
    picture = encode(photograph(chance.randint(0, 9)))
    at = chance.randrange(len(picture))
    return picture[:at] + chance.choice("a\n= ") + picture[at + chance.randint(0, 9) :]


def _body(units: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
    size = {"width": 64, "height": 64, "steps": 3, "seed": 1, "prompt": "a cat"}
    return {**size, "alwayson_scripts": {"controlnet": {"args": units}}, **settings}
