"""The node that does all of one control: it expands to the nodes that load, make a unit, and apply it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder

from ..core.resize import ResizeMode
from ..core.schedule import RangeBasis
from ..core.unit import ControlMode
from .choice import CHOICE, preprocessor_input, words
from .host.files import files
from .node_apply import ApplyControlUnits
from .node_model import LoadControlModel
from .node_unit import ControlUnit
from .schema import number, place, prompt_inputs, prompt_outputs, schema

# What it does not ask for: as the host's own Apply node has it.
USUAL = {
    "basis": RangeBasis.NOISE.value,
    "mode": ControlMode.BALANCED.value,
    "resize": ResizeMode.CROP.value,
    "resolution": 0,
    "enabled": True,
}


class ControlInOne(io.ComfyNode):
    """Prompts, picture, preprocessor and file -> prompts under one control."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ControlInOne",
            display_name="ControlNet in One Node",
            description="One control whole: it loads the model, makes the hint of the picture, and puts both on the "
            "prompts. For several controls, masks, schedules and modes use Control Unit and Apply Control Units.",
            aliases=("apply controlnet", "easy controlnet", "controlnet simple", *words()),
            inputs=[
                *prompt_inputs(),
                io.Image.Input("image", tooltip="The picture that the hint is made of."),
                io.Combo.Input("control_net", options=files(), tooltip="A file of the controlnet folder."),
                preprocessor_input("What makes the hint of the picture; none takes it as it is.", auto=True),
                number("weight", "How strongly the control acts."),
                place("start", 0.0, "Where in the run it begins to act."),
                place("end", 1.0, "Where in the run it stops."),
                io.Vae.Input("vae", optional=True, tooltip="For control models that read hints as latents."),
                io.Model.Input("model", optional=True, tooltip="The model that will be sampled, to check the fit."),
            ],
            outputs=[
                *prompt_outputs(),
                io.Image.Output(display_name="hint", tooltip="What the control model reads."),
            ],
            enable_expand=True,
        )

    @classmethod
    def validate_inputs(
        cls, weight: float | None = None, start: float | None = None, end: float | None = None, preprocessor: Any = None
    ) -> bool:
        """Check as the unit does: nodes that this one expands to are not validated."""
        return ControlUnit.validate_inputs(start=start, end=end, preprocessor=preprocessor, weight=weight)

    @classmethod
    def execute(
        cls,
        positive: Any,
        negative: Any,
        image: Any,
        control_net: str,
        preprocessor: Mapping[str, Any],
        weight: float,
        start: float,
        end: float,
        vae: Any = None,
        model: Any = None,
    ) -> io.NodeOutput:
        graph = GraphBuilder()
        chosen = {f"{CHOICE}.{name}": value for name, value in preprocessor.items() if name != CHOICE}
        file = graph.node(LoadControlModel.GET_SCHEMA().node_id, name=control_net, **_given(model=model))
        unit = graph.node(
            ControlUnit.GET_SCHEMA().node_id, control_net=file.out(0), image=image, weight=weight, start=start, end=end,
            **{CHOICE: preprocessor[CHOICE], **_given(**chosen), **USUAL},
        )  # fmt: skip
        applied = graph.node(
            ApplyControlUnits.GET_SCHEMA().node_id, positive=positive, negative=negative, units=unit.out(0),
            **_given(vae=vae, model=model),
        )  # fmt: skip
        return io.NodeOutput(applied.out(0), applied.out(1), unit.out(1), expand=graph.finalize())


def _given(**inputs: Any) -> dict[str, Any]:
    """Return the inputs that are connected, or said."""
    return {name: value for name, value in inputs.items() if value is not None}
