"""What an image encoder hands out: `Embedding`, by which preprocessors and control models find each other."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Encoder(Enum):
    """An image encoder that control models were trained with."""

    CLIP_L = "CLIP ViT-L/14"
    CLIP_H = "CLIP ViT-H/14"
    CLIP_G = "CLIP ViT-bigG/14"
    BUFFALO = "InsightFace buffalo_l"  # recognises faces
    ANTELOPE = "InsightFace antelopev2"
    COLOURS = "colour histogram"


class Values(Enum):
    """Which of an encoder's values are handed on, [N, T, D]."""

    LAST_STATES = "last hidden states"
    STATES = "penultimate hidden states"  # with those of a grey picture beside them: [N, T, 2 D]
    IMAGE = "image embedding"  # one token, projected to the width that text shares
    FACE = "face embedding"  # one token of length 1
    RAW_FACE = "raw face embedding"  # one token, of any length
    # One token, filled up with zeros, and behind it what CLIP ViT-H/14 sees of the face, as STATES: [N, 1 + T, 2 D].
    FACE_STATES = "face embedding, with hidden states of CLIP,"


@dataclass(frozen=True, slots=True)
class Embedding:
    """Which encoder looked at a picture, and which of its values are meant. No encoder: nobody knows which."""

    encoder: Encoder | None
    values: Values

    def __str__(self) -> str:
        return f"{self.values.value} of {'an image encoder' if self.encoder is None else self.encoder.value}"
