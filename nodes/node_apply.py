"""The node that brings units to the prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comfy_api.latest import io
from server import PromptServer

from .host.area import with_area
from .host.control import StackControl
from .reports.report import Report, lines
from .schema import UnitsType, schema
from .spec import Units

Conditioning = list[list[Any]]


class ApplyControlUnits(io.ComfyNode):
    """Prompts and units -> prompts under control."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ApplyControlUnits",
            display_name="Apply Control Units",
            description="Puts units on the prompts. Further Apply nodes, also those that come with ComfyUI, may come "
            "before or after it. After a run it shows on how many steps each unit acted.",
            aliases=("apply controlnet", "controlnet apply advanced", "multi controlnet", "controlnet stack"),
            inputs=[
                io.Conditioning.Input("positive", tooltip="What the picture should show."),
                io.Conditioning.Input("negative", tooltip="What it should not show."),
                UnitsType.Input(
                    "units", optional=True, tooltip="From Control Unit; any number. Without one the prompts pass."
                ),
                io.Vae.Input("vae", optional=True, tooltip="For control models that read hints as latents."),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="The prompt under control."),
                io.Conditioning.Output(display_name="negative", tooltip="The negative prompt under control."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, positive: Conditioning, negative: Conditioning, units: Units = (), vae: Any = None
    ) -> io.NodeOutput:
        return io.NodeOutput(*apply((positive, negative), units, vae, _teller(cls.hidden.unique_id)))


def apply(
    prompts: tuple[Conditioning, Conditioning], units: Units, vae: Any, tell: Callable[[Report], None] | None
) -> tuple[Conditioning, Conditioning]:
    """Return the prompts with a control each; the same object wherever the control before it is the same.

    Prompts that share their control object are computed in one batch by the host.
    """
    if not units:
        return prompts
    made: dict[Any, StackControl] = {}

    def controlled(text: Any, options: dict[str, Any]) -> list[Any]:
        before = options.get("control")
        if before not in made:
            made[before] = StackControl(units, vae, tell)
            made[before].units()  # errors of a unit belong to this node, not to the sampler
            made[before].set_previous_controlnet(before)
        with_rider = with_area(options, made[before].canvas)
        return [text, {**with_rider, "control": made[before], "control_apply_to_uncond": False}]

    positive, negative = ([controlled(text, options) for text, options in prompt] for prompt in prompts)
    return positive, negative


def _teller(node: Any) -> Callable[[Report], None] | None:
    """Return what shows the report of a run on the node; None where there is no page."""
    server = getattr(PromptServer, "instance", None)
    if server is None or node is None or not hasattr(server, "send_progress_text"):
        return None

    def tell(report: Report) -> None:
        server.send_progress_text("\n".join(lines(report)), node)

    return tell
