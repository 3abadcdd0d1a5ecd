"""Each way of acting on a base network, against the same change written by hand, on diffusers' U-Nets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from controlstack.core.errors import HintError, IncompatibleModelError
from controlstack.core.network.effects import Shift
from controlstack.core.network.points import MIDDLE, Block, Part, Point, onward
from controlstack.core.schedule import Schedule
from controlstack.core.stack import ControlStack
from controlstack.core.unit import ControlMode, ControlUnit
from controlstack.models.naming import to_ldm
from controlstack.pipelines.attached import Injection, base_of
from controlstack.pipelines.bases import load_base
from controlstack.pipelines.tiny_world import BASE
from families import Again, CrossNormed, CrossOut, Family, at, make_families, random_layer
from torch import Tensor

STEPS, SIDE = 3, 64
KINDS = ("cross-normed", "query tap", "cross out", "delta", "again", "onward", "heads")
SETTINGS: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": 3.0, "output_type": "latent"}
PROMPT = {"prompt": "a red star on blue", "negative_prompt": "green"}


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return load_base(BASE).pipeline


@pytest.fixture(scope="module")
def families(pipeline: Any) -> dict[str, Family]:
    weights = {name: tuple(each.shape) for name, each in to_ldm(dict(pipeline.unet.named_parameters())).items()}
    attends = min(int(name.split(".")[1]) for name in weights if name.startswith("input_blocks") and ".attn1." in name)
    base = base_of(pipeline.unet)
    assert base.blocks is not None
    past = at(CrossNormed(base.blocks[0]), onward(0))
    heads = at(CrossOut(base.blocks[attends], attends), Point(Block.INPUT, attends, Part.ATTN2_HEADS))
    return {**make_families(base, weights, attends), "onward": past, "heads": heads}


@pytest.fixture
def hint() -> Tensor:
    return torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def draw(pipeline: Any, units: list[ControlUnit] | None = None) -> Tensor:
    """Latents of one picture, under units or (None) with nothing of ours around."""
    noise = torch.randn(1, 4, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(0))
    call = {**PROMPT, **SETTINGS, "latents": noise, "height": SIDE, "width": SIDE}
    if units is None:
        return pipeline(**call).images
    with Injection(pipeline, ControlStack(units), pictures=1):
        return pipeline(**call).images


def module_of(unet: Any, family: Family) -> tuple[Any, str]:
    """The module at whose output or input a family acts, found by hand in the tiny base."""
    (point,) = family.points
    if point.part is Part.ONWARD:
        return unet.down_blocks[0].resnets[0], "input"
    level, layer = divmod(point.index - 1, unet.config["layers_per_block"] + 1)
    down = unet.down_blocks[level]
    if point.part.value == "stream":
        return (down.attentions if hasattr(down, "attentions") else down.resnets)[layer], "output"
    attention = getattr(down.attentions[layer].transformer_blocks[0], point.part.value.split(".")[0])
    if point.part is Part.ATTN2_HEADS:
        return attention.to_out[0], "input"
    return (attention.to_q, "input") if point.part.value.endswith(".q") else (attention, "output")


def watch_queries(unet: Any, family: Family, seen: dict[str, Any]) -> Callable[[], None]:
    """Write the queries of a family that acts at the heads of an attention into `seen`; return what ends that."""
    point = family.points[0]
    if point.part is not Part.ATTN2_HEADS:
        return lambda: None
    level, layer = divmod(point.index - 1, unet.config["layers_per_block"] + 1)
    queries = unet.down_blocks[level].attentions[layer].transformer_blocks[0].attn2.to_q
    return queries.register_forward_hook(lambda _m, _a, q: seen.update(q=q)).remove


@contextmanager
def by_hand(pipeline: Any, family: Family, hint: Tensor, change: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
    """The family's formula through hooks of this test. change: (evaluation, the formula's value) -> what is added."""
    unet, seen, calls = pipeline.unet, {}, [0]
    with ExitStack() as exits:
        if family.delta is not None:
            named = to_ldm(dict(unet.named_parameters()))
            for name in family.delta.names:
                before = named[name].data.clone()
                exits.callback(named[name].data.copy_, before)
                named[name].data.add_(family.delta.of(name))
            yield
            return
        prepared = family.prepare(hint)
        module, value = module_of(unet, family)

        def first(_: Any, args: Any, kwargs: Any) -> None:
            if isinstance(family, Again) and not seen.get("inside"):
                seen["inside"] = True
                unet(family.other(args[0], prepared[0]), args[1], **kwargs)
                seen["inside"] = False
            if not seen.get("inside"):
                calls[0] += 1

        def formula(h: Tensor) -> Tensor:
            return family.change(seen["h"]) if isinstance(family, Again) else family.change(h, prepared[0])

        def after(_: Any, __: Any, output: Any) -> Any:
            h = output[0] if isinstance(output, tuple) else output
            if seen.get("inside"):
                seen["h"] = h
                return None
            h = h + change(calls[0] - 1, formula(h))
            return (h, *output[1:]) if isinstance(output, tuple) else h

        def before(_: Any, args: Any) -> Any:
            looked_at = seen.pop("q", args[0])
            return (args[0] + change(calls[0] - 1, formula(looked_at)), *args[1:])

        exits.callback(watch_queries(unet, family, seen))

        exits.callback(unet.register_forward_pre_hook(first, with_kwargs=True).remove)
        hook = module.register_forward_hook(after) if value == "output" else module.register_forward_pre_hook(before)
        exits.callback(hook.remove)
        yield


def close(ours: Tensor, theirs: Tensor, plain: Tensor) -> None:
    assert (theirs - plain).abs().max() > 1e-2 * plain.abs().max()  # the change matters
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_each_equals_the_same_change_by_hand(
    pipeline: Any, families: dict[str, Family], hint: Tensor, kind: str
) -> None:
    plain, family = draw(pipeline), families[kind]
    with by_hand(pipeline, family, hint, lambda _, added: added):
        expected = draw(pipeline)
    close(draw(pipeline, [ControlUnit(model=family, hint=hint)]), expected, plain)
    assert draw(pipeline).equal(plain)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "delta"])
def test_weight_range_cond_rows_and_block_weights_are_kept(
    pipeline: Any, families: dict[str, Family], hint: Tensor, kind: str
) -> None:
    plain, family = draw(pipeline), families[kind]
    cond = torch.tensor([0.0, 1.0])  # the uncond row comes first

    def change(evaluation: int, added: Tensor) -> Tensor:
        on = cond.reshape(-1, *[1] * (added.ndim - 1)) * (evaluation >= 1)
        return added * on * 0.7 * 0.3

    with by_hand(pipeline, family, hint, change):
        expected = draw(pipeline)
    unit = ControlUnit(
        model=family,
        hint=hint,
        weight=0.7,
        block_weights=(0.3,),
        mode=ControlMode.CONTROL,
        schedule=Schedule(start=1 / STEPS, end=1.0),
    )
    got = draw(pipeline, [unit])
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert not got.equal(plain)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "delta"])
def test_masks_reach_maps_and_tokens(pipeline: Any, families: dict[str, Family], hint: Tensor, kind: str) -> None:
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., : SIDE // 2] = 1.0

    def change(_: int, added: Tensor) -> Tensor:
        side = added.shape[-1] if added.ndim == 4 else round(added.shape[1] ** 0.5)
        small = torch.nn.functional.interpolate(mask, (side, side), mode="bilinear")
        return added * (small if added.ndim == 4 else small.flatten(2).transpose(1, 2))

    with by_hand(pipeline, families[kind], hint, change):
        expected = draw(pipeline)
    close(draw(pipeline, [ControlUnit(model=families[kind], hint=hint, mask=mask)]), expected, draw(pipeline))


def test_several_act_together_and_twice(pipeline: Any, families: dict[str, Family], hint: Tensor) -> None:
    units = [ControlUnit(model=each, hint=hint, weight=0.5) for each in families.values()]
    alone = [draw(pipeline, [unit]) for unit in units]
    together = draw(pipeline, units)
    assert all(not together.equal(each) for each in alone)
    assert together.equal(draw(pipeline, units))
    half = [ControlUnit(model=families["query tap"], hint=hint, weight=0.25)] * 2
    whole = [ControlUnit(model=families["query tap"], hint=hint, weight=0.5)]
    assert (draw(pipeline, half) - draw(pipeline, whole)).abs().max() <= 1e-5


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_leaves_the_base_as_it_was(
    pipeline: Any, families: dict[str, Family], hint: Tensor, kind: str, failure: type[BaseException]
) -> None:
    plain = draw(pipeline)
    before = {name: each.clone() for name, each in pipeline.unet.state_dict().items()}

    def fail(*_: object) -> None:
        raise failure

    hook = pipeline.unet.conv_out.register_forward_pre_hook(fail)
    with pytest.raises(failure):
        draw(pipeline, [ControlUnit(model=families[kind], hint=hint)])
    hook.remove()
    assert all(each.equal(before[name]) for name, each in pipeline.unet.state_dict().items())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in pipeline.unet.modules())
    assert draw(pipeline).equal(plain)


def test_a_delta_of_another_base_is_refused_before_any_step(pipeline: Any, families: dict[str, Family]) -> None:
    other = Family("other", torch.nn.Module(), None)
    delta = families["delta"].delta
    assert delta is not None
    other.delta = type(delta)(tensors={"input_blocks.1.0.in_layers.2.weight": torch.zeros(3, 3)})
    hint = torch.rand(1, 3, SIDE, SIDE)
    plain = draw(pipeline)
    with pytest.raises(IncompatibleModelError, match=r"input_blocks\.1\.0\.in_layers\.2\.weight"):
        draw(pipeline, [ControlUnit(model=other, hint=hint)])
    assert draw(pipeline).equal(plain)


def test_a_delta_has_a_strength_and_a_unit_of_weight_0_none(
    pipeline: Any, families: dict[str, Family], hint: Tensor
) -> None:
    plain, family = draw(pipeline), families["delta"]
    pictures = [draw(pipeline, [ControlUnit(model=family, hint=hint, delta_strength=s)]) for s in (1.0, 0.5, 0.0)]
    assert pictures[2].equal(plain)
    assert not pictures[0].equal(pictures[1])
    assert draw(pipeline, [ControlUnit(model=family, hint=hint, weight=0.0)]).equal(plain)
    twice = draw(pipeline, [ControlUnit(model=family, hint=hint)] * 2)
    assert twice.equal(pictures[0])  # units on one file share its change


def test_what_a_mask_cannot_reach_is_refused(pipeline: Any, families: dict[str, Family], hint: Tensor) -> None:
    tap = CrossNormed(base_of(pipeline.unet).blocks[1])  # type: ignore[index]
    tap.change = lambda h, features: torch.zeros(len(h), 7, 3)  # type: ignore[method-assign]
    unit = ControlUnit(model=tap, hint=hint, mask=torch.ones(1, 1, 8, 8) * 0.5)
    with pytest.raises(HintError, match="no map of the picture"):
        draw(pipeline, [unit])


class MiddlePair(Family):
    """A tensor behind the middle block, or a multiple of what stands there, which is not linear in it."""

    def __init__(self, width: int, *, shifts: bool) -> None:
        super().__init__("pair", random_layer(torch.nn.Conv2d(3, width, 1), 9), MIDDLE)
        self.shifts = shifts

    def __call__(self, step: Any, prepared: Any, prompt: Any, points: Any) -> Iterator[Any]:
        colour = self.network(prepared[0].mean((2, 3), keepdim=True))
        yield MIDDLE, Shift(lambda h: 30 * torch.tanh(h)) if self.shifts else 10 * colour


def test_a_shift_behind_the_middle_sees_the_tensor_there(pipeline: Any, hint: Tensor) -> None:
    """diffusers adds its own argument for the middle behind any hook on the block."""
    width = pipeline.unet.config["block_out_channels"][-1]
    seen: list[Tensor] = []

    def first_seen(units: list[ControlUnit] | None) -> Tensor:
        """What the decoder is given by the first evaluation."""
        seen.clear()
        draw(pipeline, units)
        return seen[0]

    hook = pipeline.unet.up_blocks[0].register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["hidden_states"]), with_kwargs=True
    )
    pair = [MiddlePair(width, shifts=shifts) for shifts in (False, True)]
    h = first_seen(None) + 10 * pair[0].network(hint.mean((2, 3), keepdim=True))
    got = first_seen([ControlUnit(model=each, hint=hint) for each in pair])
    hook.remove()
    expected = h + 30 * torch.tanh(h)
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
