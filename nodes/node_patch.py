"""The node that weighs what another node has put on a model as a patch, as a unit is weighed."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..core.errors import UnitError
from ..core.schedule import RangeBasis, Schedule
from .host.foreign.model_patches import weigh_patches
from .node_unit import when_and_how_much
from .schema import ScheduleType, schema
from .shapes.moments import Moment, Moments, curve_of


class PatchControl(io.ComfyNode):
    """A model before and behind a patch -> the model with the patch under weight, range, curve and mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "PatchControl",
            display_name="Control of a Model Patch (ControlNet)",
            description="Gives controls that ComfyUI applies to the model, such as those of Z-Image, Qwen-Image "
            "DiffSynth and Anima, the weight, range, curve and mask of a unit. Connect the model before and behind "
            "their node.",
            aliases=("model patch", "z-image control", "diffsynth control", "anima lllite", "controlnet model patch"),
            inputs=[
                io.Model.Input("model", tooltip="The model before the patch."),
                io.Model.Input("patched", tooltip="The model behind it."),
                *when_and_how_much(),
                ScheduleType.Input("schedule", optional=True, tooltip="How the weight moves over the run."),
                io.Mask.Input("mask", optional=True, tooltip="Where the patch acts; white is full effect."),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model for the sampler.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        patched: Any,
        weight: float,
        start: float,
        end: float,
        basis: str,
        schedule: Moments = (),
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        if any(isinstance(each, Moment) and not each.like(Moment(each.keyframe)) for each in schedule):
            raise UnitError("a keyframe has a mask or block weights, which a patch cannot change: leave them out")
        when = Schedule(start=start, end=end, basis=RangeBasis(basis), keyframes=curve_of(schedule))
        return io.NodeOutput(weigh_patches(model, patched, weight, when, mask))
