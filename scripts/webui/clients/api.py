"""The routes that clients of sd-webui-controlnet call: lists, `detect`, and poses as pictures.

Unlike there, they ask for the password of `--api-auth`, and whatever computes waits for its turn in the WebUI's queue,
on a thread of its own, so the page stays alive. What cannot work is answered with 422 and a sentence.
"""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ....core.errors import ControlError, HintError
from ....preprocessors import Output, find
from ....preprocessors.poses.drawing import draw
from ....preprocessors.poses.points import from_json
from ....units.webui.fields import parse_unit, request_of
from ....units.webui.fileless import is_model
from ..page.contents import contents
from ..page.settings import UNITS_OPTION, unit_count
from ..pictures.reading import read_mask, read_picture
from ..pictures.restoring import visible
from ..request import preprocessing
from ..request.needs import Services
from ..request.saying import refusal
from ..request.services import services

if TYPE_CHECKING:
    from ..pictures.reading import Image

VERSION = 3  # of sd-webui-controlnet's API
REALM = "ControlNet"
GONE = (  # sd-webui-controlnet gave up two routes
    "this route drew pictures in the first versions of the API: post to /sdapi/v1/txt2img or /sdapi/v1/img2img, with "
    'the units in {"alwayson_scripts": {"ControlNet": {"args": [unit, ...]}}}, each with enabled: true'
)


def add_routes(_demo: Any, app: Any) -> None:
    """Add our routes, once the server is up; `_demo` is None where there is no page."""
    from fastapi import Body, HTTPException

    def detect_(
        controlnet_module: str = Body("none"),
        controlnet_input_images: list[str] = Body([]),
        controlnet_images: list[str] = Body([]),
        controlnet_processor_res: int = Body(-1),
        controlnet_threshold_a: float = Body(-1),
        controlnet_threshold_b: float = Body(-1),
        controlnet_masks: list[str] = Body([]),
        low_vram: bool = Body(False),
    ) -> dict[str, Any]:
        numbers = {"threshold_a": controlnet_threshold_a, "threshold_b": controlnet_threshold_b}
        unit = {"module": controlnet_module, "processor_res": controlnet_processor_res, **numbers}
        return _said(detect, unit, controlnet_input_images or controlnet_images, controlnet_masks, low_vram)

    def render(poses: list[Any] = Body([])) -> dict[str, Any]:
        return _said(render_poses, poses)

    def gone() -> None:
        raise HTTPException(status_code=410, detail=GONE)

    guarded = {"dependencies": [_guard()]} if _passwords() else {}
    for path, answer in GET.items():
        app.add_api_route(f"/controlnet/{path}", answer, methods=["GET"], **guarded)
    posted = {"detect": detect_, "render_openpose_json": render, "unload": unload, "txt2img": gone, "img2img": gone}
    for path, answer in posted.items():
        app.add_api_route(f"/controlnet/{path}", answer, methods=["POST"], **guarded)


def version() -> dict[str, int]:
    """Return the version of the API."""
    return {"version": VERSION}


def model_list(update: bool = True) -> dict[str, list[str]]:
    """Return all control models, `stem [hash8]`; `update` looks at the folders again."""
    if update:
        services().files.refresh()
    return {"model_list": services().files.names}


def module_list(alias_names: bool = False) -> dict[str, Any]:
    """Return all preprocessors and their sliders."""
    names = preprocessing.names(alias_names)
    return {"module_list": names, "module_detail": {name: preprocessing.detail(find(name)) for name in names}}


def control_types() -> dict[str, Any]:
    """Return what belongs to each control type: models by what their files hold, and by their names."""
    files = services().files
    return {"control_types": preprocessing.control_types(lambda tag: contents().offer(tag, files, None))}


def settings() -> dict[str, int]:
    """Return how many units the page has; a request may have more."""
    return {UNITS_OPTION: unit_count()}


def unload() -> dict[str, str]:
    """Forget all control models and preprocessors' networks that are in memory."""
    with services().alone("controlnet unload"):
        free_memory(services())
    return {"info": "Success"}


GET: dict[str, Callable[..., dict[str, Any]]] = {
    "version": version,
    "model_list": model_list,
    "module_list": module_list,
    "control_types": control_types,
    "settings": settings,
}


def free_memory(shared: Services) -> None:
    """Empty the caches of networks, on the device and off it."""
    shared.host.after_run(True)
    shared.models.clear()
    if shared.preprocess.runtime is not None:
        shared.preprocess.runtime.pool.unload()


def detect(values: dict[str, Any], images: Sequence[str], masks: Sequence[str], low_vram: bool) -> dict[str, Any]:
    """Return the hints of some pictures: {"images": [base64], "info": "Success"}, and "poses" where there are any."""
    unit = preprocessing.with_defaults(parse_unit({"enabled": True, **values}))
    preprocessor = preprocessing.lookup(unit.module)
    if preprocessor.refusal and not is_model(preprocessor):
        raise HintError(f"Module not supported: {unit.module}: {preprocessor.refusal}")
    if preprocessor.output is Output.EMBEDDING:  # sd-webui-controlnet refuses it as well
        raise HintError(
            f"Module not supported: {unit.module} gives what an image encoder sees, which is no picture: name it in a "
            "unit of a request"
        )
    if not images:
        raise HintError("No image selected: send pictures in controlnet_input_images")
    if preprocessor.takes_mask and len(masks) != len(images):
        raise HintError(f"{unit.module} needs a mask for each picture: send them in controlnet_masks")
    pictures = [read_picture(each) for each in images]
    drawn = [read_mask(each) for each in masks] if preprocessor.takes_mask else [None] * len(images)
    with services().alone("controlnet detect"):
        work, request = services().preprocess.with_poses, request_of(unit)
        results = [work(request, picture, mask=mask) for picture, mask in zip(pictures, drawn, strict=True)]
        if low_vram:
            free_memory(services())
    answer: dict[str, Any] = {"images": [_encode(hint) for hint, _ in results], "info": "Success"}
    poses = [pose for _, pose in results if pose is not None]
    return {**answer, "poses": poses} if poses else answer


def render_poses(frames: Sequence[Any]) -> dict[str, Any]:
    """Return frames of OpenPose's JSON as pictures: {"images": [base64 of PNG files], "info": "Success"}."""
    if not frames:
        return {"info": "No pose data detected."}
    return {"images": [_encode(draw(from_json(frame))) for frame in frames], "info": "Success"}


def _said(work: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """Return the answer, or what is wrong as a sentence."""
    try:
        return work(*args)
    except ControlError as error:
        raise refusal(error) from error


def _encode(hint: Image) -> str:
    """Return a hint as base64 of a PNG."""
    from PIL import Image as Pillow

    buffer = io.BytesIO()
    Pillow.fromarray(visible(hint)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _passwords() -> dict[str, str]:
    """Return the password of each user, from `--api-auth user:password,user:password`."""
    from modules import shared

    pairs = (pair.partition(":") for pair in (shared.cmd_opts.api_auth or "").split(",") if pair)
    return {user: password for user, _, password in pairs}


def _guard() -> Any:
    """Return what FastAPI asks before each of our routes."""
    from secrets import compare_digest

    from fastapi import Depends, HTTPException
    from fastapi.security import HTTPBasic

    known = _passwords()

    def check(given: Any = Depends(HTTPBasic(realm=REALM))) -> None:
        password = known.get(given.username)
        if password is None or not compare_digest(given.password.encode(), password.encode()):
            wanted = {"WWW-Authenticate": f'Basic realm="{REALM}"'}
            raise HTTPException(status_code=401, detail="Incorrect username or password", headers=wanted)

    return Depends(check)
