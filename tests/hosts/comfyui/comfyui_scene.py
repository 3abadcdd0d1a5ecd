"""Graphs that most tests of the ComfyUI nodes share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import comfyui_world as world
from comfyui_host import Graph, Host, Link, output
from torch import Tensor

SIZE, STEPS = 128, 4


@dataclass
class Scene:
    """What most graphs share: a model, two prompts, latents."""

    kind: str = "SD"
    batch: int = 1
    cfg: float = 4.0
    steps: int = STEPS
    sampler: str = "euler"
    scheduler: str = "normal"
    denoise: float = 1.0
    graph: Graph = field(default_factory=Graph)

    def __post_init__(self) -> None:
        add = self.graph.add
        self.model = add("TestModel", kind=self.kind, seed=0)
        self.positive, self.negative = add("TestPrompt", seed=1), add("TestPrompt", seed=2)
        self.latent = add("EmptyLatentImage", width=SIZE, height=SIZE, batch_size=self.batch)

    def picture(self, seed: int = 0, count: int = 1, size: int = SIZE) -> Link:
        return self.graph.add("TestPicture", seed=seed, count=count, width=size, height=size)

    def vae(self) -> Link:
        """That of the tiny world."""
        return output(self.graph.add("TestWorld", folder=str(world.TINY / "base")), 2)

    def ours(self, file: str) -> Link:
        return self.graph.add("ControlStackLoadControlModel", name=f"{file}.safetensors")

    def theirs(self, file: str) -> Link:
        return self.graph.add("ControlNetLoader", control_net_name=f"{file}.safetensors")

    def unit(self, control: Link, picture: Link | None, units: Link | None = None, **settings: Any) -> Link:
        given = {
            "preprocessor": "none",
            "weight": 1.0,
            "start": 0.0,
            "end": 1.0,
            "basis": "noise",
            "mode": "balanced",
            "resize": "crop and resize",
            "resolution": 0,
            "enabled": True,
            **settings,
        }
        chain = {} if units is None else {"units_before": units}
        shown = {} if picture is None else {"image": picture}
        return self.graph.add("ControlStackControlUnit", control_net=control, **shown, **given, **chain)

    def apply(self, units: Link, **more: Link) -> None:
        prompts = {"positive": self.positive, "negative": self.negative}
        made = self.graph.add("ControlStackApplyControlUnits", **prompts, units=units, **more)
        self.positive, self.negative = made, output(made, 1)

    def apply_theirs(self, control: Link, picture: Link, strength: float, start: float = 0.0, end: float = 1.0) -> None:
        made = self.graph.add(
            "ControlNetApplyAdvanced",
            positive=self.positive,
            negative=self.negative,
            control_net=control,
            image=picture,
            strength=strength,
            start_percent=start,
            end_percent=end,
        )
        self.positive, self.negative = made, output(made, 1)

    def sample(self) -> Link:
        return self.graph.add(
            "KSampler",
            model=self.model,
            positive=self.positive,
            negative=self.negative,
            latent_image=self.latent,
            seed=3,
            steps=self.steps,
            cfg=self.cfg,
            sampler_name=self.sampler,
            scheduler=self.scheduler,
            denoise=self.denoise,
        )

    def draw(self, host: Host) -> Tensor:
        return host.latent(self.graph, self.sample())


def difference(a: Tensor, b: Tensor) -> float:
    """Largest difference relative to the range of b."""
    return float((a - b).abs().max() / (b.max() - b.min()))
