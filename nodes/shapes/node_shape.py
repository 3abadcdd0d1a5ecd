"""The nodes that shape a unit's weight: over the run, and over the blocks of the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io, ui

from ...core.errors import ScheduleError, UnitError
from ...core.schedule import Easing, Keyframe, RangeBasis, Schedule
from ...units.blocks import SHAPES, BlockWeights
from ...units.text import read_block_weights, read_curve
from ..reports.plot import plot
from ..schema import BlockWeightsType, ScheduleType, schema

EASINGS = tuple(easing.value for easing in Easing)
POINTS = 64  # of a drawn curve
EXAMPLE = "0 1\n0.5 0.8 ease-out\n1 0"
SOFT = 0.825  # of sd-webui-controlnet, for "my prompt is more important"


class ControlSchedule(io.ComfyNode):
    """How a unit's weight moves over the run."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        weight = {"min": 0.0, "max": 10.0, "step": 0.01}
        fade = [
            io.Float.Input("first", default=1.0, tooltip="Factor of the weight at the beginning.", **weight),
            io.Float.Input("last", default=0.0, tooltip="Factor of the weight at the end.", **weight),
            io.Combo.Input("easing", options=list(EASINGS), default="linear", tooltip="The way from one to the other."),
        ]
        tooltip = (
            "A line for each: place 0 to 1, factor of the weight, easing to the next (" + ", ".join(EASINGS) + ")."
        )
        text = [io.String.Input("keyframes", multiline=True, default=EXAMPLE, tooltip=tooltip)]
        options = [io.DynamicCombo.Option("fade", fade), io.DynamicCombo.Option("keyframes", text)]
        if hasattr(io, "Curve"):  # newer hosts have an editor for curves
            drawn = io.Curve.Input(
                "curve", default=[(0.0, 1.0), (1.0, 0.0)], tooltip="From left to right the run, upwards the weight."
            )
            options.append(io.DynamicCombo.Option("curve", [drawn]))
        return schema(
            "Schedule",
            shows=True,
            display_name="Control Schedule",
            description="Moves a unit's weight over the run. Places are in the unit's own basis.",
            aliases=("timestep keyframe", "controlnet schedule", "strength curve", "weight curve"),
            inputs=[io.DynamicCombo.Input("shape", options, tooltip="A fade, any number of keyframes, or a curve.")],
            outputs=[ScheduleType.Output(display_name="schedule", tooltip="For Control Unit.")],
        )

    @classmethod
    def execute(cls, shape: Mapping[str, Any]) -> io.NodeOutput:
        frames = _frames(shape)
        curve = Schedule(keyframes=frames)
        places = [index / POINTS for index in range(POINTS + 1)]
        drawn = [(at, curve.multiplier(dict.fromkeys(RangeBasis, at))) for at in places]
        return io.NodeOutput(frames, ui=ui.PreviewImage(plot([("factor of the weight", drawn)]), cls=cls))


class BlockWeightsNode(io.ComfyNode):
    """How a unit's weight is spread over the blocks of the network."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        soft = io.Float.Input(
            "base", default=SOFT, min=0.0, max=1.0, step=0.005, tooltip="Each block has so much of the next deeper one."
        )
        text = io.String.Input(
            "weights",
            default="1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1",
            tooltip="Shallow first, the middle last: 13 for SD 1.x and 2.x, 10 for SDXL, 4 for most T2I-Adapters.",
        )
        options = [
            io.DynamicCombo.Option("soft", [soft]),
            *(io.DynamicCombo.Option(name, []) for name in SHAPES),
            io.DynamicCombo.Option("custom", [text]),
        ]
        return schema(
            "BlockWeights",
            display_name="Control Block Weights",
            description="Weighs the blocks of a control model one by one: shallow blocks carry detail, deep ones "
            "composition. A block of weight 0 is not computed where nothing below it is needed.",
            aliases=("soft weights", "scaled soft controlnet weights", "advanced weighting", "layer weights"),
            inputs=[io.DynamicCombo.Input("preset", options, tooltip="A known spread, or numbers of your own.")],
            outputs=[BlockWeightsType.Output(display_name="block_weights", tooltip="For Control Unit.")],
        )

    @classmethod
    def execute(cls, preset: Mapping[str, Any]) -> io.NodeOutput:
        if "base" in preset:
            return io.NodeOutput(BlockWeights(base=preset["base"]))
        if "weights" in preset:
            return io.NodeOutput(_numbers(preset["weights"]))
        return io.NodeOutput(BlockWeights(shape=preset["preset"]))


def _frames(shape: Mapping[str, Any]) -> tuple[Keyframe, ...]:
    if "keyframes" in shape:
        return _keyframes(shape["keyframes"])
    if "curve" in shape:
        return _sampled(shape["curve"])
    first = Keyframe(at=0.0, weight=shape["first"], easing=Easing(shape["easing"]))
    return (first, Keyframe(at=1.0, weight=shape["last"]))


def _keyframes(text: str) -> tuple[Keyframe, ...]:
    frames = read_curve("keyframes", text)
    if not frames:
        raise ScheduleError("there is no keyframe: write a line such as '0.5 0.8 ease-out' for each")
    return frames


def _numbers(text: str) -> BlockWeights:
    weights = read_block_weights("block weights", text)
    if weights is None:
        raise UnitError("there are no block weights: write numbers such as 1, 0.8, 0.5")
    return weights


def _sampled(curve: Any) -> tuple[Keyframe, ...]:
    """Return a curve of the host as keyframes so close that straight lines between them follow it."""
    from comfy_api.input import CurveInput

    places = [index / POINTS for index in range(POINTS + 1)]
    read = CurveInput.from_raw(curve)
    return tuple(Keyframe(at=at, weight=max(0.0, float(read.interp(at)))) for at in places)
