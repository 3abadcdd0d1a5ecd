"""The host's pictures -> hints, by our preprocessors, and the inputs that nodes draw from their declarations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..preprocessors import REGISTRY, find
from ..preprocessors.base import Parameter, Preprocessor
from ..preprocessors.networks.network import licences, missing_packages
from ..preprocessors.poses.points import to_json
from .annotators import runtime

NAME = "preprocessor"
CHOICE = "preprocessor"  # of the input that chooses one; its parameters come beside it
SEED, LARGEST_SEED = "seed", 2**32 - 1  # of preprocessors that draw lots
ELSEWHERE = {"Reference", "IP-Adapter", "Revision"}  # types whose pictures no control model reads


def preprocessor_input(tooltip: str) -> io.DynamicCombo.Input:
    """The choice of a preprocessor; only the parameters of the chosen one are shown."""
    options = [io.DynamicCombo.Option(each.id, _inputs(each)) for each in _offered()]
    return io.DynamicCombo.Input(NAME, options, tooltip="\n".join((tooltip, *_terms(), *_greyed())))


def unusable(choice: Mapping[str, Any] | None) -> str:
    """Why a choice, as the host validates it, cannot run here; empty if it can, were it after a download."""
    if choice is None:
        return "the preprocessor is none of ours: choose one from the list"  # the host leaves unknown choices out
    known = find(choice[CHOICE])
    lacks = known.absent or missing_packages(known.networks)
    return f"{known.id} cannot run here: {lacks}" if lacks else ""


def _terms() -> Iterator[str]:
    """The licences of weights, each with the preprocessors that it is for."""
    known = {each.id: licences(each.networks) for each in _offered() if each.networks}
    for terms in dict.fromkeys(known.values()):
        yield f"Weights, {terms}: {', '.join(name for name, own in known.items() if own == terms)}."


def _greyed() -> Iterator[str]:
    """What cannot run here, by the reason; the host's list has no way to grey out a choice."""
    lacks = {each.id: missing_packages(each.networks) for each in _offered()}
    for reason in dict.fromkeys(filter(None, lacks.values())):
        yield f"Cannot run here, {reason}: {', '.join(name for name, own in lacks.items() if own == reason)}."


def _inputs(preprocessor: Preprocessor) -> list[io.WidgetInput]:
    own: list[io.WidgetInput] = [_input(parameter) for parameter in preprocessor.parameters]
    if preprocessor.deterministic:
        return own
    return [*own, io.Int.Input(SEED, default=0, min=0, max=LARGEST_SEED, tooltip="Another number, another result.")]


def _offered() -> list[Preprocessor]:
    """Those whose result is a hint; the picture as it is, for controls that are no units, is not offered."""
    return [each for each in REGISTRY if ELSEWHERE.isdisjoint(each.control_types)]


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
    if preprocessor.id == "none":
        return image
    given = None if mask is None or not preprocessor.takes_mask else _bytes(mask).numpy()
    settings = {"mask": given, "resolution": resolution, "runtime": runtime(), "seed": choice.get(SEED, 0)}
    hints = torch.from_numpy(preprocessor(_rgb(image), **settings, **_parameters(choice))).float() / 255
    if hints.shape[-1] == 3:
        return hints
    return torch.where(hints[..., 3:] > 0, -1.0, hints[..., :3])  # sd-webui-controlnet's sign for "invent this"


def make_poses(image: Tensor, choice: Mapping[str, Any], resolution: int | None) -> tuple[Tensor, list[Any]] | None:
    """Hints [N, h, w, 3] and the poses that they show, as JSON; None if the chosen preprocessor finds no poses."""
    preprocessor = find(choice[CHOICE])
    if not preprocessor.finds_poses:
        return None
    found = preprocessor.poses(_rgb(image), resolution=resolution, runtime=runtime())
    drawn = [torch.from_numpy(preprocessor.draw(pose, **_parameters(choice))) for pose in found]
    return torch.stack(drawn).float() / 255, [to_json(pose) for pose in found]


def _parameters(choice: Mapping[str, Any]) -> dict[str, Any]:
    """What the chosen preprocessor itself is asked."""
    return {name: value for name, value in choice.items() if name not in (CHOICE, SEED)}


def _rgb(image: Tensor) -> Any:
    pixels = _bytes(image[..., :3])
    return pixels.expand(*pixels.shape[:-1], 3).contiguous().numpy()


def _bytes(values: Tensor) -> Tensor:
    return (values.cpu() * 255).round().clamp(0, 255).to(torch.uint8)
