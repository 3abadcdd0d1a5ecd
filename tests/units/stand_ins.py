"""The least of two host programs: what their constructors of units look at, and nothing that draws."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from controlstack.core.schedule import RangeBasis
from torch import nn

MODULES = (
    "comfy", "comfy.model_management", "comfy.model_patcher", "comfy.utils", "folder_paths", "comfy_api",
    "comfy_api.latest", "comfy_execution", "comfy_execution.graph_utils", "server",
)  # fmt: skip


class Inert:
    """Whatever is asked of it, it is that too: the host's ways to describe widgets."""

    def __getattr__(self, name: str) -> Inert:
        return self

    def __call__(self, *given: Any, **named: Any) -> Inert:
        return self


class NodeOutput:
    """What a node gives out."""

    def __init__(self, *values: Any, ui: Any = None) -> None:
        self.values, self.ui = values, ui


@contextmanager
def comfyui(folder: Path) -> Iterator[None]:
    """ComfyUI's modules, as far as our nodes import them to make a unit; afterwards they and our nodes are gone."""
    made = {name: ModuleType(name) for name in MODULES}
    io = Inert()
    hidden = SimpleNamespace(unique_id=None, dynprompt=None)
    vars(io).update(ComfyNode=type("ComfyNode", (), {"hidden": hidden}), NodeOutput=NodeOutput)
    vars(made["comfy_api.latest"]).update(io=io, ui=Inert())
    vars(made["comfy_execution.graph_utils"]).update(ExecutionBlocker=Inert(), is_link=Inert())
    vars(made["folder_paths"]).update(
        models_dir=str(folder),
        add_model_folder_path=lambda *_: None,
        get_folder_paths=lambda _: [str(folder)],
        folder_names_and_paths={},
    )
    vars(made["comfy.model_management"]).update(throw_exception_if_processing_interrupted=lambda: None)
    vars(made["server"]).update(PromptServer=SimpleNamespace(instance=None))
    vars(made["comfy.utils"]).update(ProgressBar=Inert())
    for name, module in made.items():
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(made[parent], last, module)
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in [each for each in sys.modules if each in made or each.startswith("controlstack.nodes")]:
            del sys.modules[name]


class UNet(nn.Module):
    """Widths of a U-Net in the form of latent diffusion: all that a control model is compared with."""

    def __init__(self) -> None:
        super().__init__()
        self.channel_mult, self.num_res_blocks, self.model_channels = (1, 2, 2, 2), 2, 32


class WebUI:
    """The base model of a WebUI in which a request can be prepared."""

    checkpoint, dtype, latents = "tiny", torch.float32, None

    def __init__(self) -> None:
        self.unet = UNet()


class Settings:
    """The settings of a WebUI, all at their defaults."""

    basis = RangeBasis.WEBUI

    def option(self, name: str, default: Any) -> Any:
        return default


def webui_request(height: int, width: int) -> SimpleNamespace:
    """The host's object for one request of txt2img, as far as units read it."""
    comments: list[str] = []
    return SimpleNamespace(
        height=height, width=width, seed=0, subseed=-1, all_seeds=[0], enable_hr=False, extra_generation_params={},
        comments=comments, comment=comments.append,
    )  # fmt: skip
