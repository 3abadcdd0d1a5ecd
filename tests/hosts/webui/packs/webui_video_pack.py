"""An extension of the WebUI for tests with AnimateDiff: a small motion module, and requests as the page makes them.

AnimateDiff begins to train from motion modules that change nothing, and so is this one: what the U-Net answers can be
compared with the same U-Net without it, also where AnimateDiff draws a few frames at a time.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import base64
import io
from typing import Any

from modules import call_queue, processing, script_callbacks, scripts, shared
from torch import nn

LEVELS = (1, 2, 4, 4)


def make_motion(width: int) -> Any:
    """AnimateDiff's own layers, third version, for a U-Net of this width."""
    from motion_module import MotionModule, MotionModuleType, MotionWrapper

    motion = MotionWrapper.__new__(MotionWrapper)
    nn.Module.__init__(motion)
    motion.mm_name, motion.mm_hash, motion.mm_type = "small", "0" * 64, MotionModuleType.AnimateDiffV3
    widths = [width * factor for factor in LEVELS]
    motion.down_blocks = nn.ModuleList(MotionModule(each, num_mm=2, max_len=32) for each in widths)
    motion.up_blocks = nn.ModuleList(MotionModule(each, num_mm=3, max_len=32) for each in reversed(widths))
    return motion.eval()


def give_animatediff_weights() -> None:
    from scripts.animatediff_mm import mm_animatediff

    def load(_name: str) -> None:
        mm_animatediff.mm = make_motion(shared.sd_model.model.diffusion_model.model_channels)

    mm_animatediff.load = load


def from_page(body: dict[str, Any]) -> dict[str, Any]:
    """A request that is no client's: scripts have what the page's widgets hold. `film`: AnimateDiff's settings."""
    from scripts.animatediff_ui import AnimateDiffProcess

    runner = scripts.scripts_txt2img
    values = [0 if each is None else each.value for each in runner.inputs]
    film = next(each for each in runner.alwayson_scripts if each.title() == "AnimateDiff")
    values[film.args_from] = AnimateDiffProcess(**body["film"])
    for title, given in body["scripts"].items():
        script = next(each for each in runner.alwayson_scripts if each.title() == title)
        values[script.args_from : script.args_from + len(given)] = given
    settings = {"sd_model": shared.sd_model, "do_not_save_samples": True, "do_not_save_grid": True}
    p = processing.StableDiffusionProcessingTxt2Img(**settings, **body["settings"])
    p.scripts, p.script_args = runner, values
    for name, value in body["settings"].items():  # the WebUI's own widgets have set some
        setattr(p, name, value)
    with call_queue.queue_lock:
        shared.state.begin(job="test")
        try:
            done = processing.process_images(p)
        finally:
            shared.state.end()
            p.close()
    return {"images": [encode(each) for each in done.images]}


def encode(picture: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def add_routes(_demo: Any, app: Any) -> None:
    give_animatediff_weights()
    app.add_api_route("/test/film", from_page, methods=["POST"])


script_callbacks.on_app_started(add_routes)
