"""Revision's two models by name, and the option by which a unit blurs what it shows; without torch."""

from __future__ import annotations

from ...core.embedding import Embedding, Encoder, Values
from ...core.options import Option

REVISION, IGNORE_PROMPT = REVISIONS = ("revision_clipvision", "revision_ignore_prompt")  # models that have no file
EMBEDDING = Embedding(Encoder.CLIP_G, Values.IMAGE)
NOISE = Option(
    name="noise_augmentation",
    label="Noise augmentation",
    meaning="how much noise is mixed into what the encoder saw, so that less of the picture is followed",
    default=0.0,
    least=0.0,
    most=1.0,
)
