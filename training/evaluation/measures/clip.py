"""What CLIP says of a picture: how well it fits its caption, how beautiful people would find it, and features for FID.

CLIP score: the cosine between the embeddings of picture and caption (Hessel et al. 2021, without their factor), as the
ControlNet paper reports it. Aesthetic score: a linear function of the normalised embedding (LAION's predictors).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....core.errors import ModelError
from ....models.files.loading import read_tensors
from .measure import Better, Image, Measure, Sample

LAYER = re.compile(r"(?:layers\.(\d+)\.)?(weight|bias)")  # of a head: one layer, or a chain of them


class Clip:
    """A CLIP of transformers, which looks at each picture once, however many measures ask."""

    def __init__(self, model: Any, processor: Any, device: torch.device) -> None:
        self._model, self._processor, self._device = model.eval().to(device), processor, device
        self._last: tuple[Image, Tensor] | None = None

    @property
    def width(self) -> int:
        """Return how many numbers an embedding has."""
        return int(self._model.config.projection_dim)

    @torch.no_grad()
    def picture(self, image: Image) -> Tensor:
        """Return the embedding [D] of a picture [H, W, 3], not normalised."""
        if self._last is None or self._last[0] is not image:
            pixels = self._processor.image_processor(images=[image], return_tensors="pt")["pixel_values"]
            seen = self._model.vision_model(pixel_values=pixels.to(self._device)).pooler_output
            self._last = image, self._model.visual_projection(seen)[0].float()
        return self._last[1]

    @torch.no_grad()
    def text(self, words: str) -> Tensor:
        """Return the embedding [D] of a text, cut to what CLIP reads."""
        longest = self._model.config.text_config.max_position_embeddings
        tokens = self._processor.tokenizer([words], truncation=True, max_length=longest, return_tensors="pt")
        read = {name: tokens[name].to(self._device) for name in ("input_ids", "attention_mask")}
        return self._model.text_projection(self._model.text_model(**read).pooler_output)[0].float()


def load_clip(folder: Path, device: torch.device) -> Clip:
    """Return the CLIP of a folder in transformers' layout; ModelError for what is none. The network is never asked."""
    from transformers import CLIPModel, CLIPProcessor

    from ....pipelines.quiet import quiet

    if not (folder / "config.json").is_file():
        raise ModelError(
            f"'{folder}' holds no config.json: give a folder of CLIP as transformers saves it, such as a copy of "
            "openai/clip-vit-large-patch14"
        )
    try:
        with quiet():
            model = CLIPModel.from_pretrained(folder, local_files_only=True)
            processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise ModelError(f"'{folder}' holds no complete CLIP of transformers: copy its folder again") from error
    return Clip(model, processor, device)


class ClipScore(Measure):
    """How well pictures fit their captions."""

    @property
    def better(self) -> Mapping[str, Better]:
        return {"clip_score": Better.HIGHER}

    def __init__(self, clip: Clip) -> None:
        self._clip = clip

    def add(self, sample: Sample) -> Mapping[str, float]:
        if not sample.prompt:  # there is nothing that it could fit
            return {}
        both = self._clip.picture(sample.drawn), self._clip.text(sample.prompt)
        return {"clip_score": float(torch.cosine_similarity(*both, dim=0))}


class Aesthetic(Measure):
    """How beautiful people would find pictures, on LAION's scale of 1 to 10."""

    @property
    def better(self) -> Mapping[str, Better]:
        return {"aesthetic": Better.HIGHER}

    def __init__(self, clip: Clip, head: tuple[Tensor, Tensor]) -> None:
        """head: weight [D] and bias [] of a linear function of the normalised embedding."""
        self._clip, (self._weight, self._bias) = clip, head

    def add(self, sample: Sample) -> Mapping[str, float]:
        embedding = torch.nn.functional.normalize(self._clip.picture(sample.drawn), dim=0).cpu()
        return {"aesthetic": float(embedding @ self._weight + self._bias)}


def load_head(path: Path, width: int) -> tuple[Tensor, Tensor]:
    """Return weight [width] and bias [] of a head that LAION published; ModelError for another file.

    One layer (sa_0_4_vit_l_14_linear.pth), or several without anything between them, which are one linear function too
    (sac+logos+ava1-l14-linearMSE.pth).
    """
    layers: dict[int, dict[str, Tensor]] = {}
    for name, each in read_tensors(path).items():
        if (match := LAYER.fullmatch(name)) is None:
            raise ModelError(f"'{path}' holds '{name[:60]}', expected one of LAION's aesthetic heads")
        layers.setdefault(int(match[1] or 0), {})[match[2]] = each.float()
    weight, bias = torch.eye(width), torch.zeros(width)
    try:
        for number in sorted(layers):
            layer = layers[number]
            weight, bias = layer["weight"] @ weight, layer["weight"] @ bias + layer["bias"]
        return weight.reshape(width), bias.reshape(())
    except (KeyError, RuntimeError) as error:
        raise ModelError(
            f"'{path}' is no head from {width} numbers to one: it goes with another CLIP; LAION's go with ViT-L/14"
        ) from error
