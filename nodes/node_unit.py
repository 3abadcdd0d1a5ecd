"""The node that makes a unit."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io, ui
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ..core.errors import UnitError
from ..core.resize import ResizeMode
from ..core.schedule import RangeBasis
from ..core.unit import ControlMode
from ..units.blocks import BlockWeights
from ..units.convention import warning
from ..units.hint import Size
from ..units.offer import preprocessor_of
from ..units.options import bound
from ..units.request import FIELDS, NONE, UnitRequest
from ..units.text import read_options, read_reuse
from .choice import RESOLUTION, preprocessor_input, unusable, words
from .graph import file_behind
from .hinting.hints import as_read, asked, card, embedding_of, make_hint, rgb, size_of
from .host.files import files
from .host.member import count_blocks, name_of, offers, reads_embedding, says, told
from .reports.telling import tell
from .schema import BlockWeightsType, ScheduleType, UnitsType, number, place, schema
from .shapes.moments import Moments, curve_of, units_of
from .spec import Units, UnitSpec

log = logging.getLogger("controlstack")

# What a unit that cannot act does not ask for.
LAZY = ("control_net", "image", "embedding", "mask", "inpaint_mask", "latent")


class ControlUnit(io.ComfyNode):
    """Picture, preprocessor, control model and how they act -> one more unit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ControlUnit",
            shows=True,
            display_name="Control Unit (ControlNet)",
            description="One control: a picture, the preprocessor that makes a hint of it, and the model that reads "
            "the hint. Chain units, then connect the last to Apply Control Units. A unit that is disabled or has the "
            "weight 0 runs nothing, not even what is connected to its inputs.",
            aliases=("controlnet stack", "apply controlnet", *words()),
            inputs=_inputs(),
            outputs=[
                UnitsType.Output(display_name="units", tooltip="The previous units and this one."),
                io.Image.Output(display_name="hint", tooltip="What the control model reads."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
        )

    @classmethod
    def validate_inputs(
        cls,
        start: float | None = None,
        end: float | None = None,
        preprocessor: Any = None,
        enabled: bool | None = None,
        weight: float | None = None,
        reuse: str | None = None,
    ) -> bool:
        """Check what the host does not check: the inputs that are named here, of which those from other nodes are None.

        Raises UnitError: a sentence that is returned would be shown once for each of them.
        """
        if not all(each is None or isinstance(each, int | float) for each in (weight, start, end)):
            return True  # which the host has told already, with the name of the input
        if weight is not None:
            FIELDS["weight"].check(weight)
        read_reuse("reuse", reuse)
        acts = enabled is not False and weight != 0
        if acts and (reason := unusable(preprocessor)):
            raise UnitError(reason)
        if start is not None and end is not None and start > end:
            raise UnitError(f"the range starts at {start:g}, after its end {end:g}: swap them")
        return True

    @classmethod
    def check_lazy_status(cls, enabled: bool, weight: float, **inputs: Any) -> list[str]:
        return [name for name in LAZY if name in inputs and inputs[name] is None] if enabled and weight else []

    @classmethod
    def execute(
        cls,
        weight: float,
        resolution: int,
        enabled: bool,
        control_net: Any = None,
        image: Tensor | None = None,
        units_before: Units = (),
        mask: Tensor | None = None,
        schedule: Moments = (),
        latent: Mapping[str, Any] | None = None,
        inpaint_mask: Tensor | None = None,
        embedding: Any = None,
        units: Units = (),  # the name of units_before in older graphs
        **said: Any,
    ) -> io.NodeOutput:
        units = units_before or units
        if not enabled or not weight:
            return io.NodeOutput(units, ExecutionBlocker(None))  # what is connected to its hint does not run either
        if control_net is None or (image is None and embedding is None):
            raise _incomplete()
        target = size_of(latent, resolution)
        size = {"pixel_perfect": target is not None, "resolution": resolution or None}
        model = name_of(control_net, file_behind(cls.hidden, "control_net", files()))
        request = _request(control_net, model=model, weight=weight, curve=curve_of(schedule), **size, **said)
        if embedding is not None and reads_embedding(control_net, request):  # there is no picture of it
            hint = embedding_of(embedding, bound(request, control_net.own.model))
            spec = UnitSpec(control=control_net, hint=hint, request=request, name=request.model, mask=mask)
            return io.NodeOutput((*units, *units_of(spec, schedule)), ExecutionBlocker(None))
        if image is None:
            raise _incomplete()
        request = as_read(request, control_net)
        _warn(cls.hidden.unique_id, request, control_net, image)
        spec = _from_picture(request, control_net, image, inpaint_mask, target, mask)
        shown = card(image, preprocessor_of(spec.request)) if reads_embedding(control_net, spec.request) else spec.hint
        return io.NodeOutput((*units, *units_of(spec, schedule)), shown, ui=ui.PreviewImage(shown.clamp(0, 1), cls=cls))


def _request(
    control: Any,
    *,
    preprocessor: Mapping[str, Any],
    basis: str,
    mode: str,
    resize: str,
    block_weights: BlockWeights | None = None,
    options: str = "",
    reuse: str = "off",
    **fields: Any,
) -> UnitRequest:
    """Return the request that the node's inputs stand for; fields: those of a request, by their own names.

    UnitError for block weights of an unknown kind of control, before the run.
    """
    request = asked(
        preprocessor,
        basis=RangeBasis(basis),
        mode=ControlMode(mode),
        block_weights=block_weights,
        resize=ResizeMode(resize),
        options={**told(control), **read_options("options", options)},
        reuse=read_reuse("reuse", reuse),
        **fields,
    )
    if block_weights is not None:
        count_blocks(control, request.model)
    return request


def _incomplete() -> UnitError:
    return UnitError("the unit has no image or no control model: connect both, or disable it")


def _from_picture(
    request: UnitRequest,
    control: Any,
    image: Tensor,
    inpaint_mask: Tensor | None,
    target: Size | None,
    mask: Tensor | None,
) -> UnitSpec:
    """Return the unit of a picture, with its hint."""
    # Controls of the host read the mask beside the picture.
    beside = not hasattr(control, "own") and request.preprocessor == NONE
    hint = make_hint(request, image, None if beside else inpaint_mask, target)
    return UnitSpec(
        control=control, hint=hint, request=request, name=request.model, mask=mask, inpaint_mask=inpaint_mask
    )


def _warn(node: str | None, request: UnitRequest, control: Any, image: Tensor) -> None:
    """Say on the node and on the console what looks wrong in a unit, or changes nothing."""
    if said := warning(request, says(control), rgb(image), offers(control)):
        log.warning(said)
        tell(node, said)


def _inputs() -> list[io.Input]:
    return [
        io.ControlNet.Input(
            "control_net",
            lazy=True,
            tooltip="From Load Control Model, or from any other node that gives out a control net.",
        ),
        io.Image.Input(
            "image", optional=True, lazy=True, tooltip="One picture for all, or one for each picture of the batch."
        ),
        preprocessor_input("What makes the hint of the picture; none takes it as it is.", auto=True),
        *when_and_how_much(),
        *_how(),
        RESOLUTION,
        io.Boolean.Input("enabled", default=True, tooltip="Off: the unit and everything before it is not run."),
        *_optional(),
    ]


def when_and_how_much() -> list[io.Input]:
    """Return the inputs of a weight and of a range."""
    return [
        number("weight", "How strongly the unit acts."),
        place("start", 0.0, "Where in the run it begins to act."),
        place("end", 1.0, "Where in the run it stops."),
        io.Combo.Input(
            "basis",
            options=[each.value for each in (RangeBasis.NOISE, RangeBasis.STEPS, RangeBasis.WEBUI)],
            default=RangeBasis.NOISE.value,
            tooltip="What start and end mean. noise: places on the model's noise schedule, as ComfyUI does. steps: "
            "shares of the steps that really run, whatever the sampler, scheduler and denoise. webui: as "
            "sd-webui-controlnet counts.",
        ),
    ]


def _how() -> list[io.Input]:
    return [
        io.Combo.Input(
            "mode",
            options=[each.value for each in ControlMode],
            default=ControlMode.BALANCED.value,
            tooltip="Whose word counts more: balanced, the prompt's (fine blocks are softened), or the control's "
            "(softened, and on the positive prompt alone).",
        ),
        io.Combo.Input(
            "resize",
            options=[each.value for each in ResizeMode],
            default=ResizeMode.CROP.value,
            tooltip="How a hint of another shape is brought to the picture's.",
        ),
    ]


def _optional() -> list[io.Input]:
    return [
        # Named otherwise than the input of Apply: of an error of this node, the host marks the input whose name the
        # next node's has.
        UnitsType.Input("units_before", display_name="units", optional=True, tooltip="Units before this one."),
        io.Mask.Input("mask", optional=True, lazy=True, tooltip="Where the unit acts; white is full effect."),
        ScheduleType.Input("schedule", optional=True, tooltip="How the weight moves over the run."),
        BlockWeightsType.Input(
            "block_weights",
            optional=True,
            tooltip="Weights of single blocks; they replace the mode, and are multiplied by the weight.",
        ),
        io.Latent.Input(
            "latent",
            optional=True,
            lazy=True,
            tooltip="The latents to be sampled: the preprocessor then works at exactly their size (pixel perfect).",
        ),
        io.Mask.Input(
            "inpaint_mask",
            optional=True,
            lazy=True,
            tooltip="What is to be invented, for inpainting preprocessors and models.",
        ),
        io.ClipVisionOutput.Input(
            "embedding",
            optional=True,
            lazy=True,
            tooltip="From CLIP Vision Encode or Preprocess, in place of an image, for models that read what an encoder "
            "saw: style adapters and IP-Adapters.",
        ),
        io.String.Input(
            "options",
            optional=True,
            default="",
            tooltip="Options of the model's family, such as union_control_type=Depth; a model that lacks one "
            "refuses it.",
        ),
        number(
            "delta_strength",
            "Strength of the model's changes to the weights of the base model, if it brings any.",
            field="delta_strength",
            optional=True,
        ),
        number(
            "uncond_weight",
            "Factor of the weight on the negative prompt; at 0 the unit acts on the positive prompt alone.",
            field="uncond_weight",
            optional=True,
        ),
        io.String.Input(
            "reuse",
            optional=True,
            default="off",
            tooltip="Add again on later steps what was computed before, which is faster: off, light, strong, the steps "
            "that are computed (0 1 2 5 9), or change:0.1.",
        ),
    ]
