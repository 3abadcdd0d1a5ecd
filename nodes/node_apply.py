"""The node that brings units to the prompts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from comfy_api.latest import io

from .graph import shown_node
from .host.base import check_units
from .host.control import StackControl
from .host.parts.area import with_area
from .reports.report import Report, lines
from .reports.telling import tell
from .schema import UnitsType, prompt_inputs, prompt_outputs, schema
from .spec import Units

Conditioning = list[list[Any]]


class ApplyControlUnits(io.ComfyNode):
    """Prompts and units -> prompts under control."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ApplyControlUnits",
            display_name="Apply Control Units (ControlNet)",
            description="Puts units on the prompts. Further Apply nodes, also those that come with ComfyUI, may come "
            "before or after it. After a run it shows on how many steps each unit acted.",
            aliases=("apply controlnet", "controlnet apply advanced", "multi controlnet", "controlnet stack"),
            inputs=[
                *prompt_inputs(),
                UnitsType.Input(
                    "units", optional=True, tooltip="From Control Unit; any number. Without one the prompts pass."
                ),
                io.Vae.Input("vae", optional=True, tooltip="For control models that read hints as latents."),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model that will be sampled: a unit that does not fit it is then refused here, before "
                    "anything is sampled. Without it the sampler refuses, before its first step.",
                ),
            ],
            outputs=prompt_outputs(),
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
        )

    @classmethod
    def execute(
        cls, positive: Conditioning, negative: Conditioning, units: Units = (), vae: Any = None, model: Any = None
    ) -> io.NodeOutput:
        show = partial(_show, shown_node(cls.hidden))
        return io.NodeOutput(*apply((positive, negative), units, vae, show, model))


def apply(
    prompts: tuple[Conditioning, Conditioning],
    units: Units,
    vae: Any,
    show: Callable[[Report], None],
    model: Any = None,
) -> tuple[Conditioning, Conditioning]:
    """Return the prompts with a control each; the same object wherever the control before it is the same.

    Prompts that share their control object are computed in one batch by the host. show: called with the report of
    each run. model: the host's patcher of the base model, if units shall be checked against it here.
    """
    if not units:
        return prompts
    made: dict[Any, StackControl] = {}

    def controlled(text: Any, options: dict[str, Any]) -> list[Any]:
        before = options.get("control")
        if before not in made:
            made[before] = StackControl(units, vae, show)
            built = made[before].units()  # errors of a unit belong to this node, not to the sampler
            if model is not None:
                check_units(model.model, built, made[before].members)
            made[before].set_previous_controlnet(before)
        with_rider = with_area(options, made[before].canvas)
        return [text, {**with_rider, "control": made[before], "control_apply_to_uncond": False}]

    positive, negative = ([controlled(text, options) for text, options in prompt] for prompt in prompts)
    return positive, negative


def _show(node: str | None, report: Report) -> None:
    tell(node, "\n".join(lines(report)))
