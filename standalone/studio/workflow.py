"""The settings of a page as a workflow of ComfyUI: nodes by number, in the form that its page and its API load.

Files go by their names, since ComfyUI has folders of its own for them; pictures by the names under which one saves
them. Each picture of a batch has the seed of its own here and ComfyUI's noise there, so it draws alike, not the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ...core.errors import HostError
from ...pipelines.request import Request
from ...pipelines.schedulers import scheduler_name
from ...units.blocks import BlockWeights
from ...units.choices import HiresOption
from ...units.request import FIELDS, UnitRequest
from .library import Library
from .said import Job

Link = list[Any]  # [number of a node, its output]
SAMPLERS: Mapping[str, tuple[str, str]] = MappingProxyType({  # ours -> sampler and scheduler of ComfyUI
    "ddim": ("ddim", "ddim_uniform"), "ddpm": ("ddpm", "normal"), "unipc": ("uni_pc", "normal"),
    "euler": ("euler", "normal"), "euler a": ("euler_ancestral", "normal"), "heun": ("heun", "normal"),
    "lms": ("lms", "normal"), "pndm": ("ipndm", "normal"), "dpm++ 2m": ("dpmpp_2m", "normal"),
    "dpm++ 2m karras": ("dpmpp_2m", "karras"), "dpm++ 2m sde": ("dpmpp_2m_sde", "normal"),
    "dpm++ 2m sde karras": ("dpmpp_2m_sde", "karras"), "dpm2": ("dpm_2", "normal"),
    "dpm2 a": ("dpm_2_ancestral", "normal"), "lcm": ("lcm", "sgm_uniform"),
})  # fmt: skip


class Graph:
    """Nodes that are added one by one."""

    def __init__(self) -> None:
        self.nodes: dict[str, dict[str, Any]] = {}

    def add(self, kind: str, **inputs: Any) -> str:
        """Add a node and return its number. inputs: values, and links to outputs of other nodes."""
        number = str(len(self.nodes) + 1)
        self.nodes[number] = {"class_type": kind, "inputs": inputs}
        return number


def workflow(library: Library, job: Job) -> str:
    """Return the job as a workflow in JSON. HostError for what no workflow of these nodes says."""
    request = job.request
    if len(set(request.prompts)) > 1:
        raise HostError("a workflow has one prompt: write one line, or draw the others by the command line")
    if request.mask is not None:
        raise HostError("a part of a picture that is redrawn has no workflow here: take the mask away")
    if request.hires > 1 and any(unit.hires is not HiresOption.BOTH for unit in job.units):
        raise HostError("a unit for one of two passes has no workflow here: let each unit act in both")
    graph = Graph()
    loader = _loader(graph, library.base(job.base))
    model, clip = [loader, 0], [loader, 1]
    for lora in request.loras:
        node = graph.add(
            "LoraLoader", model=model, clip=clip, lora_name=_file(Path(lora.path)), strength_model=lora.weight,
            strength_clip=lora.weight,
        )  # fmt: skip
        model, clip = [node, 0], [node, 1]
    if request.clip_skip > 1:
        clip = [graph.add("CLIPSetLastLayer", clip=clip, stop_at_clip_layer=-request.clip_skip), 0]
    prompts = [
        [graph.add("CLIPTextEncode", clip=clip, text=text), 0] for text in (request.prompts[0], request.negative)
    ]
    latent = _start(graph, request, [loader, 2])
    units = _units(graph, library, job, model, latent)
    if units is not None:
        told = {"positive": prompts[0], "negative": prompts[1], "units": units, "vae": [loader, 2]}
        applied = graph.add("ControlStackApplyControlUnits", **told)
        prompts = [[applied, 0], [applied, 1]]
    _sample(graph, request, model, prompts, latent, [loader, 2])
    return json.dumps(graph.nodes, indent=1, ensure_ascii=False)


def _loader(graph: Graph, base: Path) -> str:
    """Add what loads a base model, a file or a folder of diffusers, and return its number."""
    if base.is_dir():
        return graph.add("DiffusersLoader", model_path=_file(base))
    return graph.add("CheckpointLoaderSimple", ckpt_name=_file(base))


def _start(graph: Graph, request: Request, vae: Link) -> Link:
    if request.image is None:
        size = {"width": request.width, "height": request.height, "batch_size": request.batch}
        return [graph.add("EmptyLatentImage", **size), 0]
    picture = graph.add("LoadImage", image="image.png")
    size = {"width": request.width, "height": request.height, "upscale_method": "lanczos", "crop": "disabled"}
    return [graph.add("VAEEncode", pixels=[graph.add("ImageScale", image=[picture, 0], **size), 0], vae=vae), 0]


def _sample(graph: Graph, request: Request, model: Link, prompts: list[Link], latent: Link, vae: Link) -> None:
    """Add samplers, for each pass one, and what decodes and saves."""
    sampler, scheduler = SAMPLERS[scheduler_name(request.scheduler)]
    common = {
        "model": model, "positive": prompts[0], "negative": prompts[1], "seed": request.seed, "cfg": request.guidance,
        "sampler_name": sampler, "scheduler": scheduler,
    }  # fmt: skip
    strength = 1.0 if request.image is None else request.strength
    node = graph.add("KSampler", latent_image=latent, steps=request.steps, denoise=strength, **common)
    if request.hires > 1:
        width, height = request.final_size
        size = {"width": width, "height": height, "upscale_method": "lanczos", "crop": "disabled"}
        large = graph.add("ImageScale", image=[graph.add("VAEDecode", samples=[node, 0], vae=vae), 0], **size)
        again = [graph.add("VAEEncode", pixels=[large, 0], vae=vae), 0]
        steps = request.hires_steps or request.steps
        node = graph.add("KSampler", latent_image=again, steps=steps, denoise=request.hires_strength, **common)
    picture = graph.add("VAEDecode", samples=[node, 0], vae=vae)
    graph.add("SaveImage", images=[picture, 0], filename_prefix="ControlStack")


def _units(graph: Graph, library: Library, job: Job, model: Link, latent: Link) -> Link | None:
    """Add the nodes of the units and return the output of the last; None without units."""
    last: Link | None = None
    for number, unit in zip(job.numbers, job.units, strict=True):
        inputs = dict(_unit_inputs(graph, number, unit))
        file = _file(library.model(unit.model).path)
        inputs["control_net"] = [graph.add("ControlStackLoadControlModel", name=file, model=model), 0]
        if unit.pixel_perfect:
            inputs["latent"] = latent
        if last is not None:
            inputs["units_before"] = last
        last = [graph.add("ControlStackControlUnit", **inputs), 0]
    return last


def _unit_inputs(graph: Graph, number: int, unit: UnitRequest) -> Iterator[tuple[str, Any]]:
    """Yield the inputs of a unit's node that do not lie in other nodes of ours."""
    yield "image", [graph.add("LoadImage", image=f"unit-{number}-image.png"), 0]
    yield "preprocessor", unit.preprocessor
    yield from ((f"preprocessor.{name}", value) for name, value in unit.parameters.items())
    if unit.seed is not None:
        yield "preprocessor.seed", unit.seed
    for name in ("weight", "start", "end", "enabled", "delta_strength", "uncond_weight"):
        yield name, getattr(unit, name)
    for name in ("basis", "mode", "resize"):
        yield name, getattr(unit, name).value
    yield "resolution", unit.resolution or 0
    for name in ("options", "reuse"):
        yield name, FIELDS[name].write(getattr(unit, name))
    for name, node in (("effect_mask", "mask"), ("inpaint_mask", "inpaint_mask")):
        if getattr(unit, name) is not None:
            file = f"unit-{number}-{name.replace('_', '-')}.png"
            yield node, [graph.add("LoadImageMask", image=file, channel="red"), 0]
    if unit.curve:
        text = FIELDS["curve"].write(unit.curve)
        yield "schedule", [graph.add("ControlStackSchedule", shape="keyframes", **{"shape.keyframes": text}), 0]
    if unit.block_weights is not None:
        yield "block_weights", [graph.add("ControlStackBlockWeights", **_preset(unit.block_weights)), 0]


def _preset(weights: BlockWeights) -> dict[str, Any]:
    """Return block weights as the inputs of their node."""
    if weights.base is not None:
        return {"preset": "soft", "preset.base": weights.base}
    if weights.shape:
        return {"preset": weights.shape}
    return {"preset": "custom", "preset.weights": FIELDS["block_weights"].write(weights)}


def _file(path: Path) -> str:
    """Return how ComfyUI's lists name a file."""
    return path.name
