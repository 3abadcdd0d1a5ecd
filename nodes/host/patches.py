"""What stands at the points of the host's U-Net, seen and changed through patches of one call of it.

The host hands the `transformer_options` of a call to our control right before that call, so that patches written there
act on this call alone and nothing has to be undone. Its patches of self-attention see the queries, keys and values
before they are projected; the stream behind the middle block and behind each decoder block but the last is what the
next decoder block receives.

Ours stand first where a value goes into a block, and last where it comes out of attention: other nodes merge tokens at
an attention's inputs and part them again at its output.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import comfy.patcher_extension
import torch
from torch import Tensor

from ...core.control import ControlModel
from ...core.errors import HostError, IncompatibleModelError
from ...core.network.attach import attend_with
from ...core.network.effects import Vector
from ...core.network.points import CONDITIONS, MIDDLE, Block, Part, Point, onward, skip, stream
from .foreign.controls import Call
from .heads import REPLACED, with_heads, without_heads
from .weights import Deltas, wrapper_of

KEY = "controlstack"
WRAPPER = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL  # of the base network's forward
APPLYING = comfy.patcher_extension.WrappersMP.APPLY_MODEL
COMPILED = "torch.compile"  # under which nodes wrap a call so that it runs the compiled network
Act = Callable[[Tensor], Tensor]  # what stands at a point -> what shall stand there


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """What our controls have written into one call so far.

    context: the prompt [B, T, D] as it was before the tokens were put beside it. y: the vector condition likewise.
    """

    shifts: Mapping[Point, Act] = field(default_factory=dict[Point, Act])  # -> what is added
    tokens: tuple[Tensor, ...] = ()
    vector: Vector | None = None
    context: Tensor | None = None
    y: Tensor | None = None
    deltas: Deltas = field(default_factory=dict[int, Any])  # to weights of 8 bits


@dataclass(frozen=True, slots=True, eq=False)
class _Patch:
    """A patch of ours, told from those of other nodes by its class."""

    function: Callable[..., Any]

    def __call__(self, *values: Any) -> Any:
        return self.function(*values)


def write(call: Call, written: Written, blocks: int | None, network: Any) -> None:
    """Make the call that comes shift its streams, and read changed conditions.

    network: of the base model, whose weights of 8 bits are changed within the call. A compiled network does not look
    for patches again: what acts by them runs in the network as it is written.
    """
    call.options[KEY] = written
    if written.shifts or written.deltas:
        call.options["wrappers"] = _without_compiled(call.options)
    if written.deltas:
        call.options["wrappers"] = _wrapping(call.options, {KEY: [wrapper_of(written.deltas, network)]})
    if blocks is not None:
        heads = {point: shift for point, shift in written.shifts.items() if point.part is Part.ATTN2_HEADS}
        acts = {point: _adding(shift) for point, shift in written.shifts.items() if point not in heads}
        call.options["patches"] = _beside(call.options.get("patches", {}), acts, blocks)
        if heads:
            call.options[REPLACED] = with_heads(call.options.get(REPLACED, {}), heads)
    if written.context is not None:
        prompt = written.context if written.vector is None else written.vector.prompt(written.context)
        call.cond["c_crossattn"] = torch.cat([prompt, *(token.to(prompt) for token in written.tokens)], dim=1)
    if written.y is not None and written.vector is not None:
        call.cond["y"] = written.vector.vector(written.y)


def withdraw(call: Call) -> Written:
    """Take out of the call what our controls have written into it."""
    written = call.options.pop(KEY, Written())
    if written.deltas:
        call.options["wrappers"] = _wrapping(call.options, {})
    if "patches" in call.options:
        call.options["patches"] = {name: _others(each) for name, each in call.options["patches"].items()}
    if REPLACED in call.options:
        call.options[REPLACED] = without_heads(call.options[REPLACED])
    if written.context is not None:
        call.cond["c_crossattn"] = written.context
    if written.y is not None:
        call.cond["y"] = written.y
    return written


def evaluate_alone(
    model: Any,
    call: Call,
    x: Tensor,
    rows: tuple[int, ...],
    points: Collection[Point],
    blocks: int | None,
    deltas: Deltas,
) -> dict[Point, Tensor]:
    """Evaluate the host's base network without any control, on other latents, with these rows' time and prompts.

    x: [len(rows), C, h, w] as the network receives them; the host has scaled its own by then, so x takes their place
    behind that. Patches of other nodes belong to the base network and stay; wrappers, which may count calls, do not.
    """
    seen, found = call.rows(rows), dict[Point, Tensor]()

    def ours(forward: Any, theirs: Tensor, *arguments: Any, **settings: Any) -> Any:
        return forward(torch.cat([x.to(theirs), theirs[:, x.shape[1] :]], dim=1), *arguments, **settings)

    network = model.diffusion_model
    changed = [wrapper_of(deltas, network)] if deltas else []
    options = {name: value for name, value in seen.options.items() if name not in ("callbacks", KEY)}
    options["wrappers"] = {WRAPPER: {KEY: [*changed, ours]}}
    acts = {point: _keeping(point, found) for point in points}
    options["patches"] = _beside(options.get("patches", {}), acts, blocks or 0)
    cond = {name: value for name, value in seen.cond.items() if name not in ("control", "transformer_options")}
    model.apply_model(seen.x, seen.sigma, transformer_options=options, **cond)
    if set(points) - set(found):
        raise HostError("a control looks where the loaded base model shows nothing: load the base of its training")
    return found


def _wrapping(options: Mapping[str, Any], ours: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Return the wrappers of a call with ours in the place of those that we wrote before."""
    given = options.get("wrappers", {})
    others = {key: each for key, each in given.get(WRAPPER, {}).items() if key != KEY}
    return {**given, WRAPPER: {**others, **ours}}


def _without_compiled(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the wrappers of a call without those that put a compiled network in place."""
    given = options.get("wrappers", {})
    return {**given, APPLYING: {key: each for key, each in given.get(APPLYING, {}).items() if key != COMPILED}}


def attend(model: Any, point: Point, x: Tensor, context: Tensor) -> Tensor:
    """Return what a self-attention of the host's base network returns for other values: `Step.attend`."""
    network = model.diffusion_model
    outer = {Block.INPUT: network.input_blocks, Block.OUTPUT: network.output_blocks}
    block = network.middle_block if point.block is Block.MIDDLE else outer[point.block][point.index]
    layer = next(each for each in block if hasattr(each, "transformer_blocks"))
    return attend_with(layer.transformer_blocks[point.depth].attn1, x, context)


def check_points(model: ControlModel, network: Any) -> None:
    """Raise IncompatibleModelError unless the host's U-Net has every point of a control model."""
    blocks = {
        Block.INPUT: list(network.input_blocks),
        Block.MIDDLE: [network.middle_block],
        Block.OUTPUT: list(network.output_blocks),
    }
    for point in model.points:
        if point.block not in CONDITIONS and not _has(blocks[point.block], point):
            where = f"{point.block.value} block {point.index}, {point.part.value}"
            raise IncompatibleModelError(
                f"'{model.name}' acts at {where} {point.depth} of its base model, which the loaded one does not have, "
                "or does not show: load the base that it was trained with"
            )


def _has(blocks: list[Any], point: Point) -> bool:
    if point.index >= len(blocks):
        return False
    if point.part in (Part.STREAM, Part.SKIP, Part.ONWARD):
        return point.block is not Block.OUTPUT or point.index < len(blocks) - 1  # nobody receives the last one's
    depths = [len(layer.transformer_blocks) for layer in blocks[point.index] if hasattr(layer, "transformer_blocks")]
    return point.depth < max(depths, default=0)


def _beside(patches: Mapping[str, list[Any]], acts: Mapping[Point, Act], blocks: int) -> dict[str, list[Any]]:
    """Return patches with ours, in lists of their own: the host and other nodes may share theirs between calls."""
    result = {name: list(each) for name, each in patches.items()}
    for name, patch in _patches(acts, blocks):
        others = result.get(name, [])
        result[name] = [*others, patch] if name.endswith("_output_patch") else [patch, *others]
    return result


def _others(patches: list[Any]) -> list[Any]:
    return [patch for patch in patches if not isinstance(patch, _Patch)]


def _patches(acts: Mapping[Point, Act], blocks: int) -> Iterator[tuple[str, _Patch]]:
    """Yield the patches of the host that the points of `acts` need, by the host's names."""

    def at(point: Point, h: Tensor) -> Tensor:
        return acts[point](h) if point in acts else h

    def inside(options: Mapping[str, Any], part: Part) -> Point:
        block, index = options["block"]
        return Point(Block(block), index, part, options["block_index"])

    def encoder(h: Tensor, options: Mapping[str, Any]) -> Tensor:
        return at(stream(options["block"][1]), h)

    def past_skip(h: Tensor, options: Mapping[str, Any]) -> Tensor:
        return at(onward(options["block"][1]), h)

    def decoder(h: Tensor, hsp: Tensor, options: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        index = options["block"][1]
        before = Point(Block.OUTPUT, index - 1) if index else MIDDLE
        return at(before, h), at(skip(blocks - 1 - index), hsp)

    def inputs(*parts: Part) -> Callable[..., Any]:
        return lambda q, k, v, options: tuple(
            at(inside(options, part), h) for part, h in zip(parts, (q, k, v), strict=True)
        )

    def output(part: Part) -> Callable[..., Any]:
        return lambda h, options: at(inside(options, part), h)

    places = {
        "input_block_patch": encoder,
        "input_block_patch_after_skip": past_skip,
        "output_block_patch": decoder,
        "attn1_patch": inputs(Part.ATTN1_Q, Part.ATTN1_K, Part.ATTN1_V),
        "attn2_patch": inputs(Part.ATTN2_Q, Part.ATTN2_K, Part.ATTN2_V),
        "attn1_output_patch": output(Part.ATTN1_OUT),
        "attn2_output_patch": output(Part.ATTN2_OUT),
    }
    for name in sorted({_name(point) for point in acts}):
        yield name, _Patch(places[name])


def _name(point: Point) -> str:
    """Return the host's name of the patch that sees a point."""
    if point.part is Part.ONWARD:
        return "input_block_patch_after_skip"
    if point.part in (Part.STREAM, Part.SKIP):
        return "input_block_patch" if point == stream(point.index) else "output_block_patch"
    attention, _, value = point.part.value.partition(".")
    return f"{attention}_output_patch" if value == "out" else f"{attention}_patch"


def _adding(shift: Act) -> Act:
    return lambda h: h + shift(h)


def _keeping(point: Point, found: dict[Point, Tensor]) -> Act:
    def keep(h: Tensor) -> Tensor:
        found[point] = h
        return h

    return keep
