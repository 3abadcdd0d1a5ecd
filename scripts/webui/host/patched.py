"""Forge and its relatives: units as one more of the program's own controls, asked at each evaluation.

There the U-Net belongs to a patcher, and what a pass changes goes into a clone of it, which is dropped with the pass.
The program may announce a pass twice; one control of ours joins. Tensors go into the program's lists, and shifts into
the patches of the very call that asks for them. Hooks on the U-Net, which all clones share, serve what the program has
nothing for: changes to weights as long as the pass, shifts behind the middle and the decoder's blocks for one
evaluation. (Its own way to change weights would round them with the weights, takes as long as loading a LoRA before
and after each request, and differs from program to program.)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ....core.attach import Patches, attach_shifts, record
from ....core.effects import Effects
from ....core.lists import Lists, to_lists, to_residuals
from ....core.points import MIDDLE, PROMPT, Point
from ....core.rows import take_rows
from .attachment import Answers, Attachment, Call
from .deltas import Deltas
from .memory import network_of, size_of
from .shifts import has_patch, write
from .tiles import Tiles
from .unets import locate_in

COND, UNCOND = 0, 1  # in the program's list of what each part of a batch is
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


class PatchedControl:
    """A control as the program expects one, for one pass.

    The units' models were compared with the U-Net before, so every residual fits; of others the program only prints a
    line.
    """

    def __init__(self, answers: Answers, unet: Any, size: int, tiles: Tiles) -> None:
        """unet: the patcher. size: bytes on the device that the units need, for which the program leaves room.

        tiles: is told which parts of the picture are drawn.
        """
        self._answers, self._size, self._tiles = answers, size, tiles
        self._network = Network(unet.model)
        self._adds_tokens = any(PROMPT in unit.model.points for unit in answers.units)
        self._finishes = answers.finishes
        self._tokens: list[Tensor] = []
        self._cut: Tensor | None = None
        self.device = torch.device("cpu")  # of `cond_hint`
        self.previous_controlnet: Any = None
        self.transformer_options: dict[str, Any] = {}
        self.strength = 1.0  # other extensions read these of every control
        self.timestep_range: tuple[float, float] | None = None

    @property
    def cond_hint_original(self) -> Tensor:
        """The program's own tiled drawing reads the hint here, and cuts it; see `tiles`."""
        return self._tiles.control_params[0].hint_cond

    @property
    def cond_hint(self) -> Tensor | None:
        """Here it puts the parts back before each evaluation that shows them."""
        return self._cut

    @cond_hint.setter
    def cond_hint(self, tiles: Tensor) -> None:
        self._tiles.control_params[0].hint_cond = self._cut = tiles

    @property
    def wraps(self) -> bool:
        """Whether lists and patches are not all that the units want."""
        return self._adds_tokens or self._finishes

    def set_previous_controlnet(self, control: Any) -> PatchedControl:
        """Take what stands before it in the program's chain."""
        self.previous_controlnet = control
        return self

    def get_models(self) -> list[Any]:
        """Return patchers that the program is to load: ours bring their own networks."""
        return [] if self.previous_controlnet is None else self.previous_controlnet.get_models()

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        """Return the bytes to leave free."""
        before = self.previous_controlnet
        return self._size + (0 if before is None else before.inference_memory_requirements(dtype))

    def pre_run(self, model: Any, percent_to_timestep_function: Callable[[float], float]) -> None:
        """Begin the sampling."""
        if self.previous_controlnet is not None:
            self.previous_controlnet.pre_run(model, percent_to_timestep_function)

    def cleanup(self) -> None:
        """End the sampling; the program leaves this out after an error."""
        self.detach()
        if self.previous_controlnet is not None:
            self.previous_controlnet.cleanup()

    def detach(self) -> None:
        """Take away what is on the U-Net."""
        self._tokens, self._cut = [], None
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
                context=cond["c_crossattn"],
                y=cond.get("y"),
                evaluate=lambda x, rows, points: network.evaluate_alone(x, timestep, rows, points, cond, options),
                tiles=self._tiles,
                parts=tuple(part == COND for part in options["cond_or_uncond"]),
                onto=None if given is None else to_residuals(given, network.blocks),
            )
        )
        network.shift(effects, options)
        self._tokens = [token for token in effects.tokens if token is not None]
        return to_lists(effects, network.blocks)

    def around(self, inner: Callable[..., Tensor] | None, apply: Callable[..., Tensor], given: Any) -> Tensor:
        """Do one evaluation, after `get_control`: our tokens beside the prompt's, the answer as the units want it.

        inner: what another extension put around the base model, or None.
        """
        conditions = dict(given["c"])
        prompt = conditions["c_crossattn"]
        conditions["c_crossattn"] = torch.cat([prompt, *(token.to(prompt) for token in self._tokens)], dim=1)
        if inner is None:
            answer = apply(given["input"], given["timestep"], **conditions)
        else:
            answer = inner(apply, {**given, "c": conditions})
        return self._answers.restore_clean(answer) if self._finishes else answer


class Network:
    """The U-Net that a patcher and all its clones share; model: the program's, around the U-Net."""

    def __init__(self, model: Any) -> None:
        self._model, self._unet = model, model.diffusion_model
        self.blocks = len(self._unet.input_blocks)
        self._attached = Patches()  # for one evaluation
        self._watching = Patches()  # until `detach`
        self._watched = False

    def inputs(self, x_noisy: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Return latents and time as the U-Net receives them."""
        schedule = getattr(self._model, "predictor", None) or self._model.model_sampling
        return schedule.calculate_input(sigma, x_noisy), schedule.timestep(sigma)

    def begin(self, options: dict[str, Any]) -> None:
        """Forget the evaluation before: tiles share one call's options, and an interrupt tells nobody."""
        self._attached.eject()
        write({}, options, self.blocks)

    def shift(self, effects: Effects, options: dict[str, Any]) -> None:
        """Make the evaluation whose options these are take the shifts."""
        write(effects.shifts, options, self.blocks)
        rest = {point: shift for point, shift in effects.shifts.items() if not has_patch(point)}
        if not rest:
            return
        if MIDDLE in rest and effects.middle and effects.middle[0] is not None:
            rest[MIDDLE] = _behind(effects.middle[0], rest[MIDDLE])  # the program adds that tensor after the hook
        attach_shifts(self._attached, Effects(shifts=rest), locate_in(self._unet))
        if not self._watched:
            self._watched = True
            self._watching.hook(self._unet.register_forward_hook(lambda *_: self._attached.eject(), always_call=True))

    def evaluate_alone(
        self,
        x: Tensor,
        timestep: Tensor,
        rows: tuple[int, ...],
        points: Collection[Point],
        cond: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> dict[Point, Tensor]:
        """Evaluate the U-Net without control on other latents, with these rows' prompts: `Step.evaluate`."""
        dtype = self._dtype
        if cond.get("c_concat") is not None:  # the further channels of an inpainting base are no latents
            x = torch.cat([x, take_rows(cond["c_concat"], rows).to(x)], dim=1)
        vector = {} if cond.get("y") is None else {"y": take_rows(cond["y"], rows).to(dtype)}
        found: dict[Point, Tensor] = {}
        with Patches() as patches:
            record(patches, points, locate_in(self._unet), found)
            self._unet.forward(  # not through the call, whose hooks wait for the program's own evaluations
                x.to(dtype),
                take_rows(timestep, rows).float(),
                context=take_rows(cond["c_crossattn"], rows).to(dtype),
                transformer_options=options_of(options, rows, len(timestep)),
                **vector,
            )
        return found

    def detach(self) -> None:
        """Take all hooks away."""
        self._attached.eject()
        self._watching.eject()
        self._watched = False

    @property
    def _dtype(self) -> torch.dtype:
        """What the U-Net computes in, whatever its weights are stored in."""
        named = ("computation_dtype", "manual_cast_dtype")
        known = (getattr(self._model, name, None) for name in named)
        return next((each for each in known if each is not None), None) or self._model.get_dtype()


def options_of(options: Mapping[str, Any], rows: Sequence[int], count: int) -> dict[str, Any]:
    """Return the options of a call of `count` rows as those of a call of some of them, each its own part.

    The program's U-Net writes into its options, so they are copied.
    """
    parts: Sequence[int] = options["cond_or_uncond"]
    sigmas: Tensor | None = options.get("sigmas")  # of the pictures of one part
    each = count // len(parts) if sigmas is None else len(sigmas)
    kinds = [parts[row // each % len(parts)] for row in rows]
    changed: dict[str, Any] = {"cond_or_uncond": kinds}
    if "cond_mark" in options:
        changed["cond_mark"] = options["cond_mark"].new_tensor(kinds)
    for name, kind in (("cond_indices", COND), ("uncond_indices", UNCOND)):
        if name in options:
            changed[name] = [index for index, each_kind in enumerate(kinds) if each_kind == kind]
    return {**options, **changed}


def _behind(tensor: Tensor, shift: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda h: shift(h + tensor)
