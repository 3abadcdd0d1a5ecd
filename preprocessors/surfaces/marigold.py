"""Marigold: depth and normals by a diffusion model that was taught to paint them, through diffusers.

It is slow and very detailed. Every run starts from noise, so the seed counts; several runs may be merged into one.
Source: Ke et al., Repurposing diffusion-based image generators for monocular depth estimation, 2024. Its depth grows
away from the viewer, and the x of its normals to the right, both against what control models were trained with.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# diffusers and torch declare some functions incompletely; what they return is declared here instead.

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import DamagedModelError, MissingDependencyError
from ..declaration import Output, Parameter
from ..networks.loading import load_network, read_settings
from ..networks.network import Network, WeightFile
from ..networks.pretrained import load_pretrained
from ..networks.weights import HUB
from ..perform import Preprocessor
from .depth import to_levels

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from ..resize import Image
else:
    from ..lazy import np

PARTS = (  # of a repository, in the order in which they are loaded
    "scheduler/scheduler_config.json",
    "text_encoder/config.json", "text_encoder/model.fp16.safetensors",
    "unet/config.json", "unet/diffusion_pytorch_model.fp16.safetensors",
    "vae/config.json", "vae/diffusion_pytorch_model.fp16.safetensors",
)  # fmt: skip
MEGABYTES = {"text_encoder": 680, "unet": 1730, "vae": 170}  # of the tensors of a part, about
EMPTY = 49406, 49407  # the empty prompt, start and end, as CLIP's vocabulary numbers them
RENAMED = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}  # in old files
LICENCE = "CreativeML OpenRAIL++-M: with rules of use"
MINUS_X = (-1.0, 1.0, 1.0)  # control models know normals whose red is left


def depth(image: Image, network: nn.Module, steps: int, ensemble: int, seed: int) -> NDArray[np.float32]:
    """Return how near each pixel of [H, W, 3] is, 0 to 1."""
    return 1 - _predicted("MarigoldDepthPipeline", image, network, steps, ensemble, seed)[..., 0]


def normals(image: Image, network: nn.Module, steps: int, ensemble: int, seed: int) -> Image:
    """Return the directions of surfaces of [H, W, 3], as Bae's normals show them."""
    found = _predicted("MarigoldNormalsPipeline", image, network, steps, ensemble, seed)
    return np.rint((found * np.array(MINUS_X, np.float32) + 1) * 127.5).clip(0, 255).astype(np.uint8)


def _predicted(name: str, image: Image, network: Any, steps: int, ensemble: int, seed: int) -> NDArray[np.float32]:
    """Return [H, W, C] of the library's pipeline at the picture's own size."""
    import torch

    unet, vae = network["unet"], network["vae"]
    pipeline = getattr(importlib.import_module("diffusers"), name)(
        unet=unet, vae=vae, scheduler=unet.scheduler, text_encoder=None, tokenizer=None
    )
    pipeline.empty_text_embedding = unet.empty
    pipeline.set_progress_bar_config(disable=True)
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
    found = pipeline(
        pixels,
        num_inference_steps=steps,
        ensemble_size=ensemble,
        processing_resolution=0,  # as it is
        generator=torch.Generator().manual_seed(seed),
    )
    return np.asarray(found.prediction[0], np.float32)


def load(scheduler: Path, text: Path, text_weights: Path, *rest: Path) -> nn.Module:
    """Return the networks that draw. Of the text encoder only what it says to an empty prompt is kept."""
    import torch

    unet_config, unet_weights, vae_config, vae_weights = rest
    unet: Any = _part("UNet2DConditionModel", unet_config, unet_weights)
    vae = _part("AutoencoderKL", vae_config, vae_weights)
    encoder: Any = load_pretrained(text, text_weights, name="CLIPTextModel")
    with torch.inference_mode():
        unet.register_buffer("empty", encoder(torch.tensor([EMPTY]))[0].clone())
    unet.scheduler = _scheduler(scheduler)
    return torch.nn.ModuleDict({"unet": unet, "vae": vae})


def _part(name: str, config: Path, weights: Path) -> nn.Module:
    settings = read_settings(config)
    kind = _diffusers(name)
    try:
        return load_network(weights, lambda: kind.from_config(settings), _today)
    except (TypeError, KeyError) as error:
        raise DamagedModelError(f"{config} is no configuration of {name} ({error}): get it again") from error


def _scheduler(path: Path) -> Any:
    settings = read_settings(path)
    name = settings.get("_class_name")
    if name not in ("DDIMScheduler", "LCMScheduler"):
        raise DamagedModelError(f"{path} is of {name}, expected DDIMScheduler or LCMScheduler: get it again")
    return _diffusers(name).from_config(settings)


def _diffusers(name: str) -> Any:
    try:
        return getattr(importlib.import_module("diffusers"), name)
    except (ImportError, AttributeError) as error:
        raise MissingDependencyError(f"the installed diffusers has no usable {name} ({error})") from error


def _today(key: str) -> str:
    for old, new in RENAMED.items():
        key = key.replace(old, new)
    return key


def _network(kind: str, repository: str) -> Network:
    files = tuple(
        WeightFile(
            name=f"{repository}/{part}",
            addresses=(f"{HUB}/{repository}/resolve/main/{part}",),
            licence=LICENCE,
            megabytes=0 if part.endswith(".json") else MEGABYTES[part.partition("/")[0]],
        )
        for part in PARTS
    )
    packages = "diffusers>=0.31", "transformers>=4.46", "scipy"
    return Network(id=kind, files=files, load=load, packages=packages, memory=16000)


def _entry(kind: str, title: str, doc: str, control_type: str, repository: str, **changes: Any) -> Preprocessor:
    settings: dict[str, Any] = {
        "id": kind,
        "title": title,
        "doc": doc,
        "control_types": (control_type,),
        "parameters": (
            Parameter(name="steps", label="Steps", default=4, minimum=1, maximum=50, step=1,
                      doc="Steps of denoising; more change little."),
            Parameter(name="ensemble", label="Runs", default=1, minimum=1, maximum=10, step=1,
                      doc="So many results are merged; each takes the whole time again."),
        ),
        "networks": (_network(kind, repository),),
        "deterministic": False,
        **changes,
    }  # fmt: skip
    return Preprocessor(**settings)


DEPTH_MARIGOLD = _entry(
    "depth_marigold", "Depth (Marigold)", "Very detailed relative depth, slow; best at a resolution of 768.", "Depth",
    "prs-eth/marigold-depth-v1-1", run=depth, finish=to_levels, output=Output.GRAY,
    polarity="near is white",
)  # fmt: skip
NORMAL_MARIGOLD = _entry(
    "normal_marigold", "Normals (Marigold)", "Very detailed surface normals, slow; best at a resolution of 768.",
    "NormalMap", "prs-eth/marigold-normals-v1-1", run=normals, output=Output.RGB,
    polarity="red is left, green is up, blue is towards the viewer",
)  # fmt: skip
