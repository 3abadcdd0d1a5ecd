"""The node that says what the units of a run did."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..host.control import StackControl
from ..schema import schema
from .plot import plot
from .report import Report, lines


class ControlReport(io.ComfyNode):
    """Sampled latents and their prompt -> what each unit did."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "Report",
            display_name="Control Report",
            description="After sampling: for each unit the steps it fired on, its weight over the run, the time and "
            "the memory it took.",
            aliases=("controlnet report", "controlnet debug", "steps fired"),
            inputs=[
                io.Conditioning.Input("positive", tooltip="The prompt that went into the sampler."),
                io.Latent.Input("latent", tooltip="What came out of the sampler; it is passed on."),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The same latents."),
                io.String.Output(display_name="text", tooltip="A line for each unit."),
                io.Image.Output(display_name="picture", tooltip="Each unit's weight over the run."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, positive: list[list[Any]], latent: Any) -> io.NodeOutput:
        report = report_of(positive)
        text = "\n".join(lines(report)) or "no unit has run"
        picture = plot([(f"{number}. {each.name}", each.curve) for number, each in enumerate(report, start=1)])
        shown = {**ui.PreviewImage(picture, cls=cls).as_dict(), **ui.PreviewText(text).as_dict()}
        return io.NodeOutput(latent, text, picture, ui=shown)


def report_of(prompt: list[list[Any]]) -> Report:
    """Return the latest reports of all our controls in a prompt, in the order in which they act."""
    seen: list[StackControl] = []
    for _, options in prompt:
        seen += [each for each in _chain(options.get("control")) if each not in seen]
    return tuple(unit for control in seen for unit in control.last or ())


def _chain(control: Any) -> list[StackControl]:
    """Return our controls from the first applied to the last."""
    if control is None:
        return []
    mine = [control] if isinstance(control, StackControl) else []
    return _chain(control.previous_controlnet) + mine
