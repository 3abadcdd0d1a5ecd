"""The host's pictures -> hints, by our preprocessors, and the inputs that nodes draw from their declarations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..preprocessors import REGISTRY, find
from ..preprocessors.base import Parameter, Preprocessor
from ..preprocessors.networks import missing_packages
from ..preprocessors.poses import to_json
from .annotators import runtime

NAME = "preprocessor"
CHOICE = "preprocessor"  # of the input that chooses one; its parameters come beside it
SEED, LARGEST_SEED = "seed", 2**32 - 1
SEED_TOOLTIP = "The same seed gives the same hint."
ELSEWHERE = {"Reference", "IP-Adapter", "Revision"}  # types whose pictures no control model reads


def preprocessor_input(tooltip: str) -> io.DynamicCombo.Input:
    """The choice of a preprocessor; only the parameters of the chosen one are shown."""
    options = [io.DynamicCombo.Option(each.id, _inputs(each)) for each in _usable()]
    return io.DynamicCombo.Input(NAME, options, tooltip=tooltip)


def problem(choice: Any) -> str:
    """Why the chosen preprocessor cannot run on this machine, before anything runs; empty if it can."""
    preprocessor = find(choice[CHOICE] if isinstance(choice, Mapping) else choice)
    reason = missing_packages(preprocessor.networks)
    return f"{preprocessor.id}: {reason}" if reason else ""


def _usable() -> list[Preprocessor]:
    """Those whose result is a hint; the picture as it is, for controls that are no units, is not offered."""
    return [each for each in REGISTRY if ELSEWHERE.isdisjoint(each.control_types)]


def _settings(choice: Mapping[str, Any]) -> dict[str, Any]:
    """What the user set; the host hands over None for an optional input that a workflow does not have."""
    return {name: value for name, value in choice.items() if name != CHOICE and value is not None}


def _inputs(preprocessor: Preprocessor) -> list[io.Input]:
    """Its parameters, and a seed if the result depends on one."""
    inputs: list[io.Input] = [_input(each) for each in preprocessor.parameters]
    if not preprocessor.deterministic:
        inputs.append(io.Int.Input(SEED, default=0, min=0, max=LARGEST_SEED, optional=True, tooltip=SEED_TOOLTIP))
    return inputs


def _input(parameter: Parameter) -> io.WidgetInput:
    kind = io.Int if parameter.integer else io.Float
    return kind.Input(
        parameter.name,
        display_name=parameter.label,
        default=parameter.default,
        min=parameter.minimum,
        max=parameter.maximum,
        step=parameter.step,
        tooltip=parameter.doc,
    )


def make_hint(image: Tensor, choice: Mapping[str, Any], resolution: int | None, mask: Tensor | None = None) -> Tensor:
    """IMAGE [N, H, W, C] -> hints [N, h, w, 3] in 0..1, and -1 where an inpainting model is to invent.

    choice: the preprocessor's id and parameters, as the host hands over a dynamic combo. resolution: the short side in
    pixels, None is the picture's own. mask: MASK [N or 1, h, w], for the preprocessors that take one.
    """
    preprocessor = find(choice[CHOICE])
    parameters = _settings(choice)
    if preprocessor.id == "none":
        return image
    given = None if mask is None or not preprocessor.takes_mask else _bytes(mask).numpy()
    made = preprocessor(_rgb(image), mask=given, resolution=resolution, runtime=runtime(), **parameters)
    hints = torch.from_numpy(made).float() / 255
    if hints.shape[-1] == 3:
        return hints
    return torch.where(hints[..., 3:] > 0, -1.0, hints[..., :3])  # sd-webui-controlnet's sign for "invent this"


def make_poses(image: Tensor, choice: Mapping[str, Any], resolution: int | None) -> tuple[Tensor, list[Any]] | None:
    """Hints [N, h, w, 3] and the poses that they show, as JSON; None if the chosen preprocessor finds no poses."""
    preprocessor = find(choice[CHOICE])
    if not preprocessor.finds_poses:
        return None
    parameters = _settings(choice)
    found = preprocessor.poses(_rgb(image), resolution=resolution, runtime=runtime())
    drawn = [torch.from_numpy(preprocessor.draw(pose, **parameters)) for pose in found]
    return torch.stack(drawn).float() / 255, [to_json(pose) for pose in found]


def _rgb(image: Tensor) -> Any:
    pixels = _bytes(image[..., :3])
    return pixels.expand(*pixels.shape[:-1], 3).contiguous().numpy()


def _bytes(values: Tensor) -> Tensor:
    return (values.cpu() * 255).round().clamp(0, 255).to(torch.uint8)
