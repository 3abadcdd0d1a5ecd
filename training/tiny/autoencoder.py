"""The autoencoder of the tiny world: diffusers' `AutoencoderTiny`, factor 8, 4 latent channels.

It is convolutional, so it learns from crops around the shapes: four times as many steps in the same time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .scenes import SIZE, Scene, draw, scenes

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny

CHANNELS = 32
SCENES = 2000
CROP = 64  # pixels
BATCH = 16
LEARNING_RATE = 2e-3
RESIDUAL_GAIN = 0.1  # residual blocks start close to the identity
SQUARES = 5.0  # weight of the squared error, which large errors of colour need
EDGES = 0.5  # weight of the error of the image's gradients: crisp outlines
LATENT_NOISE = 0.05  # of their deviation: the decoder must forgive the small errors of the U-Net


def new_autoencoder() -> AutoencoderTiny:
    """An untrained autoencoder: [B, 3, 8h, 8w] in [-1, 1] <-> [B, 4, h, w].

    It has no normalisation, so it starts from He's initialisation (2015); from PyTorch's default it learns one colour.
    """
    from diffusers import AutoencoderTiny

    vae = AutoencoderTiny(
        encoder_block_out_channels=(CHANNELS,) * 4,
        decoder_block_out_channels=(CHANNELS,) * 4,
        num_encoder_blocks=(1, 1, 2, 2),
        num_decoder_blocks=(3, 2, 1, 1),
    )
    _initialise(vae)
    return vae


def _initialise(vae: AutoencoderTiny) -> None:
    """He's initialisation, then residual blocks close to the identity; in this order, for blocks hold convolutions."""
    from diffusers.models.autoencoders.vae import AutoencoderTinyBlock

    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in vae.modules():
        if isinstance(module, AutoencoderTinyBlock):
            cast(nn.Conv2d, module.conv[-1]).weight.data.mul_(RESIDUAL_GAIN)


def train_autoencoder(vae: AutoencoderTiny, steps: int, seed: int) -> Iterator[float]:
    """Train in place; yields the loss of each step. The latents' scale is put into the configuration at the end."""
    pictures = _pictures(scenes(SCENES, seed))
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(vae.parameters(), LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps, pct_start=0.05)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        crops = _crops(pictures, rng)
        latents = vae.encoder(crops)
        noise = torch.randn(latents.shape, generator=generator) * latents.detach().std()
        loss = _loss(vae.decoder(latents + LATENT_NOISE * noise), crops)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        yield loss.item()
    vae.register_to_config(scaling_factor=round(1 / float(encode(vae, pictures[:256]).std()), 4))


@torch.no_grad()
def encode(vae: AutoencoderTiny, pictures: Tensor) -> Tensor:
    """uint8 pictures [N, 3, H, W] -> latents [N, 4, H / 8, W / 8], unscaled."""
    return torch.cat([vae.encoder(part.float() / 127.5 - 1) for part in pictures.split(64)])


def _pictures(some: list[Scene]) -> Tensor:
    return torch.from_numpy(np.stack([draw(scene).image for scene in some])).permute(0, 3, 1, 2)


def _crops(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Random crops of random pictures: [BATCH, 3, CROP, CROP] in [-1, 1]."""
    picks = zip(rng.integers(len(pictures), size=BATCH), *rng.integers(SIZE - CROP + 1, size=(2, BATCH)), strict=True)
    crops = [pictures[k, :, y : y + CROP, x : x + CROP] for k, y, x in picks]
    return torch.stack(crops).float() / 127.5 - 1


def _loss(output: Tensor, target: Tensor) -> Tensor:
    """Squares and L1 of the pixels, L1 of their differences to the right and below."""
    loss = SQUARES * F.mse_loss(output, target) + F.l1_loss(output, target)
    for dim in (2, 3):
        loss = loss + EDGES * F.l1_loss(output.diff(dim=dim), target.diff(dim=dim))
    return loss
