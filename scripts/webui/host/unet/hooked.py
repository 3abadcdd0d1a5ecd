"""Units inside the WebUI's own U-Net, by module hooks: no forward is replaced or copied.

A hook before the U-Net asks for the effects of this evaluation and attaches them to the blocks; a hook behind it takes
them away again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .....core.errors import HostError
from .....core.network.attach import Patches, attach, attend_with, record
from .....core.network.points import Point
from .....core.network.rows import take_rows
from .attachment import Answers, Attachment, Call
from .deltas import Deltas
from .denoiser import noise_at
from .tiles import Tiles
from .unets import locate_in

INPUTS = ("x", "timesteps", "context", "y")  # of the U-Net's forward, in order


class Hooked(Attachment):
    """Units on a U-Net that belongs to the checkpoint alone.

    keep: leave changes to weights on the device between evaluations.
    """

    def __init__(self, network: Callable[[], Any], answers: Answers, tiles: Tiles | None, *, keep: bool = True) -> None:
        super().__init__(network, answers, tiles)
        self._keep = keep
        self._watched: nn.Module | None = None  # what the denoiser calls, around the U-Net
        self._watching = Patches()

    def begin(self) -> None:
        """Put the hooks on the U-Net."""
        self._answers.prepare(answers=False)
        self._follow()

    def begin_pass(self) -> None:
        """Forget which parts of the picture the pass before has shown."""
        if self.tiles is not None:
            self.tiles.forget()
        self._answers.prepare(answers=False)

    def begin_evaluation(self, network: nn.Module) -> None:
        """Follow a refiner, and watch which rows the denoiser hands over."""
        super().begin_evaluation(network)
        if network is not self._watched:
            self._watching.eject()
            self._watched = network
            self._watching.hook(network.register_forward_pre_hook(self._expect))

    def end(self) -> None:
        """Remove every hook."""
        self._watching.eject()
        self._watched = None
        super().end()

    def _enter(self, unet: Any) -> None:
        self._exits.enter_context(Injection(unet, self._answers, self.tiles, keep=self._keep))

    def _expect(self, _network: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._answers.expect(len(args[0]))
        if self.tiles is not None:
            self.tiles.expect(len(args[0]))


class Injection:
    """Hooks on one U-Net for as long as its `with` lasts."""

    def __init__(self, unet: Any, answers: Answers, tiles: Tiles | None = None, *, keep: bool = True) -> None:
        if not hasattr(unet, "output_blocks"):
            raise HostError(f"the U-Net is a {type(unet).__name__}, expected one with input, middle and output blocks")
        self._unet, self._answers, self._tiles = unet, answers, tiles
        self._locate, self._deltas = locate_in(unet), Deltas(answers.units, unet, keep=keep)
        self._given: dict[str, Any] | None = None
        self._patches = Patches()  # as long as the injection
        self._attached = Patches()  # as long as one evaluation
        self._casting: Callable[[], AbstractContextManager[object]] = nullcontext

    def __enter__(self) -> Injection:
        self._patches.hook(self._unet.register_forward_pre_hook(self._before, with_kwargs=True))
        self._patches.hook(self._unet.register_forward_hook(self._after, always_call=True))
        return self

    def __exit__(self, *_: object) -> None:
        self._attached.eject()
        self._patches.eject()

    def evaluate_alone(self, x: Tensor, rows: tuple[int, ...], points: Collection[Point]) -> dict[Point, Tensor]:
        """Evaluate the U-Net without effects on other latents, with these rows' prompts: `Step.evaluate`."""
        assert self._given is not None
        given = {name: value if value is None else take_rows(value, rows) for name, value in self._given.items()}
        given |= {"x": x}
        found: dict[Point, Tensor] = {}
        with self._casting(), Patches() as patches:
            record(patches, points, self._locate, found)
            # Not through the call, whose hooks, ours and those of others, wait for evaluations of the denoiser.
            self._unet.forward(**{name: value for name, value in given.items() if value is not None})
        return found

    def attend(self, point: Point, x: Tensor, context: Tensor) -> Tensor:
        """Return what a self-attention returns for other values, under the casting of the evaluation: `Step.attend`."""
        with self._casting():
            return attend_with(self._locate(point).module, x, context)

    def _before(self, _unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        self._attached.eject()  # of an evaluation that a user interrupted: nobody is told of its end
        given = dict(zip(INPUTS, args, strict=False)) | kwargs
        self._given = {name: given.get(name) for name in INPUTS}
        self._casting = casting_of(given["x"].device.type)
        self._deltas.attach(self._attached, self._answers.units)
        effects = self._answers.effects(self._call())
        attach(self._attached, effects, self._locate)
        tokens = [token for token in effects.tokens if token is not None]
        if not tokens and effects.vector is None:
            return args, kwargs
        if effects.vector is not None:
            given["context"] = effects.vector.prompt(given["context"])
            given["y"] = effects.vector.vector(given["y"])
        given["context"] = torch.cat([given["context"], *tokens], dim=1)
        return (given.pop("x"),), given

    def _call(self) -> Call:
        given = self._given
        assert given is not None
        x, timestep, context, y = (given[name] for name in INPUTS)
        return Call(
            x=x,
            timestep=timestep,
            noise=lambda: noise_at(timestep),
            context=context,
            y=y,
            evaluate=self.evaluate_alone,
            attend=self.attend,
            tiles=self._tiles,
        )

    def _after(self, _unet: nn.Module, _args: object, output: Tensor | None) -> Tensor | None:
        """Take this evaluation's effects away; also called when the U-Net has failed, without an output."""
        given, self._given = self._given, None
        self._attached.eject()
        if given is None or output is None or not self._answers.finishes:
            return None
        return self._answers.finish(given["x"], given["timesteps"], output)


def casting_of(device: str) -> Callable[[], AbstractContextManager[object]]:
    """Return what restores the present automatic casting on a kind of device, where others have switched it off."""
    if device not in ("cpu", "cuda"):  # the WebUI casts by other means there
        return nullcontext
    if hasattr(torch, "get_autocast_dtype"):
        enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    elif device == "cpu":  # before PyTorch 2.4
        enabled, dtype = torch.is_autocast_cpu_enabled(), torch.get_autocast_cpu_dtype()
    else:
        enabled, dtype = torch.is_autocast_enabled(), torch.get_autocast_gpu_dtype()
    return lambda: torch.autocast(device, dtype=dtype, enabled=enabled)
