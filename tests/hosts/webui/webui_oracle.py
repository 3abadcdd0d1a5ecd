"""What the WebUI's U-Net should have answered: diffusers' U-Net with the same weights, and our core outside the host.

Nothing of the WebUI's edge takes part: the progress is counted here, from what the sampler is known to do, cond rows
are known by their prompts, and residuals go in through diffusers' own arguments.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webui_world
from controlstack.core.control import ControlModel
from controlstack.core.embedding import Encoder
from controlstack.core.network.attach import Patches, attach, attend_with, change_weights, record
from controlstack.core.network.base import BaseWeights
from controlstack.core.network.points import PROMPT, Point
from controlstack.core.resize import ResizeMode
from controlstack.core.schedule import RangeBasis, Schedule
from controlstack.core.stack import ControlStack
from controlstack.core.step import Step
from controlstack.core.unit import ControlMode, ControlUnit
from controlstack.models.family import shapes_of
from controlstack.models.fileless.reference import ReferenceModel
from controlstack.models.kinds.references import REFERENCES
from controlstack.models.naming import to_ldm
from controlstack.models.registry import load_control_model
from controlstack.pipelines.attached import arguments, locate_in, shared_out
from controlstack.preprocessors import encoding
from controlstack.preprocessors.networks.pool import PlainManager, Pool
from controlstack.preprocessors.networks.store import Store
from controlstack.preprocessors.perform import Runtime
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from families import families_of
from safetensors.torch import load_file
from webui_host import Evaluation, Picture, Unit, encode

LEVELS = (1, 2, 4, 4)
TOKENS = 77  # of a prompt
SCALE = 0.18215  # of the latents of SD 1.x
LAST_TIMESTEP = 999  # of the noise schedules of all base models here
MODES = {
    "Balanced": ControlMode.BALANCED,
    "My prompt is more important": ControlMode.PROMPT,
    "ControlNet is more important": ControlMode.CONTROL,
}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A unit of a test: what is sent to the host, and what the core is given."""

    file: str = "canny"
    hints: Mapping[bool, Picture]  # by pass: False the first one, True the hires pass; several are [N, H, W, 3]
    settings: Mapping[str, Any] = field(default_factory=dict)
    mask: Picture | None = None

    @property
    def request(self) -> Unit:
        """The unit as the API takes it."""
        given = self.hints[False]
        image = encode(given) if given.ndim == 3 else [{"image": encode(each)} for each in given]
        sent = {"enabled": True, "module": "none", "model": self.file, "image": image}
        region = {} if self.mask is None else {"effective_region_mask": encode(self.mask)}
        return {**sent, **region, **self.settings}


@dataclass(frozen=True)
class Place:
    """Where an evaluation stands in its pass."""

    step: float  # not whole where a sampler chooses its own steps
    repeat: int  # which evaluation of its step it is, from 0
    steps: int
    counted: int | None = None  # the WebUI's own counter, where it is not the usual one

    def progress(self, timestep: float) -> dict[RangeBasis, float]:
        """The WebUI counts a step when its first evaluation is over, so only that one lags behind."""
        usual = self.step if self.repeat else max(self.step - 1, 0)
        counted = usual if self.counted is None else self.counted
        return {
            RangeBasis.WEBUI: min(1.0, counted / self.steps),
            RangeBasis.STEPS: self.step / self.steps,
            RangeBasis.NOISE: 1 - timestep / LAST_TIMESTEP,
        }


class Oracle:
    """The small world, outside the WebUI."""

    def __init__(
        self, models: Path, checkpoint: str = webui_world.NAME, basis: RangeBasis = RangeBasis.WEBUI,
        *, draws_latents: bool = True,
    ) -> None:  # fmt: skip
        """basis: of ranges where a unit does not say so. draws_latents: as `draws_latents` in webui_effects."""
        self._basis, self._draws, self._added = basis, draws_latents, 0
        self._folder = models / "ControlNet"
        self._models: dict[str, ControlModel] = {}
        path = models / "Stable-diffusion" / f"{checkpoint}.safetensors"
        make = {webui_world.XL: _xl_unet, webui_world.XL_PAIR: _xl_unet, webui_world.V2: _v2_unet}.get(
            checkpoint, sd_unet
        )
        self.path, self._unet = path, make(path)

    @torch.no_grad()
    def answer(self, seen: Evaluation, units: Sequence[Wanted], place: Place) -> torch.Tensor:
        """The U-Net's output for the recorded input."""
        stack = ControlStack([self._unit(unit, seen.hires) for unit in units if _acts(unit, seen.hires)], self)
        adds = any(PROMPT in unit.model.points for unit in stack.units)
        context = seen.context[:, :TOKENS] if adds else seen.context  # it was recorded with the tokens beside it
        step = Step(
            x=seen.x,
            timestep=seen.time,
            context=context,
            cond=seen.cond,
            progress=place.progress(float(seen.time[0])),
            y=seen.y,
            evaluate=lambda x, rows, points: self._look(seen, x, list(rows), points),
            attend=lambda point, n, tokens: attend_with(locate_in(self._unet)(point).module, n, tokens),
        )
        with Patches() as patches:
            change_weights(patches, stack.units, to_ldm(dict(self._unet.named_parameters())))
            effects = stack(step)
            by_hooks, by_arguments = shared_out(effects)
            more = arguments(self._unet, by_arguments, {"encoder_hidden_states": context})
            attach(patches, by_hooks, locate_in(self._unet))
            more = {"encoder_hidden_states": context, **more}  # with tokens beside it, where a unit has some
            return self._unet(seen.x, seen.time, class_labels=seen.y, **more).sample

    def ready(self, model: ControlModel) -> Any:
        return nullcontext()

    def check_interrupt(self) -> None: ...

    @torch.no_grad()
    def encode(self, picture: torch.Tensor) -> torch.Tensor:
        """Latents by the checkpoint's autoencoder, drawn from its distribution with the seed 0, or its mean."""
        found = _autoencoder(self.path).encode(picture * 2 - 1).latent_dist
        return (found.sample(torch.Generator().manual_seed(0)) if self._draws else found.mode()) * SCALE

    def follow(self, model: ControlModel) -> bool:
        """A Control-LoRA reads the weights of the diffusers U-Net."""
        return model.follow(BaseWeights(to_ldm(self._unet.state_dict()).get, self._added))

    @torch.no_grad()
    def add(self, differences: Mapping[str, torch.Tensor]) -> None:
        """Change weights, by bare ldm names, as a LoRA does."""
        weights = to_ldm(dict(self._unet.named_parameters()))
        for name, difference in differences.items():
            weights[name].add_(difference)
        self._added += 1

    def _look(
        self, seen: Evaluation, x: torch.Tensor, rows: list[int], points: Collection[Point]
    ) -> dict[Point, torch.Tensor]:
        """What stands at some points of the U-Net alone."""
        found: dict[Point, torch.Tensor] = {}
        with Patches() as patches:
            record(patches, points, locate_in(self._unet), found)
            labels = None if seen.y is None else seen.y[rows]
            self._unet(x, seen.time[rows], seen.context[rows], class_labels=labels)
        return found

    def _unit(self, unit: Wanted, hires: bool) -> ControlUnit:
        said = unit.settings
        schedule = Schedule(
            start=said.get("guidance_start", 0.0),
            end=said.get("guidance_end", 1.0),
            basis=RangeBasis(said.get("range_basis", self._basis)),
        )
        model = self.model(unit.file).bind(said.get("options", {}))
        return ControlUnit(
            model=model,
            hint=_tensor(unit.hints[hires]) if model.embedding is None else self.seen(unit.hints[hires], model),
            weight=said.get("weight", 1.0),
            delta_strength=said.get("delta_strength", 1.0),
            schedule=schedule,
            mode=MODES[said.get("control_mode", "Balanced")],
            resize=ResizeMode.CROP,
            mask=None if unit.mask is None else _tensor(unit.mask)[:, :1],
            block_weights=said.get("advanced_weighting"),
        )

    def seen(self, picture: Picture, model: ControlModel) -> torch.Tensor:
        """What the model's encoder sees in pictures; where the file does not say which one, it is ViT-H."""
        assert model.embedding is not None
        wanted = replace(model.embedding, encoder=model.embedding.encoder or Encoder.CLIP_H)
        runtime = Runtime(store=Store(self._folder.parent / "ControlNetPreprocessor"), pool=Pool(PlainManager("cpu")))
        found = torch.from_numpy(encoding(wanted)(np.ascontiguousarray(picture), runtime=runtime))
        return found.reshape(-1, *found.shape[-2:])

    def model(self, file: str) -> ControlModel:
        if not self._models:
            self._models |= families_of(shapes_of(to_ldm(dict(self._unet.named_parameters()))))
        if file in REFERENCES:
            return ReferenceModel(file, list(to_ldm(self._unet.state_dict())))
        if file not in self._models:
            self._models[file] = load_control_model(self._folder / f"{file}.safetensors", dtype=torch.float32)
        return self._models[file]


def _acts(unit: Wanted, hires: bool) -> bool:
    return unit.settings.get("hr_option", "Both") != ("Low res only" if hires else "High res only")


def _tensor(picture: Picture) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float() / 255


def _v2_unet(path: Path) -> UNet2DConditionModel:
    heads = tuple(webui_world.WIDTH * factor // webui_world.V2_HEAD for factor in LEVELS)
    return sd_unet(path, attention_head_dim=heads, use_linear_projection=True)


def sd_unet(path: Path, **differences: Any) -> UNet2DConditionModel:
    """The U-Net of a small checkpoint of SD 1.x, as diffusers has it."""
    attends, plain = "CrossAttnDownBlock2D", "DownBlock2D"
    network = UNet2DConditionModel(
        block_out_channels=tuple(webui_world.WIDTH * factor for factor in LEVELS),
        down_block_types=(attends, attends, attends, plain),
        up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        cross_attention_dim=webui_world.CONTEXT,
        layers_per_block=2,
        **({"attention_head_dim": webui_world.HEADS} | differences),
    )
    return _loaded(network, path)


def _xl_unet(path: Path) -> UNet2DConditionModel:
    widths = tuple(webui_world.XL_WIDTH * factor for factor in webui_world.XL_LEVELS)
    network = UNet2DConditionModel(
        block_out_channels=widths,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
        up_block_types=(*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"),
        transformer_layers_per_block=(1, *webui_world.XL_DEPTHS[1:]),
        attention_head_dim=tuple(width // webui_world.XL_HEAD for width in widths),
        cross_attention_dim=webui_world.CONTEXT,
        layers_per_block=2,
        use_linear_projection=True,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=2 * sum(webui_world.XL_OUTDIMS),
    )
    return _loaded(network, path)


@cache
def _autoencoder(path: Path) -> AutoencoderKL:
    widths = tuple(webui_world.AUTOENCODER_WIDTH * factor for factor in LEVELS)
    down, up = ("DownEncoderBlock2D",) * len(LEVELS), ("UpDecoderBlock2D",) * len(LEVELS)
    network = AutoencoderKL(
        block_out_channels=widths, layers_per_block=1, latent_channels=4, down_block_types=down, up_block_types=up
    )
    network.load_state_dict(convert_ldm_vae_checkpoint(load_file(path), dict(network.config)))
    return network.eval()


def _loaded(network: UNet2DConditionModel, path: Path) -> UNet2DConditionModel:
    network.load_state_dict(convert_ldm_unet_checkpoint(load_file(path), dict(network.config)))
    return network.eval()
