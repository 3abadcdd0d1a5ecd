"""Reference against its formula, written here on the modules of diffusers' U-Nets."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from controlstack.core.errors import HostError
from controlstack.core.host import PlainHost
from controlstack.core.network.attach import Patches, attach, attend_with, record
from controlstack.core.schedule import Schedule, progress_at
from controlstack.core.stack import ControlStack
from controlstack.core.step import Step
from controlstack.core.unit import ControlMode, ControlUnit
from controlstack.models.fileless.reference import KINDS, ReferenceModel, noisy
from controlstack.models.naming import to_ldm
from controlstack.pipelines.attached import locate_in, vector_condition
from diffusers import UNet2DConditionModel
from families import random_layer
from tiny_networks import CONFIGS, UP
from torch import Tensor

TOLERANCE = 1e-5
SIDE = 16
COND = (False, False, True, True)


class Encoding(PlainHost):
    """A host whose autoencoder halves nothing: eight pixels become their mean."""

    def encode(self, picture: Tensor) -> Tensor:
        small = F.avg_pool2d(picture, 8)
        return torch.cat([small, small[:, :1]], dim=1) * 2 - 1


@pytest.fixture(scope="module", params=["SD", "SDXL"])
def unet(request: pytest.FixtureRequest) -> Any:
    name = request.param
    return random_layer(UNet2DConditionModel(sample_size=SIDE, up_block_types=UP[name], **CONFIGS[name]), 0, scale=1.0)


@pytest.fixture
def hint() -> Tensor:
    return torch.rand(1, 3, 8 * SIDE, 8 * SIDE, generator=torch.Generator().manual_seed(3))


def inputs(unet: Any) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    more: dict[str, Any] = {}
    if unet.config["addition_embed_type"] == "text_time":
        more = {"added_cond_kwargs": {"text_embeds": normal(4, 32), "time_ids": normal(4, 6)}}
    return normal(4, 4, SIDE, SIDE), torch.full((4,), 321), normal(4, 8, 64), more


def drawn(unet: Any, units: list[ControlUnit]) -> Tensor:
    x, time, context, more = inputs(unet)
    locate = locate_in(unet)

    def evaluate(latents: Tensor, rows: tuple[int, ...], points: Any) -> dict[Any, Tensor]:
        found: dict[Any, Tensor] = {}
        index = torch.tensor(rows)
        cut = {key: {k: v[index] for k, v in value.items()} for key, value in more.items()}
        with Patches() as patches:
            record(patches, points, locate, found)
            unet(latents, time[index], context[index], **cut)
        return found

    step = Step(
        x=x, timestep=time, context=context, cond=COND, progress=progress_at(0, 1),
        y=vector_condition(unet, more.get("added_cond_kwargs")), evaluate=evaluate,
        attend=lambda point, n, tokens: attend_with(locate(point).module, n, tokens),
    )  # fmt: skip
    with Patches() as patches, torch.no_grad():
        attach(patches, ControlStack(units, Encoding())(step), locate)
        return unet(x, time, context, **more).sample


def by_hand(unet: Any, kind: str, hint: Tensor, fidelity: float, weight: float, mask: Tensor | None = None) -> Tensor:
    """Two passes: one that writes banks, one that reads them, as the program does it."""
    x, time, context, more = inputs(unet)
    banks: dict[Any, Tensor] = {}
    blocks = [module for name, module in unet.named_modules() if name.endswith(".attn1")]
    blocks = blocks if kind != "reference_adain" else []
    streams = [unet.mid_block, *streams_of(unet)] if kind != "reference_only" else []

    def write_norm(module: Any, args: Any, kwargs: Any) -> None:
        banks[module] = args[0] if args else kwargs["hidden_states"]

    def write_stream(module: Any, _: Any, output: Any) -> None:
        banks[module] = output[0] if isinstance(output, tuple) else output

    def read_norm(module: Any, args: Any, kwargs: Any, output: Tensor) -> Tensor:
        n = args[0] if args else kwargs["hidden_states"]
        other = module.forward(n, encoder_hidden_states=torch.cat([n, banks[module]], 1))
        return output + weighed(other - output, fidelity, weight, mask)

    def read_stream(module: Any, _: Any, output: Any) -> Any:
        h = output[0] if isinstance(output, tuple) else output
        h = h + weighed(moved(h, banks[module]) - h, fidelity, weight, mask)
        return (h, *output[1:]) if isinstance(output, tuple) else h

    latents = noisy(Encoding().encode(hint).expand(4, -1, -1, -1), time)
    with torch.no_grad():
        with ExitStack() as exits:
            for each in blocks:
                exits.callback(each.register_forward_pre_hook(write_norm, with_kwargs=True).remove)
            for each in streams:
                exits.callback(each.register_forward_hook(write_stream).remove)
            unet(latents, time, context, **more)
        with ExitStack() as exits:
            for each in blocks:
                exits.callback(each.register_forward_hook(read_norm, with_kwargs=True).remove)
            for each in streams:
                exits.callback(each.register_forward_hook(read_stream).remove)
            return unet(x, time, context, **more).sample


def weighed(added: Tensor, fidelity: float, weight: float, mask: Tensor | None) -> Tensor:
    """What of a change is left on the rows of the four, under a weight and a mask."""
    cond = torch.tensor(COND).float()
    share = (cond + (1 - cond) * (1 - fidelity)) * weight
    added = added * share.reshape(-1, *[1] * (added.ndim - 1))
    if mask is None:
        return added
    side = added.shape[-1] if added.ndim == 4 else round(added.shape[1] ** 0.5)
    small = F.interpolate(mask, (side, side), mode="bilinear")
    return added * (small if added.ndim == 4 else small.flatten(2).transpose(1, 2))


def moved(h: Tensor, reference: Tensor) -> Tensor:
    over = {"dim": (2, 3), "keepdim": True}
    even = (h - h.mean(**over)) / h.var(correction=0, **over).sqrt()
    return even * reference.var(correction=0, **over).sqrt() + reference.mean(**over)


def streams_of(unet: Any) -> list[Any]:
    """The last layers of the blocks of the encoder and decoder whose statistics move, in diffusers."""
    xl = len(unet.down_blocks) == 3
    encoder = unet.down_blocks[-1].attentions[-1:] if xl else unet.down_blocks[-1].resnets
    if xl:  # output blocks 0 to 2
        return [*encoder, *unet.up_blocks[0].attentions[:2], unet.up_blocks[0].upsamplers[0]]
    return [*encoder, *unet.up_blocks[0].resnets[:2], unet.up_blocks[0].upsamplers[0], unet.up_blocks[1].attentions[0]]


def model_of(unet: Any, kind: str, **options: float) -> Any:
    return ReferenceModel(kind, list(to_ldm(unet.state_dict()))).bind(options)


@pytest.mark.parametrize("fidelity", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_each_equals_its_formula(unet: Any, hint: Tensor, kind: str, fidelity: float) -> None:
    unit = ControlUnit(model=model_of(unet, kind, fidelity=fidelity), hint=hint)
    cubed = fidelity**3 if len(unet.down_blocks) == 3 else fidelity
    ours, expected, plain = drawn(unet, [unit]), by_hand(unet, kind, hint, cubed, 1.0), drawn(unet, [])
    assert (ours - expected).abs().max() <= TOLERANCE * expected.abs().max()
    assert (expected[2:] - plain[2:]).abs().max() > 100 * TOLERANCE * plain.abs().max()
    if fidelity == 1.0:
        assert (ours[:2] - plain[:2]).abs().max() <= TOLERANCE * plain.abs().max()


def test_weight_mask_cond_rows_and_range_are_kept(unet: Any, hint: Tensor) -> None:
    kind, plain = "reference_adain+attn", drawn(unet, [])
    mask = torch.zeros(1, 1, 8 * SIDE, 8 * SIDE)
    mask[..., : 4 * SIDE] = 1.0
    unit = ControlUnit(model=model_of(unet, kind), hint=hint, weight=0.6, mask=mask, mode=ControlMode.CONTROL)
    ours, expected = drawn(unet, [unit]), by_hand(unet, kind, hint, 1.0, 0.6, mask)
    assert (ours - expected).abs().max() <= TOLERANCE * expected.abs().max()
    late = ControlUnit(model=model_of(unet, kind), hint=hint, schedule=Schedule(start=0.5))
    assert drawn(unet, [late]).equal(plain)


def test_a_program_that_does_not_show_its_attention_says_so(unet: Any, hint: Tensor) -> None:
    x, time, context, _ = inputs(unet)
    step = Step(x=x, timestep=time, context=context, cond=COND, progress=progress_at(0, 1))
    with pytest.raises(HostError, match="cannot evaluate its base network once more"):
        ControlStack([ControlUnit(model=model_of(unet, "reference_only"), hint=hint)], Encoding())(step)
