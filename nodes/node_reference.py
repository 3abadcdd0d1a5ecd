"""The node for a reference: a control model without a file, which acts on the attention of the base model."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..models.kinds.references import REFERENCES
from .host.loading import load
from .schema import schema


class ReferenceControl(io.ComfyNode):
    """MODEL -> CONTROL_NET that looks at another picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "Reference",
            display_name="Reference Control (ControlNet)",
            description="A control without a file: the model looks at another picture, whose style and things it takes "
            "over. Connect it to Control Unit with that picture, and a VAE to Apply Control Units. Each step on which "
            "it acts evaluates the model once more.",
            aliases=("reference", "reference only", "reference adain", "style transfer"),
            inputs=[
                io.Model.Input("model", tooltip="The model that is sampled."),
                io.Combo.Input(
                    "kind",
                    options=list(REFERENCES),
                    tooltip="reference_only: attention sees the picture. reference_adain: streams take on its mean and "
                    "deviation. The third does both.",
                ),
            ],
            outputs=[io.ControlNet.Output(display_name="control_net", tooltip="For Control Unit.")],
        )

    @classmethod
    def execute(cls, model: Any, kind: str) -> io.NodeOutput:
        return io.NodeOutput(load(kind, model))
