"""The autoencoder of the tiny world: diffusers' `AutoencoderTiny`, factor 8, 4 latent channels.

It is convolutional, so it learns from crops around the shapes: four times as many steps in the same time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .loop import Chance, Training, new_training
from .scenes import SIZE, Scene, draw, scenes

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny

CHANNELS = 32
SCENES = 2000
CROP = 64  # pixels
BATCH = 16
WHOLE_BATCH = 4  # pictures of a step of the decoder alone
LEARNING_RATE = 2e-3
DECODER_RATE = 1e-3
WARM_UP = 0.05  # of the steps
RESIDUAL_GAIN = 0.1  # residual blocks start close to the identity
SQUARES = 5.0  # weight of the squared error, which large errors of colour need
EDGES = 0.5  # weight of the error of the image's gradients: crisp outlines
LATENT_NOISE = 0.05  # of their deviation: the decoder must forgive the small errors of the U-Net


def new_autoencoder() -> AutoencoderTiny:
    """Return an untrained autoencoder: [B, 3, 8h, 8w] in [-1, 1] <-> [B, 4, h, w].

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
    """Set He's initialisation, then residual blocks close to the identity; in this order: blocks hold convolutions."""
    from diffusers.models.autoencoders.vae import AutoencoderTinyBlock

    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in vae.modules():
        if isinstance(module, AutoencoderTinyBlock):
            cast(nn.Conv2d, module.conv[-1]).weight.data.mul_(RESIDUAL_GAIN)


def autoencoder_training(vae: AutoencoderTiny, steps: int, seed: int) -> Training:
    """Return the training of encoder and decoder together; afterwards call `set_scale`."""
    pictures = _pictures(scenes(SCENES, seed))

    def loss(chance: Chance) -> Tensor:
        crops = _crops(pictures, chance.numpy)
        latents = vae.encoder(crops)
        noise = torch.randn(latents.shape, generator=chance.torch) * latents.detach().std()
        return _loss(vae.decoder(latents + LATENT_NOISE * noise), crops)

    return new_training(vae, loss, steps=steps, seed=seed, rate=LEARNING_RATE, warm_up=WARM_UP, decay=0.0)


def decoder_training(vae: AutoencoderTiny, steps: int, seed: int) -> Training:
    """Return the training of the decoder alone, on whole pictures: latents, and all trained on them, stay valid."""
    pictures = _pictures(scenes(SCENES, seed + 1))
    latents = encode(vae, pictures)
    deviation = latents.std()

    def loss(chance: Chance) -> Tensor:
        picks = torch.from_numpy(chance.numpy.integers(len(pictures), size=WHOLE_BATCH))
        noise = torch.randn(latents[picks].shape, generator=chance.torch) * deviation
        target = pictures[picks].float() / 127.5 - 1
        return _loss(vae.decoder(latents[picks] + LATENT_NOISE * noise), target)

    return new_training(vae.decoder, loss, steps=steps, seed=seed, rate=DECODER_RATE, warm_up=WARM_UP, decay=0.0)


def set_scale(vae: AutoencoderTiny, seed: int) -> None:
    """Put the scale that brings the latents to unit variance into the configuration."""
    some = _pictures(scenes(min(SCENES, 256), seed))
    vae.register_to_config(scaling_factor=round(1 / float(encode(vae, some).std()), 4))


@torch.no_grad()
def encode(vae: AutoencoderTiny, pictures: Tensor) -> Tensor:
    """Encode uint8 pictures [N, 3, H, W] to latents [N, 4, H / 8, W / 8], unscaled."""
    return torch.cat([vae.encoder(part.float() / 127.5 - 1) for part in pictures.split(64)])


def _pictures(some: list[Scene]) -> Tensor:
    return torch.from_numpy(np.stack([draw(scene).image for scene in some])).permute(0, 3, 1, 2)


def _crops(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Return random crops of random pictures: [BATCH, 3, CROP, CROP] in [-1, 1]."""
    picks = zip(rng.integers(len(pictures), size=BATCH), *rng.integers(SIZE - CROP + 1, size=(2, BATCH)), strict=True)
    crops = [pictures[k, :, y : y + CROP, x : x + CROP] for k, y, x in picks]
    return torch.stack(crops).float() / 127.5 - 1


def _loss(output: Tensor, target: Tensor) -> Tensor:
    """Return squares and L1 of the pixels, L1 of their differences to the right and below."""
    loss = SQUARES * F.mse_loss(output, target) + F.l1_loss(output, target)
    for dim in (2, 3):
        loss = loss + EDGES * F.l1_loss(output.diff(dim=dim), target.diff(dim=dim))
    return loss
