"""Examples as a training takes them: batches of latents, hints and token ids, shuffled anew in each epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.base import LATENT
from ..core.errors import HintError
from ..pipelines.bases import latents_of
from .data import Example, Image
from .words import tokenise

KEPT = 4 << 30  # bytes of encoded examples that stay in memory; the others are read again

Read = Callable[[Example], tuple[Image, Image]]  # example -> (picture, hint)


class Examples:
    """Latents, hints and token ids; each picture is read and encoded once, at its first use, while there is room."""

    def __init__(self, examples: Sequence[Example], read: Read, base: Any, device: torch.device) -> None:
        self._examples, self._read, self._base, self._device = examples, read, base, device
        self._kept: dict[int, dict[str, Tensor]] = {}
        self._room = KEPT
        self._epoch, self._order = -1, [0]

    def batch(self, start: int, count: int, seed: int) -> dict[str, Tensor]:
        """Return the examples `start` to `start + count` of all epochs in a row, which depend on the seed alone."""
        picks = [self._pick(index, seed) for index in range(start, start + count)]
        rows = [self.row(pick) for pick in picks]
        sizes = {
            tuple(row["hint"].shape[1:]): self._examples[pick].picture for row, pick in zip(rows, picks, strict=True)
        }
        if len(sizes) > 1:
            found = " and ".join(f"'{path}' is {width}x{height}" for (height, width), path in sizes.items())
            raise HintError(f"{found}: pictures of a batch need one size; give --resolution, such as 512, or --batch 1")
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def pictures(self) -> Iterator[tuple[Image, Image]]:
        """Yield (hint, picture), both [H, W, 3], of each example in turn."""
        for example in self._examples:
            picture, hint = self._read(example)
            yield hint, picture

    def row(self, index: int) -> dict[str, Tensor]:
        """Return one example: `latents` [4, h, w], `hint` [3, H, W] uint8, `tokens` [E, T]."""
        if index in self._kept:
            return self._kept[index]
        row = self._load(self._examples[index])
        size = sum(tensor.numel() * tensor.element_size() for tensor in row.values())
        if size <= self._room:
            self._room -= size
            self._kept[index] = row
        return row

    def _pick(self, index: int, seed: int) -> int:
        epoch, place = divmod(index, len(self._examples))
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(seed + epoch)
            self._epoch, self._order = epoch, torch.randperm(len(self._examples), generator=generator).tolist()
        return self._order[place]

    def _load(self, example: Example) -> dict[str, Tensor]:
        picture, hint = self._read(example)
        height, width = picture.shape[:2]
        if height % LATENT or width % LATENT:
            raise HintError(
                f"'{example.picture}' is {width}x{height}: both sides must be multiples of "
                f"{LATENT}; --resolution, such as 512, cuts them"
            )
        return {
            "latents": self._encode(picture),
            "hint": torch.from_numpy(np.ascontiguousarray(hint)).permute(2, 0, 1),  # uint8 until it is used
            "tokens": tokenise(self._base, [example.prompt])[0],
        }

    @torch.no_grad()
    def _encode(self, picture: np.ndarray) -> Tensor:
        vae = self._base.vae
        pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].to(self._device, torch.float32) / 127.5 - 1
        latents = latents_of(vae, pixels.to(vae.dtype))
        return (latents[0] * vae.config.scaling_factor).float().cpu()
