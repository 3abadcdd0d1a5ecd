"""Prompts as the base model reads them: chunks of tokens, through one CLIP or two, with the weights of words.

A plain prompt of at most 75 tokens gives what diffusers' own pipelines make of it, bit for bit. Weights multiply what
CLIP makes of each token, and the result is brought back to the mean that it had without them, as in the WebUIs
("Original"). Prompts of several chunks decide about the shape of all: shorter ones get empty chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.errors import HostError
from .chunks import Chunk, make_chunks
from .emphasis import read_prompt

PENULTIMATE = -2  # of the hidden states: the layer that SDXL reads
Encoded = tuple[Tensor, "Tensor | None"]  # tokens [1, T, C], and of SDXL the pooled text [1, P]


@dataclass(frozen=True, slots=True)
class Reader:
    """One CLIP with its tokenizer."""

    tokenizer: Any
    encoder: Any
    skip: int | None  # how many layers from the end; None is SDXL's

    @property
    def length(self) -> int:
        """Return how many tokens are read at once, beside the start and the end."""
        return self.encoder.config.max_position_embeddings - 2

    def chunks(self, prompt: str) -> list[Chunk]:
        """Return the chunks of a prompt."""
        return make_chunks(read_prompt(prompt), self._tokenize, self._tokenize(",")[0], self.length)

    def _tokenize(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]

    def read(self, chunk: Chunk, device: torch.device) -> Encoded:
        """Return what CLIP makes of a chunk: [1, 77, C], and the pooled text [1, P] if the encoder has one."""
        tokenizer = self.tokenizer
        missing = self.length - len(chunk.tokens)
        fill = [tokenizer.pad_token_id] * missing
        ids = [tokenizer.bos_token_id, *chunk.tokens, tokenizer.eos_token_id, *fill]
        deep = self.skip != 1
        said = self.encoder(torch.tensor([ids], device=device), output_hidden_states=deep)
        pooled = said[0] if said[0].ndim == 2 else None
        if self.skip is None:
            found = said.hidden_states[PENULTIMATE]
        elif deep:
            inner = getattr(self.encoder, "text_model", self.encoder)  # older transformers have it one level deeper
            found = inner.final_layer_norm(said.hidden_states[-self.skip])
        else:
            found = said[0]
        weights = [1.0, *chunk.weights, 1.0, *(1.0 for _ in fill)]
        return _weighted(found, torch.tensor(weights, device=found.device, dtype=found.dtype)), pooled


def encode(pipeline: Any, prompts: Sequence[str], negative: str, clip_skip: int = 1) -> dict[str, Any]:
    """Return the prompts, and the negative one for each of them, as arguments of a pipeline.

    clip_skip: the layer of CLIP that is read, counted from the last, which is 1. HostError where the base has its own.
    """
    readers = _readers(pipeline, clip_skip)
    wanted = tuple(dict.fromkeys((*prompts, negative)))
    chunks = {prompt: [reader.chunks(prompt) for reader in readers] for prompt in wanted}
    longest = max(len(each) for several in chunks.values() for each in several)
    device = pipeline._execution_device
    with torch.no_grad():
        found = {prompt: _read(readers, several, longest, device) for prompt, several in chunks.items()}
    pooled = {prompt: each for prompt, (_, each) in found.items() if each is not None}
    arguments = {
        "prompt_embeds": torch.cat([found[prompt][0] for prompt in prompts]),
        "negative_prompt_embeds": torch.cat([found[negative][0]] * len(prompts)),
    }
    if pooled:
        arguments["pooled_prompt_embeds"] = torch.cat([pooled[prompt] for prompt in prompts])
        arguments["negative_pooled_prompt_embeds"] = torch.cat([pooled[negative]] * len(prompts))
    return arguments


def _readers(pipeline: Any, clip_skip: int) -> list[Reader]:
    """Return the text encoders of a pipeline, of which SDXL has two."""
    second = getattr(pipeline, "text_encoder_2", None)
    plain = second is None and pipeline.tokenizer.pad_token_id == pipeline.tokenizer.eos_token_id
    if clip_skip != 1 and not plain:
        raise HostError(
            f"clip skip is {clip_skip}, but this base model (SD 2.x or SDXL) reads one layer of its own: leave it out"
        )
    layers = pipeline.text_encoder.config.num_hidden_layers
    if clip_skip > layers:
        raise HostError(f"clip skip is {clip_skip}, but the text encoder has {layers} layers: give 1 to {layers}")
    if second is None:
        return [Reader(pipeline.tokenizer, pipeline.text_encoder, clip_skip)]
    pairs = ((pipeline.tokenizer, pipeline.text_encoder), (pipeline.tokenizer_2, second))
    return [Reader(tokenizer, encoder, None) for tokenizer, encoder in pairs]


def _read(readers: Sequence[Reader], chunks: Sequence[Sequence[Chunk]], count: int, device: Any) -> Encoded:
    """Return what the encoders make of a prompt in so many chunks; the pooled text is that of the first one."""
    tokens: list[Tensor] = []
    pooled: Tensor | None = None
    for reader, several in zip(readers, chunks, strict=True):
        empty = [Chunk()] * (count - len(several))
        read = [reader.read(chunk, device) for chunk in (*several, *empty)]
        tokens.append(torch.cat([each for each, _ in read], dim=1))
        pooled = read[0][1] if read[0][1] is not None else pooled
    return torch.cat(tokens, dim=-1), pooled


def _weighted(found: Tensor, weights: Tensor) -> Tensor:
    """Return [1, 77, C] times the weights of its tokens, with the mean that it had before."""
    if bool((weights == 1).all()):
        return found
    changed = found * weights[:, None]
    return changed * (found.mean() / changed.mean())
