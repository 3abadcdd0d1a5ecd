"""Forge and reForge: our stack as one more of the program's own controls, asked for residuals at each evaluation.

There the U-Net belongs to a patcher, and what a pass changes goes into a clone of it, which is dropped with the pass:
so nothing is hooked, and nothing has to be undone. The program may announce a pass twice; one control of ours joins.
"""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ....core.effects import Effects
from ....core.errors import HostError
from ....core.lists import Lists, to_lists, to_residuals
from ....core.schedule import RangeBasis
from .tiles import Tiles
from .webui import WebUI

MODULE = "modules_forge"  # both programs have it, and AUTOMATIC1111's WebUI has not
COND = 0  # in the program's list of what each part of a batch is

WRAPPER = "model_function_wrapper"  # in the program's options: what is called instead of the base model

# (latents, timestep, context, vector condition or None, parts, what other controls add) -> the sum
# parts: for each equal part of the rows, or of those of each tile, whether it is cond.
Evaluate = Callable[[Tensor, Tensor, Tensor, "Tensor | None", tuple[bool, ...], "Effects | None"], Effects]
Finish = Callable[[Tensor], Tensor]  # what the base model sees in the noise, [B, 4, h, w] -> the same, changed


def is_here() -> bool:
    """Whether this program is Forge or reForge."""
    return importlib.util.find_spec(MODULE) is not None


class Forge(WebUI):
    """What differs from AUTOMATIC1111's WebUI."""

    patches = True
    basis = RangeBasis.NOISE  # what a range has always meant there

    @property
    def unet(self) -> Any:
        """The U-Net inside the patcher; HostError for another kind of network."""
        model = self.patched.unet.model
        if not hasattr(model.diffusion_model, "output_blocks"):
            raise HostError(
                f"the base model is a {type(model.diffusion_model).__name__}, and units act on the U-Nets of SD 1.x, "
                "SD 2.x and SDXL: choose such a checkpoint, or switch the units off"
            )
        return model.diffusion_model

    @property
    def patched(self) -> Any:
        """What holds the U-Net's patcher; the program makes a new one for each pass."""
        from modules import shared

        return shared.sd_model.forge_objects

    @property
    def dtype(self) -> torch.dtype:
        """What the base network computes in."""
        model = self.patched.unet.model
        return getattr(model, "computation_dtype", None) or model.get_dtype()


def join(objects: Any, control: PatchedControl) -> Callable[[], None]:
    """Let a pass run with our control beside those that are there; a second call for the same pass does nothing.

    objects: `p.sd_model.forge_objects`, whose patcher is replaced by a clone. The program drops that with the pass, but
    not after an error nor where a refiner took over in the middle: so the answer puts back what was there.
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
    """What the program calls before each evaluation: it puts `control` around whatever calls the base model by then.

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

    def __init__(
        self,
        evaluate: Evaluate,
        unet: Any,
        size: int,
        tiles: Tiles,
        *,
        tokens: bool = False,
        finish: Finish | None = None,
    ) -> None:
        """unet: the patcher. size: bytes of our networks, for which the program leaves room.

        tiles: is told which parts of the picture are drawn. tokens: whether a unit adds to the prompt. finish: what
        units want of each answer.
        """
        self._evaluate, self._model, self._size = evaluate, unet.model, size
        self._tiles = tiles
        self._cut: Tensor | None = None
        self.device = torch.device("cpu")  # of `cond_hint`
        self._adds_tokens, self._finish = tokens, finish
        self._blocks = len(unet.model.diffusion_model.input_blocks)
        self._tokens: list[Tensor] = []
        self.previous_controlnet: Any = None
        self.transformer_options: Mapping[str, Any] = {}
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
        """Whether residuals are not all that the units want."""
        return self._adds_tokens or self._finish is not None

    def set_previous_controlnet(self, control: Any) -> PatchedControl:
        """What stands before it in the program's chain."""
        self.previous_controlnet = control
        return self

    def get_models(self) -> list[Any]:
        """Patchers that the program is to load: ours bring their own networks."""
        return [] if self.previous_controlnet is None else self.previous_controlnet.get_models()

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        """Bytes to leave free."""
        before = self.previous_controlnet
        return self._size + (0 if before is None else before.inference_memory_requirements(dtype))

    def pre_run(self, model: Any, percent_to_timestep_function: Callable[[float], float]) -> None:
        """The sampling begins."""
        if self.previous_controlnet is not None:
            self.previous_controlnet.pre_run(model, percent_to_timestep_function)

    def cleanup(self) -> None:
        """The sampling is over."""
        self._tokens, self._cut = [], None
        if self.previous_controlnet is not None:
            self.previous_controlnet.cleanup()

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: Mapping[str, Any], batched_number: int, *more: Any
    ) -> Lists:
        """Fresh lists for one evaluation. x_noisy: latents before their scaling; t: sigmas.

        more: the transformer options, where the program hands them over instead of setting them (reForge).
        """
        before = self.previous_controlnet
        given = None if before is None else before.get_control(x_noisy, t, cond, batched_number, *more)
        parts: Sequence[int] = (more[0] if more else self.transformer_options)["cond_or_uncond"]
        schedule = getattr(self._model, "predictor", None) or self._model.model_sampling
        residuals = self._evaluate(
            schedule.calculate_input(t, x_noisy),
            schedule.timestep(t),
            cond["c_crossattn"],
            cond.get("y"),
            tuple(part == COND for part in parts),
            None if given is None else to_residuals(given, self._blocks),
        )
        self._tokens = [token for token in residuals.tokens if token is not None]
        return to_lists(residuals, self._blocks)

    def around(self, inner: Callable[..., Tensor] | None, apply: Callable[..., Tensor], given: Any) -> Tensor:
        """One evaluation, after `get_control`: our tokens beside the prompt's, and the answer as the units want it.

        inner: what another extension put around the base model, or None.
        """
        conditions = dict(given["c"])
        prompt = conditions["c_crossattn"]
        conditions["c_crossattn"] = torch.cat([prompt, *(token.to(prompt) for token in self._tokens)], dim=1)
        if inner is None:
            answer = apply(given["input"], given["timestep"], **conditions)
        else:
            answer = inner(apply, {**given, "c": conditions})
        return answer if self._finish is None else self._finish(answer)
