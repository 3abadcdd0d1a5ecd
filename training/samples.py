"""What a training can do so far, as a picture: held-out hints, their pictures, and what is drawn from the hints.

The noise is the same each time, so that two sheets differ by the training alone, and it takes no random number away
from the training, which goes on as if no sheet had been drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .words import Words, read_words, tokenise

if TYPE_CHECKING:
    from .control import Run

Image = NDArray[np.uint8]
PAPER = 255  # grey of what no picture covers


def sample_sheet(run: Run) -> Image:
    """One row for each held-out example: hint, picture, what the network as it is now makes of hint and words."""
    rows = [np.hstack([*pair, _draw(run, index)]) for index, pair in enumerate(run.held_out.pictures())]
    width = max(row.shape[1] for row in rows)
    padded = (np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=PAPER) for row in rows)
    return np.vstack(list(padded))


@torch.no_grad()
def _draw(run: Run, index: int) -> Image:
    """DDIM from noise that depends on the index alone: [H, W, 3]."""
    from diffusers import DDIMScheduler

    row, base, device = run.held_out.row(index), run.base, run.accelerator.device
    scheduler: Any = DDIMScheduler.from_config(base.scheduler.config)
    scheduler.set_timesteps(run.settings.sample_steps)
    hint = row["hint"][None].to(device, torch.float32) / 255
    words = read_words(base, torch.stack([tokenise(base, [""])[0], row["tokens"]]), (hint.shape[2], hint.shape[3]))
    latents = torch.randn(row["latents"][None].shape, generator=torch.Generator().manual_seed(index)).to(device)
    for time in scheduler.timesteps:
        predicted = _guided(run, latents, time.to(device), hint, words)
        latents = scheduler.step(predicted, int(time), latents).prev_sample
    return _decode(base.vae, latents)


def _guided(run: Run, latents: Tensor, time: Tensor, hint: Tensor, words: Words) -> Tensor:
    """Classifier-free guidance between the empty prompt and the words."""
    from .control import controlled

    network: nn.Module = run.result
    both = controlled(run.base.unet, network, latents.repeat(2, 1, 1, 1), time.expand(2), hint, words, run.settings)
    empty, worded = both.chunk(2)
    return empty + run.settings.sample_guidance * (worded - empty)


def _decode(vae: Any, latents: Tensor) -> Image:
    pixels = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample[0].float()
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
