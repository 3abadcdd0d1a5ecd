"""Preprocessors under the WebUI's names and with its three numbers: processor_res, threshold_a, threshold_b.

What a number means is the preprocessor's own declaration. A number outside its range becomes the default and one line
in the console, as in sd-webui-controlnet, because clients send 64 for whatever they do not care about.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ....preprocessors import find
from ....preprocessors.declaration import Parameter
from ....preprocessors.perform import Preprocessor
from ....preprocessors.poses.points import to_json
from ....units.hint import cards, draw_hint, resolution_of
from ....units.offer import ALL, default_model, preprocessor_of
from ....units.request import AUTO, NONE, UnitRequest
from ....units.webui import names as webui_names
from ....units.webui.fields import (
    DEFAULT_SIDE,
    FROM_PREPROCESSOR,
    LARGEST_SIDE,
    LEAST_SIDE,
    NO_MODEL,
    UnitArgs,
    is_auto,
)
from ....units.webui.fileless import default_preprocessor, is_model, modules, of_type, types
from ....units.webui.names import OWN_SIZE, thresholds

if TYPE_CHECKING:
    from ....preprocessors.perform import Runtime
    from ....units.hint import Hint
    from ..pictures.reading import Image

log = logging.getLogger("controlstack")

# The WebUI's own slider; a text of ours may ask for more, by a key of its own.
RESOLUTION = {"name": "Resolution", "value": DEFAULT_SIDE, "min": LEAST_SIDE, "max": LARGEST_SIDE, "step": 8}


def lookup(module: str) -> Preprocessor:
    """Return the preprocessor of a WebUI's name; "None" and nothing are the picture itself."""
    return find(module or NONE)


def label(preprocessor: Preprocessor) -> str:
    """Return the longer name that clients show, if there is one."""
    return webui_names.names(preprocessor, labels=True)[0]


def names(aliases: bool = False) -> list[str]:
    """Return all names, as `/controlnet/module_list` gives them: those that clients know, then those of ours alone."""
    return [name for each in modules() for name in webui_names.names(each, aliases)]


def sliders(preprocessor: Preprocessor) -> list[dict[str, Any]]:
    """Return the sliders of a preprocessor: resolution first, then its own numbers."""
    return _with_resolution(preprocessor, preprocessor.parameters)


def detail(preprocessor: Preprocessor) -> dict[str, Any]:
    """Return one entry of `module_detail`: the numbers that clients can set as thresholds."""
    known = [each for each in thresholds(preprocessor) if each is not None]
    return {"model_free": is_model(preprocessor), "sliders": _with_resolution(preprocessor, known)}


def control_types(offer: Callable[[str], Sequence[str]]) -> dict[str, dict[str, Any]]:
    """Return what `/controlnet/control_types` answers; preprocessors have their names of `module_list` with aliases.

    offer: returns the names of the models of a control type.
    """
    return {tag: _control_type(tag, offer(tag)) for tag in types()}


def with_defaults(unit: UnitArgs) -> UnitArgs:
    """Return the unit with its numbers inside their ranges, -1 and what is outside replaced by the default."""
    if is_auto(unit.module):
        resolution = _bounded(AUTO, "processor_res", unit.processor_res, RESOLUTION)
        return replace(unit, processor_res=int(resolution))
    preprocessor = lookup(unit.module)
    resolution = _bounded(preprocessor.id, "processor_res", unit.processor_res, RESOLUTION)
    a, b = (
        _bounded(preprocessor.id, name, getattr(unit, name), _slider(parameter)) if parameter else FROM_PREPROCESSOR
        for name, parameter in zip(("threshold_a", "threshold_b"), thresholds(preprocessor), strict=True)
    )
    return replace(unit, processor_res=int(resolution), threshold_a=a, threshold_b=b)


class Preprocessing:
    """Runs preprocessors, with the networks and the memory of earlier hints that `runtime` brings."""

    def __init__(self, runtime: Runtime | None = None) -> None:
        self.runtime = runtime

    def __call__(
        self,
        request: UnitRequest,
        picture: Image,
        target: tuple[int, int] | None = None,
        seed: int = 0,
        mask: Image | None = None,
    ) -> Hint:
        """Return the hint of `picture` [H, W, 3], with a fourth channel for what is to be invented, or an encoder's.

        target: height and width of the result, for pixel perfect units. mask: [H, W], for the preprocessors that take
        one; without one nothing is to be invented.
        """
        import numpy as np

        takes_mask = preprocessor_of(request).takes_mask
        if takes_mask and mask is None:
            mask = np.zeros(picture.shape[:2], np.uint8)
        given = mask if takes_mask else None
        return draw_hint(request, picture, inpaint_mask=given, target=target, runtime=self.runtime, seed=seed)

    def with_poses(
        self, request: UnitRequest, picture: Image, target: tuple[int, int] | None = None, mask: Image | None = None
    ) -> tuple[Image, dict[str, Any] | None]:
        """Return the same as a picture to look at, and the poses in it as OpenPose's JSON, where it finds such."""
        preprocessor = preprocessor_of(request)
        if not preprocessor.finds_poses:
            hint = self(request, picture, target, mask=mask)
            return cards(picture, preprocessor.title) if isinstance(hint, Tensor) else hint, None
        resolution = resolution_of(request, (picture.shape[0], picture.shape[1]), target)
        (pose,) = preprocessor.poses(picture, resolution=resolution, runtime=self.runtime)
        return preprocessor.draw(pose, **request.parameters), to_json(pose)


def _control_type(tag: str, models: Sequence[str]) -> dict[str, Any]:
    return {
        "module_list": [label(each) for each in of_type(tag)],
        "model_list": [NO_MODEL, *models],
        "default_option": label(default_preprocessor(tag)),
        "default_model": NO_MODEL if tag == ALL else default_model(models) or NO_MODEL,
    }


def _slider(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": _capitals(parameter.label),
        "value": parameter.default,
        "min": parameter.minimum,
        "max": parameter.maximum,
        "step": parameter.step,
    }


def _capitals(text: str) -> str:
    """Return text with a capital at each word: "Low threshold" -> "Low Threshold"."""
    return " ".join(word[:1].upper() + word[1:] for word in text.split(" "))


def _with_resolution(preprocessor: Preprocessor, parameters: Sequence[Parameter]) -> list[dict[str, Any]]:
    resolution = [dict(RESOLUTION)] if preprocessor.resizes and preprocessor.id not in OWN_SIZE else []
    return resolution + [_slider(parameter) for parameter in parameters]


def _bounded(module: str, name: str, value: float, slider: dict[str, Any]) -> float:
    if slider["min"] <= value <= slider["max"]:
        return value
    if value != FROM_PREPROCESSOR:
        log.warning("[%s.%s] Invalid value(%s), using default value %s.", module, name, value, slider["value"])
    return slider["value"]
