"""The base model of the tiny world: a diffusers folder that `StableDiffusionPipeline` loads, small enough for a CPU.

v-prediction with zero terminal SNR (Lin et al. 2023): a model of this size draws noise with epsilon-prediction. Latents
are computed once; the text encoder learns together with the U-Net.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.network.base import LATENT
from .autoencoder import encode
from .loop import Chance, Training, new_training
from .scenes import SIZE, Image, Scene, draw, scenes
from .tokenizer import LENGTH, vocabulary, write_tokenizer

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

WIDTH = 64  # of a prompt token
BATCH = 16
LEARNING_RATE = 1.5e-3
WARM_UP = 0.03  # of the steps
EMPTY_PROMPTS = 0.1  # classifier-free guidance needs the empty prompt (Ho and Salimans 2022)
AVERAGE = 0.999  # decay of the moving average of the weights, which is what is kept
SCENES = 6000
DECAY = 0.01  # of the weights


@dataclass(frozen=True, slots=True)
class Base:
    """The parts of a Stable Diffusion pipeline."""

    vae: AutoencoderTiny
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: DDIMScheduler

    def save(self, folder: Path, dtype: torch.dtype = torch.float16) -> None:
        """Write a diffusers folder."""
        pipeline = self.pipeline()
        pipeline.to(dtype=dtype)
        self.text_encoder.float()  # transformers loads what it finds, diffusers fp32: they must agree by default
        pipeline.save_pretrained(folder)
        pipeline.to(dtype=torch.float32)
        shutil.rmtree(folder / "tokenizer")  # transformers 5 writes a tokenizer.json that its version 4 does not read
        write_tokenizer(folder / "tokenizer")

    def pipeline(self) -> Any:
        from diffusers import StableDiffusionPipeline

        parts: dict[str, Any] = {
            "vae": self.vae,
            "unet": self.unet,
            "text_encoder": self.text_encoder,
            "tokenizer": self.tokenizer,
            "scheduler": self.scheduler,
            "safety_checker": None,
            "feature_extractor": None,
        }
        return StableDiffusionPipeline(**parts, requires_safety_checker=False)


def new_base(vae: AutoencoderTiny, folder: Path) -> Base:
    """Return an untrained base around a trained autoencoder; its tokenizer is written to `folder`."""
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    write_tokenizer(folder / "tokenizer")
    tokens = vocabulary()[0]
    end = len(tokens) - 1
    text = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=end - 1,
        eos_token_id=end,
        pad_token_id=end,
    )
    unet = UNet2DConditionModel(
        sample_size=SIZE // LATENT,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=2,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,  # without effect on trailing timesteps; diffusers expects it of Stable Diffusion
    )
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    return Base(vae, unet, CLIPTextModel(text), tokenizer, scheduler)


def load_base(folder: Path) -> Base:
    """Return a trained base, in fp32, to be trained on."""
    from diffusers import StableDiffusionPipeline

    made = StableDiffusionPipeline.from_pretrained(folder).to(dtype=torch.float32)
    return Base(made.vae, made.unet, made.text_encoder, made.tokenizer, made.scheduler)


def base_training(
    base: Base,
    steps: int,
    seed: int,
    rate: float = LEARNING_RATE,
    *,
    batch: int = BATCH,
    count: int | None = None,
    look: Callable[[Image], Image] = lambda picture: picture,
) -> Training:
    """Return the training of U-Net and text encoder; save it inside `averaged`.

    count: of scenes; None: as many as the shipped base had. look: changes each scene's picture [H, W, 3], for a base
    that draws otherwise.
    """
    latents, prompts = _material(base, scenes(count or SCENES, seed), look)
    modules = nn.ModuleList([base.unet, base.text_encoder])

    def loss(chance: Chance) -> Tensor:
        picks = torch.randint(len(latents), (batch,), generator=chance.torch)
        keep = torch.rand(batch, 1, generator=chance.torch) >= EMPTY_PROMPTS
        tokens = torch.where(keep, prompts[picks], prompts[-1])
        return _loss(base, latents[picks], base.text_encoder(tokens)[0], chance.torch)

    training = new_training(modules, loss, steps=steps, seed=seed, rate=rate, warm_up=WARM_UP, decay=DECAY)
    training.average = torch.optim.swa_utils.AveragedModel(modules, avg_fn=_moving_average)
    return training


@contextmanager
def averaged(training: Training) -> Iterator[None]:
    """Inside, the modules hold their moving average, which is what is kept; afterwards they can be trained on."""
    assert training.average is not None
    own = copy.deepcopy(training.modules.state_dict())
    training.modules.load_state_dict(training.average.module.state_dict())
    try:
        yield
    finally:
        training.modules.load_state_dict(own)


def _moving_average(old: Tensor, new: Tensor, updates: Tensor | int) -> Tensor:
    """Return the average after one more update: short memory at first, AVERAGE in the end."""
    count = float(updates)
    return old.lerp(new, 1 - min(AVERAGE, (1 + count) / (10 + count)))


def _material(base: Base, some: Sequence[Scene], look: Callable[[Image], Image]) -> tuple[Tensor, Tensor]:
    """Return scaled latents [N, 4, h, w] and token ids [N + 1, LENGTH], the last ones of the empty prompt."""
    pictures = (torch.from_numpy(look(draw(scene).image)).permute(2, 0, 1) for scene in some)
    latents = [encode(base.vae, picture[None]) for picture in pictures]
    scale = float(base.vae.config.scaling_factor)  # pyright: ignore[reportAttributeAccessIssue]
    return torch.cat(latents) * scale, tokenise(base.tokenizer, [*(scene.caption for scene in some), ""])


def tokenise(tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> Tensor:
    """Return token ids [N, LENGTH]."""
    ids = tokenizer(list(prompts), padding="max_length", truncation=True, max_length=LENGTH)["input_ids"]
    return torch.from_numpy(np.array(ids))


def _loss(base: Base, latents: Tensor, context: Tensor, generator: torch.Generator) -> Tensor:
    """Return the mean squared error of v at a random time."""
    noise = torch.randn(latents.shape, generator=generator)
    time = torch.randint(base.scheduler.config["num_train_timesteps"], (len(latents),), generator=generator)
    noisy = base.scheduler.add_noise(latents, noise, time)  # pyright: ignore[reportArgumentType]
    target = base.scheduler.get_velocity(latents, noise, time)  # pyright: ignore[reportArgumentType]
    return F.mse_loss(base.unet(noisy, time, context).sample, target)
