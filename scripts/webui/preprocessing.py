"""Preprocessors under the WebUI's names and with its three numbers: processor_res, threshold_a, threshold_b.

What a number means is the preprocessor's own declaration. A number outside its range becomes the default and one line
in the console, as in sd-webui-controlnet, because clients send 64 for whatever they do not care about.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...core.fields import FROM_PREPROCESSOR, NO_MODEL, UnitArgs
from ...preprocessors import REGISTRY, find
from ...preprocessors.base import Parameter, Preprocessor

if TYPE_CHECKING:
    from .pictures import Image

log = logging.getLogger("controlstack")

# What the WebUI's own slider allows; ours goes further, so only the default is taken from it.
RESOLUTION = {"name": "Resolution", "value": 512, "min": 64, "max": 2048, "step": 8}
KEPT = 16  # results in memory, as many as sd-webui-controlnet keeps
ALL = "All"
TAGS: tuple[str, ...] = (  # control types in the order in which users know them
    ALL, "Canny", "Depth", "NormalMap", "OpenPose", "MLSD", "Lineart", "SoftEdge", "Scribble", "Segmentation",
    "Shuffle", "Tile", "Blur", "Inpaint", "InstructP2P", "Reference", "Recolor", "T2I-Adapter", "IP-Adapter",
)  # fmt: skip
TAG_WORDS = {  # further words in file names that mean a type; sd-webui-controlnet
    "Blur": ("tile", "blur"),
    "InstructP2P": ("ip2p",),
    "MLSD": ("mlsd",),
    "NormalMap": ("normal",),
    "Recolor": ("recolor", "luminance", "intensity"),
    "Scribble": ("scribble", "sketch"),
    "SoftEdge": ("softedge", "hed", "pidinet"),
    "Segmentation": ("seg",),
    "T2I-Adapter": ("t2i", "adapter"),
    "Tile": ("tile", "blur"),
}


def lookup(module: str) -> Preprocessor:
    """The preprocessor of a WebUI's name; "None" and nothing are the picture itself."""
    return find(module or "none")


def label(preprocessor: Preprocessor) -> str:
    """The longer name that the WebUI shows, if there is one."""
    return preprocessor.aliases[0] if preprocessor.aliases else preprocessor.id


def names(aliases: bool = False) -> list[str]:
    """All names, as `/controlnet/module_list` gives them."""
    return [label(each) if aliases else each.id for each in REGISTRY]


def sliders(preprocessor: Preprocessor) -> list[dict[str, Any]]:
    """The sliders of a preprocessor: resolution first, then its own numbers."""
    own = [_slider(parameter) for parameter in preprocessor.parameters]
    return ([dict(RESOLUTION)] if preprocessor.resizes else []) + own


def detail(preprocessor: Preprocessor) -> dict[str, Any]:
    """One entry of `module_detail`."""
    return {"model_free": False, "sliders": sliders(preprocessor)}


def of_type(tag: str) -> list[Preprocessor]:
    """The preprocessors of a control type, the picture itself first."""
    if tag == ALL:
        return list(REGISTRY)
    return [each for each in REGISTRY if each.id == "none" or tag in each.control_types]


def models_of_type(tag: str, models: list[str]) -> list[str]:
    """The models whose file names speak of a control type: no weight tells what a hint has to show."""
    words = (tag.lower(), *TAG_WORDS.get(tag, ()))
    return [name for name in models if tag == ALL or any(word in name.lower() for word in words)]


def control_types(models: list[str]) -> dict[str, dict[str, Any]]:
    """What `/controlnet/control_types` answers."""
    return {tag: _control_type(tag, models) for tag in (*TAGS, *_further_tags())}


def with_defaults(unit: UnitArgs) -> UnitArgs:
    """The unit with its numbers inside their ranges, -1 and what is outside replaced by the default."""
    preprocessor = lookup(unit.module)
    resolution = _bounded(preprocessor.id, "processor_res", unit.processor_res, RESOLUTION)
    a, b = (
        _bounded(preprocessor.id, name, getattr(unit, name), _slider(parameter)) if parameter else FROM_PREPROCESSOR
        for name, parameter in zip(("threshold_a", "threshold_b"), _thresholds(preprocessor), strict=True)
    )
    return replace(unit, processor_res=int(resolution), threshold_a=a, threshold_b=b)


class Preprocessing:
    """Runs preprocessors and keeps their last results."""

    def __init__(self) -> None:
        self._results: OrderedDict[str, Image] = OrderedDict()

    def __call__(self, unit: UnitArgs, picture: Image, resolution: int | None = None, seed: int = 0) -> Image:
        """The hint of `picture` [H, W, 3]; `unit` has gone through `with_defaults`.

        resolution: pixel perfect's answer, instead of the unit's.
        """
        preprocessor = lookup(unit.module)
        size = resolution or unit.processor_res
        parameters: dict[str, Any] = {**_named(preprocessor, unit), **unit.parameters}
        key = _digest(picture, preprocessor.id, size if preprocessor.resizes else None, parameters, seed)
        if key not in self._results or not preprocessor.deterministic:
            self._results[key] = preprocessor(picture, resolution=size, seed=seed, **parameters)
        self._results.move_to_end(key)
        while len(self._results) > KEPT:
            self._results.popitem(last=False)
        return self._results[key]


def _control_type(tag: str, models: list[str]) -> dict[str, Any]:
    found, fitting = of_type(tag), models_of_type(tag, models)
    own = [each for each in found if each.id != "none"]
    return {
        "module_list": [label(each) for each in found],
        "model_list": [NO_MODEL, *fitting],
        "default_option": label(own[0]) if own and tag != ALL else "none",
        "default_model": fitting[0] if fitting and tag != ALL else NO_MODEL,
    }


def _further_tags() -> Iterator[str]:
    seen = set(TAGS)
    for tag in (tag for each in REGISTRY for tag in each.control_types):
        if tag not in seen:
            seen.add(tag)
            yield tag


def _slider(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": _capitals(parameter.label),
        "value": parameter.default,
        "min": parameter.minimum,
        "max": parameter.maximum,
        "step": parameter.step,
    }


def _capitals(text: str) -> str:
    """Each word with a capital, the rest as it is: "Low threshold" -> "Low Threshold"."""
    return " ".join(word[:1].upper() + word[1:] for word in text.split(" "))


def _thresholds(preprocessor: Preprocessor) -> tuple[Parameter | None, Parameter | None]:
    first, second, *_ = (*preprocessor.parameters, None, None)
    return first, second


def _named(preprocessor: Preprocessor, unit: UnitArgs) -> dict[str, float]:
    pairs = zip(_thresholds(preprocessor), (unit.threshold_a, unit.threshold_b), strict=True)
    return {each.name: round(value) if each.integer else value for each, value in pairs if each is not None}


def _bounded(module: str, name: str, value: float, slider: dict[str, Any]) -> float:
    if slider["min"] <= value <= slider["max"]:
        return value
    if value != FROM_PREPROCESSOR:
        log.warning("[%s.%s] Invalid value(%s), using default value %s.", module, name, value, slider["value"])
    return slider["value"]


def _digest(picture: Image, *settings: object) -> str:
    digest = hashlib.sha256(repr((picture.shape, *settings)).encode())
    digest.update(picture.tobytes())
    return digest.hexdigest()
