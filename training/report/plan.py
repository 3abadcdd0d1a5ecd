"""What a training would take, before anything runs: memory by part, at its resolution, batch and precision.

What activations take is counted: one step is evaluated on the meta device, which has shapes and no values, while
autograd says what it would keep for the gradients.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ...core.network.base import LATENT
from ...pipelines.quiet import quiet
from ..data.encoding import size_of
from ..optimisers import FP32, bytes_kept
from ..recipes.checkpointing import keep_all, recompute
from ..recipes.trainee import Trainee
from ..run import Run, names_of_base, names_of_control
from ..words import words_of

LATENTS = 4  # channels
HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def plan(run: Run) -> Iterator[str]:
    """Yield lines: memory by part, and all of it."""
    parts = memory(run)
    width = max(map(len, parts))
    yield f"memory at {_size(run)[1]}x{_size(run)[0]} and batch {run.settings.batch}, about:"
    for name, size in parts.items():
        yield f"  {name:<{width}}  {size / 2**30:7.2f} GiB"
    yield f"  {'together':<{width}}  {sum(parts.values()) / 2**30:7.2f} GiB"


def memory(run: Run) -> dict[str, int]:
    """Return bytes by part."""
    settings = run.settings
    parameters = [*names_of_control(run.plain).values(), *names_of_base(run.plain).values()]
    trained = sum(each.numel() for each in parameters)
    frozen = sum(each.numel() * each.element_size() for each in run.plain.parameters() if not each.requires_grad)
    encoders = [getattr(run.base, name, None) for name in ("vae", "text_encoder", "text_encoder_2")]
    return {
        "trained weights": trained * FP32,
        "their gradients": trained * FP32,
        "optimiser": bytes_kept(settings.optimiser, parameters),
        **({"moving average": trained * FP32} if settings.ema else {}),
        "frozen U-Net": frozen,
        "autoencoder and text encoders": sum(_bytes(each) for each in encoders if each is not None),
        "activations": activations(run),
    }


def activations(run: Run) -> int:
    """Return the bytes that one step keeps for its gradients."""
    height, width = _size(run)
    batch, half = run.settings.batch, HALVES.get(run.settings.mixed_precision, torch.float32)
    trainee = _on_meta(run, half)
    latents = run.base.unet.config["in_channels"]
    noisy = torch.empty(batch, latents, height // LATENT, width // LATENT, device="meta", dtype=half)
    hint = torch.empty(batch, *_hint_shape(run), device="meta", dtype=half)
    encoded = {name: each[None].repeat(batch, *(1,) * each.ndim) for name, each in run.encoder.words("").items()}
    words = words_of(
        {name: each.to("meta", half) for name, each in encoded.items()}, (height, width), torch.device("meta")
    )
    kept: dict[int, int] = {}
    weights = {each.untyped_storage()._cdata for each in trainee.parameters()}  # storages of meta have no address

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), Fused():
        told = run.recipe.told(run.settings, 0)
        predicted = trainee(noisy, torch.zeros(batch, device="meta"), hint, words, told)
    trainee.release()
    return sum(kept.values()) + predicted.numel() * predicted.element_size()


class Fused(TorchFunctionMode):
    """Inside, attention keeps what fused kernels keep (Dao et al. 2022): inputs and output, no map of N x T weights."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _Attention.apply(*args[:3]) if args else _Attention.apply(*list(kwargs.values())[:3])
        return func(*args, **(kwargs or {}))


class _Attention(torch.autograd.Function):
    """An attention without values, that is never differentiated."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = q.new_empty((*q.shape[:-1], v.shape[-1]))
        ctx.save_for_backward(q, k, v, out)
        return out


def _on_meta(run: Run, dtype: torch.dtype) -> Trainee:
    """Return the trainee without values, in the precision that it computes in."""
    with quiet():
        unet = copy.deepcopy(run.base.unet).to("meta", dtype)
    network = copy.deepcopy(run.network).to("meta", dtype)
    keep_all(network)
    if run.settings.gradient_checkpointing:
        recompute(network, run.recipe.blocks)
    model, frozen = run.recipe.model(network, unet, run.settings), run.recipe.frozen(network)
    return Trainee(unet, network, model, names_of_base(run.plain), frozen=frozen, encode=_without_values)


def _without_values(pictures: Tensor) -> Tensor:
    """Return the latents of pictures [N, 3, H, W], of that shape alone: encoding keeps nothing for gradients."""
    count, _, height, width = pictures.shape
    return pictures.new_empty(count, LATENTS, height // LATENT, width // LATENT)


def _size(run: Run) -> tuple[int, int]:
    """Return (height, width) of the pictures; of several sizes, those of the first example."""
    side = run.settings.resolution
    if side:
        return side, side
    return size_of(run.examples.row(0))


def _hint_shape(run: Run) -> tuple[int, ...]:
    """Return the shape of one hint: of a picture, or of what an encoder sees."""
    if run.recipe.reads_embeddings:
        return tuple(run.examples.row(0)["hint"].shape)
    return (3, *_size(run))


def _bytes(network: torch.nn.Module) -> int:
    return sum(each.numel() * each.element_size() for each in network.parameters())
