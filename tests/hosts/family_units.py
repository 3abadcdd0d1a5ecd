"""A unit of each family of control models on SD 1.x, for every host: the same unit, the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import anima_world
import control_files
import webui_world
from safetensors.torch import save_file
from webui_oracle import Wanted
from webui_units import HALF, unit

UNITS: Mapping[str, Wanted] = {
    "ControlNet": unit(file="canny", weight=0.8),
    "ControlNet-Lite": unit(file="lite", weight=0.8),
    "Union": unit(file="union_sd", weight=0.8, options={"union_control_type": "depth+tile:0.5"}),
    "Uni-ControlNet": unit(file="uni", weight=0.8, options={"union_control_type": "depth+mlsd:0.5"}),
    "Uni-ControlNet, content": unit(
        file="uni", module="clip_l_image", weight=0.8, options={"union_control_type": "content"}
    ),
    "Control-LoRA": unit(file="clora", weight=0.8),
    "ControlNeXt": unit(file="next", weight=0.4),
    "ControlLLLite": unit(file="lllite", weight=0.8),
    "T2I-Adapter": unit(file="t2i", weight=0.8),
    "IP-Adapter": unit(file="adapter", module="ip-adapter_clip_h", weight=0.8),
    "style adapter": unit(file="style", module="t2ia_style_clipvision", weight=0.8),
}
TOKENS = ("style adapter", "Uni-ControlNet, content")  # what stands beside the prompt has no place in the picture
TRANSFORMER = "anima"  # a file for a transformer, which no unit of these hosts acts on


def write_families(controls: Path, encoders: Path, heads: int = webui_world.HEADS) -> None:
    """Write the file of each, one for no U-Net, and the image encoders that some read."""
    control_files.write_all(controls, heads=heads)
    control_files.write_controlnext(controls)
    control_files.write_lllite(controls)
    control_files.write_lite(controls)
    control_files.write_control_lora(controls, heads=heads)
    control_files.write_ctrlora(controls, heads=heads)
    control_files.write_unions(controls, heads=heads)
    control_files.write_uni(controls, heads=heads)
    save_file(anima_world.state(), controls / f"{TRANSFORMER}.safetensors")
    control_files.write_encoders(encoders)


def masked(family: str) -> Wanted:
    """The unit of a family on the left half of the picture, where a mask can reach what it does."""
    wanted = UNITS[family]
    return wanted if family in TOKENS else replace(wanted, mask=HALF)
