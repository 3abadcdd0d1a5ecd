"""Forge and its relatives: units as one more of the program's own controls, asked at each evaluation.

There the U-Net belongs to a patcher, and what a pass changes goes into a clone of it, which is dropped with the pass.
The program may announce a pass twice; one control of ours joins. Tensors go into the program's lists, and shifts into
the patches of the very call that asks for them. Hooks on the U-Net, which all clones share, serve what the program has
nothing for: changes to weights as long as the pass, shifts behind the middle and the decoder's blocks for one
evaluation. (Its own way to change weights would round them with the weights, takes as long as loading a LoRA before
and after each request, and differs from program to program.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .....core.network.attach import Patches
from .....core.network.effects import Vector
from .....core.network.lists import Lists, to_lists, to_residuals
from .....core.network.points import CONDITIONS
from ..latents import without_frames
from ..memory import network_of, size_of
from .attachment import Answers, Attachment, Call
from .deltas import Deltas
from .link import Link
from .network import COND, Network
from .tiles import Tiles

WRAPPER = "model_function_wrapper"  # in the program's options: what is called instead of the base model


class Patched(Attachment):
    """Units on a U-Net that belongs to a patcher.

    objects: returns what holds the patcher; the program makes a new one for each pass.
    """

    def __init__(self, network: Callable[[], Any], objects: Callable[[], Any], answers: Answers) -> None:
        super().__init__(network, answers, Tiles(lambda: answers.size))
        self._objects = objects

    def begin(self) -> None:
        """Do nothing: the program announces each pass, also the first."""

    def begin_pass(self) -> None:
        """Join the pass. Pictures are encoded now: later, the autoencoder would push the U-Net off the device."""
        assert self.tiles is not None
        self.tiles.forget()
        self._answers.prepare(answers=True)
        self._follow()

    def _enter(self, unet: Any) -> None:
        objects, units = self._objects(), self._answers.units
        deltas = Deltas(units, unet)
        networks = {id(unit.model): network_of(unit.model) for unit in units}
        size = sum(map(size_of, networks.values())) + deltas.bytes
        assert self.tiles is not None
        control = PatchedControl(self._answers, objects.unet, size, self.tiles)
        self._exits.callback(control.detach)
        self._exits.callback(join(objects, control))
        deltas.attach(self._exits.enter_context(Patches()), units)


def join(objects: Any, control: PatchedControl) -> Callable[[], None]:
    """Let a pass run with our control beside those that are there; a second call for the same pass does nothing.

    objects: `p.sd_model.forge_objects`, whose patcher is replaced by a clone. The program drops that with the pass, but
    not after an error nor where a refiner took over in the middle: so what is returned puts back what was there.
    """
    before = objects.unet
    if any(isinstance(each, PatchedControl) for each in before.list_controlnets()):
        return lambda: None
    clone = before.clone()
    clone.add_patched_controlnet(control)
    if control.wraps:
        clone.add_conditioning_modifier(_wrapping(control))
    objects.unet = clone

    def leave() -> None:
        if objects.unet is clone:
            objects.unet = before

    return leave


def _wrapping(control: PatchedControl) -> Callable[..., tuple[Any, ...]]:
    """Return what the program calls before each evaluation, to put `control` around whatever calls the base model.

    A plain function, for the program copies its options deeply, and the copy of a method would reach our networks.
    """

    def modify(
        model: Any, x: Tensor, sigma: Tensor, uncond: Any, cond: Any, scale: Any, options: Any, seed: Any
    ) -> tuple[Any, ...]:
        inner = options.get(WRAPPER)
        ours = {**options, WRAPPER: lambda apply, given: control.around(inner, apply, given)}
        return model, x, sigma, uncond, cond, scale, ours, seed

    return modify


class PatchedControl(Link):
    """A control as the program expects one, for one pass.

    The units' models were compared with the U-Net before, so every residual fits; of others the program only prints a
    line.
    """

    def __init__(self, answers: Answers, unet: Any, size: int, tiles: Tiles) -> None:
        """unet: the patcher. size: bytes on the device that the units need, for which the program leaves room.

        tiles: is told which parts of the picture are drawn.
        """
        super().__init__(size, tiles)
        self._answers, self._network = answers, Network(unet.model)
        self._conditions = any(point.block in CONDITIONS for unit in answers.units for point in unit.model.points)
        self._finishes = answers.finishes
        self._tokens: list[Tensor] = []
        self._vector: Vector | None = None

    @property
    def wraps(self) -> bool:
        """Return whether lists and patches are not all that the units want."""
        return self._conditions or self._finishes

    def detach(self) -> None:
        """Take away what is on the U-Net."""
        super().detach()
        self._tokens, self._vector = [], None
        self._network.detach()

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: Mapping[str, Any], batched_number: int, *more: Any
    ) -> Lists:
        """Return fresh lists for one evaluation, and write shifts into its options. t: sigmas [B].

        x_noisy: latents before their scaling. more: the options, where the program hands them over instead of setting
        them (reForge).
        """
        before = self.previous_controlnet
        given = None if before is None else before.get_control(x_noisy, t, cond, batched_number, *more)
        options: dict[str, Any] = more[0] if more else self.transformer_options
        network = self._network
        network.begin(options)
        x, timestep = network.inputs(x_noisy, t)
        effects = self._answers.effects(
            Call(
                x=x,
                timestep=timestep,
                noise=lambda: network.noise(timestep, t),
                context=cond["c_crossattn"],
                y=cond.get("y"),
                evaluate=lambda x, rows, points: network.evaluate_alone(x, timestep, rows, points, cond, options),
                attend=network.attend,
                tiles=self._tiles,
                parts=tuple(part == COND for part in options["cond_or_uncond"]),
                onto=None if given is None else to_residuals(given, network.blocks),
            )
        )
        network.shift(effects, options)
        self._tokens, self._vector = [token for token in effects.tokens if token is not None], effects.vector
        return to_lists(effects, network.blocks)

    def around(self, inner: Callable[..., Tensor] | None, apply: Callable[..., Tensor], given: Any) -> Tensor:
        """Do one evaluation, after `get_control`: the conditions and the answer as the units want them.

        inner: what another extension put around the base model, or None.
        """
        conditions = dict(given["c"])
        prompt = conditions["c_crossattn"]
        if self._vector is not None:
            prompt, conditions["y"] = self._vector.prompt(prompt), self._vector.vector(conditions["y"])
        conditions["c_crossattn"] = torch.cat([prompt, *(token.to(prompt) for token in self._tokens)], dim=1)
        if inner is None:
            answer = apply(given["input"], given["timestep"], **conditions)
        else:
            answer = inner(apply, {**given, "c": conditions})
        if not self._finishes:
            return answer
        return self._answers.restore_clean(without_frames(answer)).reshape(answer.shape)
