"""The node that loads a control model."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..models.kinds.fileless import FILELESS
from .graph import shown_node
from .host.files import files, path_of
from .host.loading import load
from .host.member import described
from .reports.telling import tell
from .schema import schema


class LoadControlModel(io.ComfyNode):
    """A file -> CONTROL_NET, for our units and for the host's own Apply nodes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "LoadControlModel",
            display_name="Load Control Model (ControlNet)",
            description="Loads every control model that ControlStack or ComfyUI itself can load, and says on the node "
            "which of the two did. ControlStack checks that a file is complete and says what is wrong if not. "
            "Works with Control Unit and with the nodes that come with ComfyUI.",
            aliases=(
                "controlnet loader", "load controlnet", "t2i adapter loader", "controlnet union", "control-lora",
                "revision", "flux controlnet", "sd3 controlnet", "qwen controlnet",
            ),
            inputs=[
                io.Combo.Input(
                    "name",
                    options=files(),
                    tooltip="A file of the controlnet, t2i_adapter or ipadapter folder, or a model without a file: a "
                    "reference, by which the base model looks at another picture, or Revision, which shows a picture "
                    "to SDXL in place of the whole prompt.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Only for models without a file, and for files that hold differences to their base "
                    "model: the model that is sampled.",
                ),
            ],
            outputs=[io.ControlNet.Output(display_name="control_net", tooltip="The loaded control model.")],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, name: str, model: Any = None) -> tuple[str, float, int]:  # noqa: ARG003
        """Return what tells files apart: one that was replaced under the same name is loaded again."""
        if name in FILELESS:
            return name, 0.0, 0
        found = path_of(name).stat()
        return name, found.st_mtime, found.st_size

    @classmethod
    def execute(cls, name: str, model: Any = None) -> io.NodeOutput:
        control = load(name, model)
        tell(shown_node(cls.hidden), described(control))
        return io.NodeOutput(control)
