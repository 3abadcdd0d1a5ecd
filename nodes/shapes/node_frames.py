"""The nodes for weights by picture of a batch, and for keyframes with a mask or block weights of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ...core.errors import ScheduleError, UnitError
from ...core.schedule import Easing, Keyframe
from ...units.blocks import BlockWeights
from ...units.text import read_block_weights
from ..schema import BlockWeightsType, ScheduleType, number, place, schema
from .moments import Moment, Moments, curve_of
from .node_shape import EASINGS

EXAMPLE = "1, 0.8, 0.5, 0.2"


class FrameWeights(io.ComfyNode):
    """A weight for each picture of a batch -> a mask for each."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        fade = [
            number("first", "Factor of the weight for the first picture."),
            number("last", "Factor of the weight for the last picture.", default=0.0),
            io.Int.Input("count", default=16, min=2, max=4096, tooltip="How many pictures the batch has."),
            io.Combo.Input("easing", options=list(EASINGS), default="linear", tooltip="The way between the two."),
        ]
        numbers = [io.String.Input("weights", default=EXAMPLE, tooltip="A factor of the weight for each picture.")]
        options = [io.DynamicCombo.Option("fade", fade), io.DynamicCombo.Option("numbers", numbers)]
        return schema(
            "FrameWeights",
            display_name="Control Frame Weights",
            description="Weighs a unit picture by picture: frames of a video, or pictures of a batch. Connect it to "
            "the mask of Control Unit. With fewer weights than pictures they repeat.",
            aliases=("latent keyframe", "latent keyframe batch", "timestep keyframe", "controlnet weight per frame"),
            inputs=[
                io.DynamicCombo.Input("shape", options, tooltip="A fade over the pictures, or numbers."),
                io.Mask.Input("mask", optional=True, tooltip="Where the unit acts in every picture."),
            ],
            outputs=[io.Mask.Output(display_name="mask", tooltip="One for each picture, for Control Unit.")],
        )

    @classmethod
    def execute(cls, shape: Mapping[str, Any], mask: Tensor | None = None) -> io.NodeOutput:
        weights = torch.tensor(_weights(shape))[:, None, None]
        if mask is None:
            return io.NodeOutput(weights)
        if len(mask) not in (1, len(weights)):
            raise UnitError(f"there are {len(mask)} masks for {len(weights)} weights: give one mask, or one for each")
        return io.NodeOutput(weights * mask.cpu())


class ControlKeyframe(io.ComfyNode):
    """One keyframe more, which may bring a mask and block weights."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "Keyframe",
            display_name="Control Keyframe",
            description="One keyframe of a schedule. From its place on, its mask and its block weights take the place "
            "of the unit's own. Chain keyframes, then connect the last to the schedule of Control Unit.",
            aliases=("timestep keyframe", "timestep keyframe interpolation", "mask per keyframe"),
            inputs=[
                place("at", 0.0, "Where in the run, in the unit's basis."),
                number("weight", "Factor of the unit's weight here."),
                io.Combo.Input(
                    "easing", options=list(EASINGS), default="hold", tooltip="The way to the next keyframe's weight."
                ),
                ScheduleType.Input("schedule", optional=True, tooltip="Keyframes before or after this one."),
                io.Mask.Input("mask", optional=True, tooltip="Where the unit acts from here on; white is full effect."),
                BlockWeightsType.Input("block_weights", optional=True, tooltip="Weights of blocks from here on."),
            ],
            outputs=[ScheduleType.Output(display_name="schedule", tooltip="For Control Unit, or a further keyframe.")],
        )

    @classmethod
    def execute(
        cls,
        at: float,
        weight: float,
        easing: str,
        schedule: Moments = (),
        mask: Tensor | None = None,
        block_weights: BlockWeights | None = None,
    ) -> io.NodeOutput:
        if at in [frame.at for frame in curve_of(schedule)]:
            raise ScheduleError(f"there are two keyframes at {at:g}: move one of them")
        made = Moment(Keyframe(at=at, weight=weight, easing=Easing(easing)), mask, block_weights)
        return io.NodeOutput(tuple(sorted((*schedule, made), key=lambda each: curve_of((each,))[0].at)))


def _weights(shape: Mapping[str, Any]) -> tuple[float, ...]:
    if "weights" in shape:
        read = read_block_weights("weights", shape["weights"])
        if read is None or read.numbers is None:
            raise UnitError(f"the weights are {shape['weights']!r}, expected numbers such as {EXAMPLE}")
        return read.numbers
    first, last, count, ease = shape["first"], shape["last"], shape["count"], Easing(shape["easing"])
    return tuple(first + (last - first) * ease(index / (count - 1)) for index in range(count))
