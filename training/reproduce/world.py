"""What all experiments share: the shipped base and controls, scenes that no training has seen, drawing, measuring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ...core.control import ControlModel
from ...core.unit import ControlUnit
from ...models.registry import load_control_model
from ...pipelines.bases import Base, latents_of, load_base
from ...pipelines.drawing import generate
from ...pipelines.request import Request
from ...pipelines.tiny_world import BASE, CONTROLS, SIDE
from ..evaluation.evaluate import Trial, make_trial, score
from ..evaluation.measures.frechet import Fid
from ..evaluation.measures.measure import Sample
from ..results.files import replace_folder
from ..tiny.scenes import draw as draw_scene
from ..tiny.scenes import scenes, write_dataset
from .sizes import Sizes

Image = NDArray[np.uint8]

CANNY, COLOR = "canny", "color"
GUIDANCE = 2.0  # of pictures with a prompt, as in docs/fidelity.md
QUARTERS = 2  # features of FID are averaged over so many parts of each side
REFERENCE_SEED = 20_000  # of the real scenes; the measured ones begin at 10 000, trainings at small seeds
SHOWN = ("edge_f1", "depth_error", "colour_accuracy")
AT_ONCE = 8  # pictures of a batch


class World:
    """The tiny world with a folder for what is made in it."""

    def __init__(self, folder: Path, sizes: Sizes, base: Path = BASE, controls: Path = CONTROLS) -> None:
        self.folder, self.sizes, self.base_path, self.controls_path = folder, sizes, base, controls

    @cached_property
    def base(self) -> Base:
        """Return the base."""
        return load_base(self.base_path)

    @cached_property
    def trial(self) -> Trial:
        """Return the scenes of the final measurements, with their hints."""
        return make_trial(self.sizes.scenes)

    @cached_property
    def controls(self) -> Mapping[str, ControlModel]:
        """Return the shipped controls by name."""
        names = (CANNY, COLOR)
        return {name: load_control_model(self.controls_path / f"{name}.safetensors") for name in names}

    def data(self, count: int) -> Path:
        """Return the folder of a data set of so many scenes; it is drawn if it is not there."""
        folder = self.folder / "data" / str(count)
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            replace_folder(folder, lambda fresh: write_dataset(fresh, count, self.sizes.data_seed))
        return folder

    def unit(self, model: ControlModel, kind: str, count: int | None = None, **settings: object) -> ControlUnit:
        """Return a unit with the hints of the first `count` scenes."""
        hints = torch.from_numpy(np.ascontiguousarray(self.trial.hints[kind][:count])).permute(0, 3, 1, 2).float() / 255
        return ControlUnit(model=model, hint=hints, **settings)  # type: ignore[arg-type]

    def draw(
        self, units: Sequence[ControlUnit], prompts: Sequence[str], guidance: float, base: Base | None = None
    ) -> Image:
        """Draw a picture for each prompt, always from the same noise: [N, H, W, 3]."""
        parts: list[Image] = []
        for start in range(0, len(prompts), AT_ONCE):
            some = tuple(prompts[start : start + AT_ONCE])
            request = Request(
                prompt=some,
                steps=self.sizes.draw_steps,
                guidance=guidance,
                seed=start,
                batch=len(some),
                width=SIDE,
                height=SIDE,
                scheduler="ddim",
            )
            here = [_part(unit, start, len(some)) for unit in units]
            parts.append(generate(base or self.base, request, here).images)
        return np.concatenate(parts)

    def obedience(self, images: Image) -> dict[str, float]:
        """Return how well pictures [N, H, W, 3] of the first N scenes obey: edges, depth, colours."""
        trial, count = self.trial, len(images)
        part = Trial(trial.scenes[:count], trial.pictures[:count], {k: hint[:count] for k, hint in trial.hints.items()})
        found = score(part, images)
        return {name: found[name] for name in SHOWN}

    def measure(self, images: Image) -> dict[str, float]:
        """Return obedience, and FID against real scenes."""
        return {**self.obedience(images), "fid": round(self._fid(images), 4)}

    def features(self, picture: Image) -> Tensor:
        """Return the autoencoder's latents of a picture [H, W, 3], averaged over its quarters: 16 numbers."""
        vae = self.base.pipeline.vae
        pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            return F.adaptive_avg_pool2d(latents_of(vae, pixels.to(vae.dtype)).float(), QUARTERS).flatten()

    def _fid(self, images: Image) -> float:
        measure = Fid(self.features, len(self.features(images[0])))
        measure.load({**measure.state(), **self._reference})
        for image in images:
            measure.add(Sample(image))
        return measure.result()["fid"]

    @cached_property
    def _reference(self) -> Mapping[str, Tensor]:
        """Return the sums of the features of real scenes."""
        example = draw_scene(scenes(1, REFERENCE_SEED)[0]).image
        measure = Fid(self.features, len(self.features(example)))
        for scene in scenes(self.sizes.reference, REFERENCE_SEED):
            measure.refer(draw_scene(scene).image)
        return {name: each for name, each in measure.state().items() if name.startswith("real")}


def _part(unit: ControlUnit, start: int, count: int) -> ControlUnit:
    """Return a unit for some of the pictures that its hints are for."""
    return replace(unit, hint=unit.hint[start : start + count])
