"""An extension of the WebUI for tests that runs the code of other extensions: ADetailer's, Deforum's, and others'.

ADetailer stands beside it as an extension; what it detects is given here, since its detectors need weights. Of others
their modules are loaded from folders that environment variables name, and their own functions are called.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import base64
import importlib
import importlib.util
import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from modules import call_queue, processing, script_callbacks, scripts, shared
from PIL import Image


def detect_always(_model: str, image: Image.Image, _confidence: float = 0.3) -> Any:
    """The middle of every picture, in place of ADetailer's `mediapipe_predict`."""
    from adetailer import PredictOutput

    width, height = image.size
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = 255
    box = [width / 4, height / 4, 3 * width / 4, 3 * height / 4]
    return PredictOutput(bboxes=[box], masks=[Image.fromarray(mask)], confidences=[0.9], preview=image)


def give_adetailer_eyes() -> None:
    loaded = [each.script_class for each in scripts.scripts_data if each.script_class.__name__ == "AfterDetailerScript"]
    for script in loaded:
        script._postprocess_image_inner.__globals__["mediapipe_predict"] = detect_always


def encode_alike() -> None:
    """Pictures become latents with random numbers: always the same ones, so that requests can be compared."""
    original = processing.images_tensor_to_samples

    def seeded(*args: Any, **kwargs: Any) -> Any:
        torch.manual_seed(0)
        return original(*args, **kwargs)

    processing.images_tensor_to_samples = seeded


def load(variable: str, path: str, name: str) -> Any:
    """A module of the extension in the folder that an environment variable names; inside a package if it has a dot."""
    root = Path(os.environ[variable])
    if "." in name:
        sys.path.append(str(root / path))
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(name, root / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def request(kind: str, settings: dict[str, Any], picture: str | None) -> Any:
    """A request as extensions make it."""
    settings = {"sd_model": shared.sd_model, "do_not_save_samples": True, "do_not_save_grid": True, **settings}
    if kind == "txt2img":
        p = processing.StableDiffusionProcessingTxt2Img(**settings)
        p.scripts = scripts.scripts_txt2img
    else:
        p = processing.StableDiffusionProcessingImg2Img(init_images=[decode(picture)], **settings)
        p.scripts = scripts.scripts_img2img
    return p


def drawn(p: Any) -> dict[str, list[str]]:
    """What the WebUI makes of a request."""
    shared.state.begin(job="test")
    try:
        done = processing.process_images(p)
    finally:
        shared.state.end()
        p.close()
    return {"images": [encode(each) for each in done.images]}


def deforum(body: dict[str, Any]) -> dict[str, Any]:
    """One frame with Deforum's `process_with_controlnet`; `controls` are its settings, without their `cn_i_`."""
    module = load("DEFORUM_PATH", "scripts", "deforum_helpers.deforum_controlnet")
    module.find_controlnet()  # as its page does first: this call finds it, further ones return it
    values: dict[str, Any] = {}
    for i in range(1, module.num_of_models + 1):
        given = body["controls"][i - 1] if i <= len(body["controls"]) else {}
        values |= {f"cn_{i}_{name}": value for name, value in {**DEFORUM, **given}.items()}
    controls = SimpleNamespace(**values)
    p = request(body["kind"], body["settings"], body.get("picture"))
    args = SimpleNamespace(outdir=body["folder"], use_init=False, init_image=None, init_image_box=None)
    module.unpack_controlnet_vids(args, ANIMATION, controls)
    module.process_with_controlnet(
        p, args, ANIMATION, controls, SimpleNamespace(init_sample=None), SimpleNamespace(use_parseq=False),
        is_img2img=body["kind"] == "img2img", frame_idx=body["frame"],
    )  # fmt: skip
    with call_queue.queue_lock:
        return drawn(p)


ANIMATION = SimpleNamespace(max_frames=3, animation_mode="2D")
DEFORUM: dict[str, Any] = {
    "enabled": False, "overwrite_frames": True, "vid_path": "", "mask_vid_path": "", "low_vram": False,
    "pixel_perfect": False, "module": "none", "model": "None", "weight": "0:(1)", "guidance_start": "0:(0.0)",
    "guidance_end": "0:(1.0)", "processor_res": 64, "threshold_a": 64, "threshold_b": 64,
    "resize_mode": "Inner Fit (Scale to Fit)", "control_mode": "Balanced", "loopback_mode": False,
}  # fmt: skip


def deforum_page() -> dict[str, Any]:
    """Deforum's page for units: the names of its components, and what its lists offer."""
    import gradio as gr

    module = load("DEFORUM_PATH", "scripts", "deforum_helpers.deforum_controlnet")
    module.find_controlnet()  # as its page does first: this call finds it, further ones return it
    with gr.Blocks(), gr.Tabs():
        made = module.setup_controlnet_ui_raw()
    first = made["model_params"][1]
    return {"models": first["model"].choices, "modules": first["module"].choices, "names": list(first)}


def inpaint_anything(body: dict[str, Any]) -> dict[str, Any]:
    """What Inpaint Anything's `run_cn_inpaint` does with its own module `ia_webui_controlnet`."""
    module = load("INPAINT_ANYTHING_PATH", "ia_webui_controlnet.py", "ia_webui_controlnet")
    code = module.find_controlnet()
    picture = decode(body["picture"])
    p = module.get_sd_img2img_processing(picture, decode(body["mask"]), "a cat", "a dog", "Euler a", 3, 7, 0.8, 1)
    module.backup_alwayson_scripts(p.scripts)
    module.disable_alwayson_scripts_wo_cn(code, p.scripts)
    try:
        values = {
            "enabled": True, "module": body["module"], "model": body["model"], "weight": 0.7,
            "image": {"image": np.array(picture), "mask": np.array(decode(body["mask"]))}, "low_vram": False,
            "resize_mode": code.ResizeMode.RESIZE, "processor_res": 64, "guidance_start": 0.0, "guidance_end": 1.0,
            "pixel_perfect": True, "control_mode": "Balanced", "threshold_a": 0.5, "threshold_b": 0.5,
        }  # fmt: skip
        unit = code.to_processing_unit(values)
        p.script_args = np.zeros(module.get_controlnet_args_to(code, p.scripts)).tolist()
        code.update_cn_script_in_processing(p, [unit])
        p.init_images, p.seed = [picture], 1
        with call_queue.queue_lock:
            return drawn(p)
    finally:
        module.clear_controlnet_cache(code, p.scripts)
        module.restore_alwayson_scripts(p.scripts)


def replacer(body: dict[str, Any]) -> dict[str, Any]:
    """What Replacer does with a unit: at its start, on its page, and for a request with its `inpaint`."""
    import gradio as gr

    theirs = load("REPLACER_PATH", "", "replacer.extensions.replacer_extensions")
    module = theirs.controlnet
    module.initCNScript()
    if body["unit"] is None:
        with gr.Blocks():
            given = [each.value for each in module.SCRIPT.ui(True)]
    else:
        given, _ = theirs.prepareScriptsArgs_api({"controlnet": {"args": [body["unit"]]}})
    theirs.background_extensions.SCRIPTS = []
    settings = SimpleNamespace(
        cn_args=given, soft_inpaint_args=[], animatediff_args=None, previous_frame_into_controlnet=None, mask_blur=0,
        originalH=None, originalW=None, inpainting_fill=1,
    )  # fmt: skip
    p = request("img2img", body["settings"], body["picture"])
    p.image_mask = decode(body["mask"])
    module.enableInpaintModeForCN(settings, p, None)
    theirs.applyScripts(p, settings)
    theirs.restoreTemporaryChangedThings()
    with call_queue.queue_lock:
        return drawn(p)


def decode(text: str | None) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text or ""))).convert("RGB")


def encode(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def add_routes(_demo: Any, app: Any) -> None:
    give_adetailer_eyes()
    encode_alike()
    app.add_api_route("/test/deforum", deforum, methods=["POST"])
    app.add_api_route("/test/inpaint_anything", inpaint_anything, methods=["POST"])
    app.add_api_route("/test/replacer", replacer, methods=["POST"])
    app.add_api_route("/test/deforum_page", deforum_page, methods=["GET"])


script_callbacks.on_app_started(add_routes)
