"""Preprocessors under the WebUI's names and with its three numbers: processor_res, threshold_a, threshold_b.

What a number means is the preprocessor's own declaration. A number outside its range becomes the default and one line
in the console, as in sd-webui-controlnet, because clients send 64 for whatever they do not care about.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ....core.fields import FROM_PREPROCESSOR, NO_MODEL, UnitArgs
from ....preprocessors import find, offered
from ....preprocessors.declaration import Parameter
from ....preprocessors.perform import Preprocessor
from ....preprocessors.webui import LABELS

if TYPE_CHECKING:
    from ....preprocessors.perform import Runtime
    from .pictures import Image

log = logging.getLogger("controlstack")

# What the WebUI's own slider allows; ours goes further, so only the default is taken from it.
RESOLUTION = {"name": "Resolution", "value": 512, "min": 64, "max": 2048, "step": 8}
NUMBERED = frozenset({  # preprocessors whose numbers threshold_a and threshold_b are for clients; sd-webui-controlnet
    "canny", "blur_gaussian", "scribble_xdog", "threshold", "tile_resample", "tile_colorfix", "tile_colorfix+sharp",
    "recolor_luminance", "recolor_intensity", "reference_only", "reference_adain", "reference_adain+attn",
    "depth_leres", "depth_leres++", "softedge_teed", "softedge_anyline", "mlsd", "normal_midas", "normal_dsine",
    "mediapipe_face",
})  # fmt: skip
OWN_SIZE = frozenset(
    {"tile_resample", "recolor_luminance", "recolor_intensity"}
)  # no resolution in sd-webui-controlnet
ALL = "All"
TAGS: tuple[str, ...] = (  # control types in the order in which users know them
    ALL, "Canny", "Depth", "NormalMap", "OpenPose", "MLSD", "Lineart", "SoftEdge", "Scribble", "Segmentation",
    "Shuffle", "Tile", "Blur", "Inpaint", "InstructP2P", "Recolor", "T2I-Adapter",
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
    """All names, as `/controlnet/module_list` gives them: those that clients know, then those that are ours alone."""
    return [name for each in offered() for name in _names(each, aliases)]


def sliders(preprocessor: Preprocessor) -> list[dict[str, Any]]:
    """The sliders of a preprocessor: resolution first, then its own numbers."""
    return _with_resolution(preprocessor, preprocessor.parameters)


def detail(preprocessor: Preprocessor) -> dict[str, Any]:
    """One entry of `module_detail`: the numbers that clients can set as thresholds."""
    known = [each for each in thresholds(preprocessor) if each is not None]
    return {"model_free": False, "sliders": _with_resolution(preprocessor, known)}


def thresholds(preprocessor: Preprocessor) -> tuple[Parameter | None, Parameter | None]:
    """What threshold_a and threshold_b mean; the preprocessor's other numbers go by their names.

    Clients send both for every preprocessor, 64 as a rule, so they must not set a number that was never theirs.
    """
    if preprocessor.id not in NUMBERED and not _is_ours(preprocessor):
        return None, None
    first, second, *_ = (*preprocessor.parameters, None, None)
    return first, second


def of_type(tag: str) -> list[Preprocessor]:
    """The preprocessors of a control type, the picture itself first."""
    if tag == ALL:
        return list(offered())
    return [each for each in offered() if each.id == "none" or tag in each.control_types]


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
        for name, parameter in zip(("threshold_a", "threshold_b"), thresholds(preprocessor), strict=True)
    )
    return replace(unit, processor_res=int(resolution), threshold_a=a, threshold_b=b)


class Preprocessing:
    """Runs preprocessors, with the networks and the memory of earlier hints that `runtime` brings."""

    def __init__(self, runtime: Runtime | None = None) -> None:
        self.runtime = runtime

    def __call__(
        self,
        unit: UnitArgs,
        picture: Image,
        resolution: int | None = None,
        seed: int = 0,
        mask: Image | None = None,
    ) -> Image:
        """The hint of `picture` [H, W, 3]; `unit` has gone through `with_defaults`.

        resolution: pixel perfect's answer, instead of the unit's. mask: [H, W], for the preprocessors that take one;
        none is an empty one.
        """
        import numpy as np

        preprocessor = lookup(unit.module)
        preprocessor.check_gives_hint()
        if preprocessor.takes_mask and mask is None:
            mask = np.zeros(picture.shape[:2], np.uint8)
        return preprocessor(
            picture,
            mask=mask if preprocessor.takes_mask else None,
            resolution=None if preprocessor.id in OWN_SIZE else resolution or unit.processor_res,
            seed=seed,
            runtime=self.runtime,
            **parameters_of(unit),
        )


def parameters_of(unit: UnitArgs) -> dict[str, float]:
    """The preprocessor's own numbers as a unit sets them, by name."""
    pairs = zip(thresholds(lookup(unit.module)), (unit.threshold_a, unit.threshold_b), strict=True)
    numbers = {each.name: round(value) if each.integer else value for each, value in pairs if each is not None}
    return {**numbers, **unit.parameters}


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
    for tag in (tag for each in offered() for tag in each.control_types):
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


def _names(preprocessor: Preprocessor, aliases: bool = False) -> list[str]:
    known = [LABELS[name] if aliases else name for name in LABELS if find(name) is preprocessor]
    return list(dict.fromkeys(known)) or [preprocessor.id]


def _is_ours(preprocessor: Preprocessor) -> bool:
    """Whether sd-webui-controlnet has no such preprocessor."""
    return all(find(name) is not preprocessor for name in LABELS)


def _with_resolution(preprocessor: Preprocessor, parameters: Sequence[Parameter]) -> list[dict[str, Any]]:
    resolution = [dict(RESOLUTION)] if preprocessor.resizes and preprocessor.id not in OWN_SIZE else []
    return resolution + [_slider(parameter) for parameter in parameters]


def _bounded(module: str, name: str, value: float, slider: dict[str, Any]) -> float:
    if slider["min"] <= value <= slider["max"]:
        return value
    if value != FROM_PREPROCESSOR:
        log.warning("[%s.%s] Invalid value(%s), using default value %s.", module, name, value, slider["value"])
    return slider["value"]
