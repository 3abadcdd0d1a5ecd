"""Encoded examples: what a step reads of a picture, its hint and its words, and where encodings are kept on disk.

The autoencoder and the text encoders are frozen, so each picture and each prompt is encoded once. A store on disk keeps
that for later trainings: its names are digests of all that an encoding depends on, so it may be shared and never lies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.errors import ControlError, HintError
from ...core.files import replacing
from ...core.network.base import LATENT
from ...models.files.loading import read_tensors
from ...pipelines.bases import latents_of
from ..words import encode_words
from .example import Image

# latents [4, h, w], hint [3, H, W] uint8 or an embedding [T, D], context [T, D], and SDXL's pooled [P]
Row = dict[str, Tensor]
SAMPLED = 16  # values of each weight that tell one network from another


class Encoder:
    """A base model's autoencoder and text encoders, as a training uses them."""

    def __init__(self, base: Any, device: torch.device) -> None:
        self._base, self._device = base, device
        self._empty: Row | None = None

    def row(self, picture: Image, hint: Any, prompt: str) -> Row:
        """Encode a picture [H, W, 3], a hint (a picture too, or an embedding [T, D]) and a prompt, to the CPU."""
        kept = torch.from_numpy(np.ascontiguousarray(hint))
        if kept.dtype == torch.uint8:  # a picture, which stays so until it is used
            kept = kept.permute(2, 0, 1)
        return {"latents": self._latents(picture), "hint": kept, **self.words(prompt)}

    def words(self, prompt: str) -> Row:
        """Return `context` [T, D] of a prompt, and SDXL's `pooled` [P]."""
        if not prompt and self._empty is not None:
            return self._empty
        found = {name: each[0].cpu() for name, each in encode_words(self._base, [prompt]).items()}
        if not prompt:
            self._empty = found
        return found

    def fingerprint(self) -> str:
        """Return a digest of the networks that encode: of some values of each of their weights."""
        digest = hashlib.sha256()
        for part in (self._base.vae, self._base.text_encoder, getattr(self._base, "text_encoder_2", None)):
            add_weights(digest, part)
        return digest.hexdigest()

    def latents(self, pictures: Tensor) -> Tensor:
        """Return the latents [N, 4, h, w] of pictures [N, 3, H, W] in 0..1, in fp32, on the device."""
        return self._encode(pictures * 2 - 1)

    def _latents(self, picture: Image) -> Tensor:
        return self._encode(torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1)[0].cpu()

    @torch.no_grad()
    def _encode(self, pixels: Tensor) -> Tensor:
        """Return the latents of pictures in -1..1."""
        vae = self._base.vae
        return (latents_of(vae, pixels.to(self._device, vae.dtype)) * vae.config.scaling_factor).float()


def add_weights(digest: Any, network: torch.nn.Module | None) -> None:
    """Add names, shapes and some values of a network's weights to a digest."""
    for name, weight in sorted(network.state_dict().items()) if network is not None else ():
        values = weight.detach().flatten()[:SAMPLED].float().cpu().numpy().tobytes()
        digest.update(f"{name} {list(weight.shape)}".encode() + values)


class Store:
    """Encodings in a folder, a file each."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        """fingerprint: of what encodes, and how pictures are read."""
        self._folder, self._fingerprint = folder, fingerprint

    def key(self, picture: Image, hint: Any, prompt: str) -> str:
        """Return the name of an encoding: a digest of all that it depends on."""
        digest = hashlib.sha256(f"{self._fingerprint} {picture.shape} {hint.shape} {prompt}".encode())
        digest.update(picture.tobytes())
        digest.update(hint.tobytes())
        return digest.hexdigest()

    def get(self, key: str) -> Row | None:
        """Return an encoding; None where there is none, or a damaged one."""
        path = self._path(key)
        if not path.is_file():
            return None
        try:
            return read_tensors(path)
        except ControlError:  # half-written by a machine that went down: it is made again
            return None

    def put(self, key: str, row: Row) -> None:
        """Keep an encoding. HintError if the folder cannot be written."""
        from safetensors.torch import save

        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as fresh:
                fresh.write_bytes(save({name: each.contiguous() for name, each in row.items()}))
        except OSError as error:
            raise HintError(f"cannot keep encodings in '{self._folder}': {error.strerror or error}") from error

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.safetensors"


def size_of(row: Row) -> tuple[int, int]:
    """Return (height, width) in pixels of the picture of a row, or of the pictures of a batch."""
    height, width = row["latents"].shape[-2:]
    return height * LATENT, width * LATENT


def hint_of(row: Row, device: torch.device) -> Tensor:
    """Return the hints of a batch as a model reads them: pictures in 0..1, embeddings as they are."""
    hint = row["hint"].to(device)
    return hint.float() / 255 if hint.dtype == torch.uint8 else hint.float()


def stacked(rows: Sequence[Row]) -> Row:
    """Return rows as one batch: each tensor [N, ...]. HintError for pictures of several sizes."""
    sizes = sorted({size_of(row) for row in rows})
    if len(sizes) > 1:
        found = " and ".join(f"{width}x{height}" for height, width in sizes)
        raise HintError(
            f"a batch holds pictures of {found}: they need one size; give --resolution, such as 512, or --batch 1"
        )
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
