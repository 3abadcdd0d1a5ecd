"""What a training can do so far, as a picture: hints, their pictures, and what is drawn from the hints and the words.

The noise is the same each time, so that two sheets differ by the training alone, and it takes no random number away
from the training, which goes on as if no sheet had been drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.network.base import LATENT
from ...core.resize import ResizeMode
from ...pipelines.sheets import sheet
from ...preprocessors.images import make_folder, read_image, write_image
from ...preprocessors.resize import resize_image
from ..data.encoding import Row
from ..recipes.trainee import Trainee
from ..run import Run
from ..words import Words, words_of

Image = NDArray[np.uint8]
DRAWN = "drawn"  # folder of the pictures themselves
SMALL, COLUMNS = 192, 12  # pixels, and pictures at most, of a row over the steps
ROUND = 64  # sides of a hint that has no picture beside it become multiples of this


@dataclass(frozen=True, slots=True)
class Sample:
    """What is drawn: a hint [H, W, 3] or an embedding [T, D], words, and the picture that they come from, if any."""

    hint: Any
    prompt: str
    picture: Image | None = None


def samples_of(run: Run) -> Iterator[Sample]:
    """Yield what a sheet shows: the user's hints and prompts, or the examples that were held out."""
    settings = run.settings
    if not settings.sample_prompts:
        yield from (Sample(hint, prompt, picture) for hint, picture, prompt in run.held_out.pictures())
        return
    for number, (path, prompt) in enumerate(zip(settings.sample_hints, settings.sample_prompts, strict=True)):
        hint = _fitted(read_image(path), settings.resolution)
        source = settings.hint_sources[number % len(settings.hint_sources)]
        if source.preprocessor is None:
            yield Sample(hint, prompt)
        else:  # what was given is a picture, as in the data
            yield Sample(source.make(hint), prompt, hint)


def write_samples(run: Run, folder: Path) -> Image:
    """Draw all samples by the network as it is now, and write them into a folder; return the sheet [H, W, 3].

    `000500.png` is the sheet of a step. `drawn` keeps what was drawn, from which `steps.png` shows each sample over the
    steps: when control came, and how suddenly.
    """
    make_folder(folder / DRAWN)
    rows = sample_rows(run)
    for index, row in enumerate(rows):
        write_image(folder / DRAWN / f"{run.step:06d}-{index}.png", row[-1][1])
    shown = sheet(rows, side=_height(rows))
    write_image(folder / f"{run.step:06d}.png", shown)
    over_steps = [[*row[:-1], *drawn_over_steps(folder / DRAWN, index)] for index, row in enumerate(rows)]
    write_image(folder / "steps.png", sheet(over_steps, side=min(_height(rows), SMALL)))
    return shown


def sample_rows(run: Run) -> list[list[tuple[str, Image]]]:
    """Return a row for each sample: hint, picture, and what the network as it is now makes of hint and words."""
    rows: list[list[tuple[str, Image]]] = []
    for index, sample in enumerate(samples_of(run)):
        shown = [("hint", sample.hint)] if sample.hint.dtype == np.uint8 else []
        shown += [("picture", sample.picture)] if sample.picture is not None else []
        rows.append([*shown, (f"step {run.step}: {sample.prompt or '(no words)'}", draw(run, sample, index))])
    return rows


def _height(rows: Sequence[Sequence[tuple[str, Image]]]) -> int:
    return max(row[0][1].shape[0] for row in rows)


def drawn_over_steps(folder: Path, index: int) -> list[tuple[str, Image]]:
    """Return what was drawn of a sample, by its step; of many steps some, evenly spread, with the first and last."""
    files = sorted(folder.glob(f"*-{index}.png"))
    chosen = sorted({round(place) for place in np.linspace(0, len(files) - 1, min(len(files), COLUMNS))})
    return [(f"step {int(files[k].stem.split('-')[0])}", read_image(files[k])) for k in chosen]


@torch.no_grad()
def draw(run: Run, sample: Sample, index: int) -> Image:
    """Draw a sample by DDIM, from noise that depends on its index alone: [H, W, 3]."""
    from diffusers import DDIMScheduler

    base, device = run.base, run.accelerator.device
    scheduler: Any = DDIMScheduler.from_config(base.scheduler.config)
    scheduler.set_timesteps(run.settings.sample_steps)
    shown: Image = sample.hint if sample.picture is None else sample.picture
    size = (shown.shape[0], shown.shape[1])
    hint = torch.from_numpy(np.ascontiguousarray(sample.hint))[None].to(device)
    if hint.dtype == torch.uint8:
        hint = hint.permute(0, 3, 1, 2).float() / 255
    words = words_of(_both(run.encoder.words(""), run.encoder.words(sample.prompt)), size, device)
    channels = base.unet.config["in_channels"]
    shape = (1, channels, size[0] // LATENT, size[1] // LATENT)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(index)).to(device)
    with run.result() as trainee:
        for time in scheduler.timesteps:
            predicted = _guided(run, trainee, latents, time.to(device), hint, words, index)
            latents = scheduler.step(predicted.float(), int(time), latents).prev_sample
    return _decode(base.vae, latents)


def _guided(
    run: Run, trainee: Trainee, latents: Tensor, time: Tensor, hint: Tensor, words: Words, index: int
) -> Tensor:
    """Return what classifier-free guidance makes of the empty prompt and the words."""
    told = run.recipe.told(run.settings, index)
    both = trainee(latents.repeat(2, 1, 1, 1), time.expand(2), hint.expand(2, *hint.shape[1:]), words, told)
    empty, worded = both.chunk(2)
    return empty + run.settings.sample_guidance * (worded - empty)


def _both(empty: Row, worded: Row) -> Row:
    """Return two encoded prompts as a batch."""
    return {name: torch.stack([each, worded[name]]) for name, each in empty.items()}


def _fitted(hint: Image, side: int) -> Image:
    """Return a hint of the user's at the size of the training's squares, or with sides that the base can draw."""
    height, width = hint.shape[:2]
    size = (side, side) if side else (max(ROUND, height // ROUND * ROUND), max(ROUND, width // ROUND * ROUND))
    return resize_image(hint, size, ResizeMode.CROP)


def _decode(vae: Any, latents: Tensor) -> Image:
    pixels = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample[0].float()
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
