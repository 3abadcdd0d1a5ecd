"""The nodes that bring units from a WebUI, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from ...core.errors import UnitError
from ...units.choices import HiresOption
from ...units.hint import Size
from ...units.offer import preprocessor_of
from ...units.request import UnitRequest
from ...units.webui.infotext import parse_generation
from ..hinting.hints import as_read, make_hint, size_of
from ..host.files import files
from ..host.loading import load
from ..host.member import name_of
from ..schema import UnitsType, schema
from ..spec import Units, UnitSpec
from .infotext import file_of, pictures_of, read_units, write_units

PASSES = {"all": HiresOption.BOTH, "first": HiresOption.LOW, "hires": HiresOption.HIGH}
EXAMPLE = 'ControlNet 0: "Module: canny, Model: control_v11p_sd15_canny, Weight: 1.0"'


class UnitsFromInfotext(io.ComfyNode):
    """A picture's text from a WebUI -> its units."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "UnitsFromInfotext",
            display_name="Units from WebUI Infotext",
            description="Reads the text that AUTOMATIC1111 and Forge write into pictures, and makes its ControlNet "
            "units again: models by name from your controlnet folder, preprocessors, weights, ranges and modes.",
            aliases=("webui import", "automatic1111 controlnet", "png info", "infotext"),
            inputs=[
                io.String.Input("infotext", multiline=True, default=EXAMPLE, tooltip="The text, whole or in part."),
                io.Image.Input("image", tooltip="The text holds no picture: one for all units, or one for each."),
                io.Combo.Input(
                    "hires_pass",
                    options=list(PASSES),
                    default="all",
                    tooltip="Units of one pass of a hires fix alone, for the sampler of that pass.",
                ),
                UnitsType.Input("units", optional=True, tooltip="Units before these."),
                io.Latent.Input("latent", optional=True, tooltip="The latents to be sampled, for pixel perfect units."),
                io.Mask.Input("inpaint_mask", optional=True, tooltip="What is to be invented, for inpainting units."),
                io.Model.Input("model", optional=True, tooltip="The model that is sampled, for references."),
            ],
            outputs=[
                UnitsType.Output(display_name="units", tooltip="The units of the text."),
                io.String.Output(display_name="prompt", tooltip="The prompt in the text."),
                io.String.Output(display_name="negative", tooltip="The negative prompt in the text."),
            ],
        )

    @classmethod
    def execute(
        cls,
        infotext: str,
        image: Tensor,
        hires_pass: str,
        units: Units = (),
        latent: Mapping[str, Any] | None = None,
        inpaint_mask: Tensor | None = None,
        model: Any = None,
    ) -> io.NodeOutput:
        generation = parse_generation(infotext)
        found = read_units(generation.settings, PASSES[hires_pass])
        pictures = pictures_of(image, len(found)) if found else []
        names = [file_of(unit, files()) for unit in found]
        models = {name: load(name, model) for name in dict.fromkeys(names)}
        made = (
            _spec(
                replace(unit, model=name_of(models[name], name)), models[name], picture, size_of(latent), inpaint_mask
            )
            for unit, name, picture in zip(found, names, pictures, strict=True)
        )
        return io.NodeOutput((*units, *made), generation.prompt, generation.negative)


class InfotextFromUnits(io.ComfyNode):
    """Units -> text that a WebUI pastes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "InfotextFromUnits",
            display_name="WebUI Infotext from Units",
            description="Writes units as AUTOMATIC1111 and Forge do, to be pasted there.",
            aliases=("webui export", "automatic1111 controlnet", "infotext"),
            inputs=[UnitsType.Input("units", tooltip="The units to write.")],
            outputs=[io.String.Output(display_name="infotext", tooltip="Text to paste in a WebUI.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, units: Units) -> io.NodeOutput:
        text = write_units(units)
        return io.NodeOutput(text, ui=ui.PreviewText(text))


def _spec(request: UnitRequest, control: Any, picture: Tensor, target: Size | None, mask: Tensor | None) -> UnitSpec:
    if request.pixel_perfect and target is None:
        raise UnitError("a unit of the text is pixel perfect, which means the size of the latents: connect a latent")
    request = as_read(request, control)
    hint = make_hint(request, picture, mask if preprocessor_of(request).takes_mask else None, target)
    return UnitSpec(control=control, hint=hint, request=request, name=request.model, inpaint_mask=mask)
