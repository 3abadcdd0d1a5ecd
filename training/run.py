"""One training under way: what it holds between two steps, and what must be saved to go on later."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ..core.errors import HostError
from .data.checking import Checked
from .data.encoding import Encoder
from .data.examples import Examples
from .recipes.recipe import Foundation, Recipe
from .recipes.trainee import CONTROL, UNET, Trainee
from .results.checkpoints import read_checkpoint, write_checkpoint
from .settings import Settings, differences, option

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(slots=True)
class Average:
    """A moving average of the trained weights: the first weights, then decay * average + (1 - decay) * weights."""

    decay: float
    weights: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def update(self, trainee: Trainee) -> None:
        """Take the weights after one more step."""
        if not self.weights:
            self.weights = {name: each.detach().clone() for name, each in trainee.trained()}
            return
        for name, each in trainee.trained():
            self.weights[name].lerp_(each, 1 - self.decay)


@dataclass(slots=True)
class Run:
    """One training under way."""

    settings: Settings
    record: Mapping[str, str]  # of what a resumed training must share with its beginning
    recipe: Recipe
    accelerator: Accelerator
    base: Any  # a diffusers pipeline, frozen
    encoder: Encoder
    trainee: Any  # a Trainee, as accelerate has prepared it
    before: Mapping[str, Tensor]  # the base's weights that are trained along, as they were
    optimiser: torch.optim.Optimizer
    checked: Checked
    examples: Examples
    held_out: Examples
    generator: torch.Generator
    average: Average | None = None
    losses: list[float] = field(default_factory=list)  # of every step so far
    random_state: Tensor = field(default_factory=torch.Tensor)  # of the generator after the last whole step
    whole: bool = True  # False while weights are changed

    @property
    def step(self) -> int:
        """Return how many steps are done."""
        return len(self.losses)

    @property
    def plain(self) -> Trainee:
        """Return the trainee without what accelerate has put around it."""
        return cast(Trainee, self.accelerator.unwrap_model(self.trainee))

    @property
    def network(self) -> torch.nn.Module:
        """Return the control network, as the last step left it."""
        return self.plain.control

    @property
    def is_main(self) -> bool:
        """Return whether this process writes and speaks."""
        return self.accelerator.is_main_process

    @contextmanager
    def result(self) -> Iterator[Trainee]:
        """Inside, the trainee has the weights that would be written now: the moving average where there is one."""
        trainee, average = self.plain, {} if self.average is None else self.average.weights
        own = {name: each.detach().clone() for name, each in trainee.trained() if name in average}
        _put(trainee, average)
        try:
            yield trainee
        finally:
            _put(trainee, own)

    def any_process(self, said: bool) -> bool:
        """Return whether a process says so; all hear the same answer."""
        flags = torch.tensor([said], device=self.accelerator.device)
        return bool(cast(Tensor, self.accelerator.gather(flags)).any())

    def is_finite(self) -> bool:
        """Return whether all trained weights are finite numbers."""
        return all(bool(torch.isfinite(each).all()) for _, each in self.plain.trained())

    def save(self, path: Path) -> None:
        """Write a checkpoint from which `load` goes on, bit for bit."""
        if self.is_main:
            write_checkpoint(path, self._state())

    def load(self, path: Path, change: Collection[str] = ()) -> list[str]:
        """Go on from a checkpoint; return what it says differently from its beginning, a line each.

        change: names of the settings that may differ. HostError where others do.
        """
        state = read_checkpoint(path)
        changed = differences(self.record, state.get("record", {}))
        if refused := {name: each for name, each in changed.items() if name not in change}:
            said = "; ".join(f"{option(name)} was {then}, now {now}" for name, (then, now) in refused.items())
            names = " ".join(f"--change {name.replace('_', '-')}" for name in refused)
            raise HostError(
                f"'{path}' was made with other settings ({said}): give them as at its start, or say {names}"
            )
        try:
            self._take(state)
        except (KeyError, RuntimeError, ValueError) as error:
            raise HostError(
                f"'{path}' does not fit this training ({error.__class__.__name__}): give --resume the settings of its "
                "start, or leave it out"
            ) from error
        return [f"{option(name)} {then} -> {now}" for name, (then, now) in changed.items()]

    def control_state(self) -> dict[str, Tensor]:
        """Return the control network's weights as they would be written now."""
        with self.result() as trainee:
            state = self.recipe.state(trainee.control)
            return {name: each.detach().cpu().clone() for name, each in state.items()}

    def foundation(self) -> Foundation | None:
        """Return what the control's file needs beside it, as it would be written now."""
        with self.result() as trainee:
            found = self.recipe.foundation(trainee.control)
            if found is None:
                return None
            return replace(found, tensors={name: each.detach().cpu().clone() for name, each in found.tensors.items()})

    def base_delta(self) -> dict[str, Tensor]:
        """Return what the training has added to the base's weights, by diffusers' names, in fp32."""
        with self.result() as trainee:
            now = dict(trainee.unet.named_parameters())
            return {name: now[name].detach().cpu().float() - old for name, old in self.before.items()}

    def _state(self) -> dict[str, Any]:
        weights = {name: each.detach() for name, each in self.plain.trained()}
        state = {
            "record": dict(self.record),
            "weights": weights,
            "optimiser": self.optimiser.state_dict(),
            "generator": self.random_state,
            "losses": self.losses,
        }
        if self.average is not None:
            state["average"] = self.average.weights
        if self.accelerator.scaler is not None:  # fp16's factor of the loss
            state["scaler"] = self.accelerator.scaler.state_dict()
        return state

    def _take(self, state: Mapping[str, Any]) -> None:
        expected = {name for name, _ in self.plain.trained()}
        if expected != set(state["weights"]):
            raise KeyError("weights")
        _put(self.plain, state["weights"])
        rates = [group["full"] for group in self.optimiser.param_groups]  # as the user says them now
        self.optimiser.load_state_dict(state["optimiser"])
        for group, rate in zip(self.optimiser.param_groups, rates, strict=True):
            group["full"] = rate
        if self.average is not None:
            device = self.accelerator.device
            self.average.weights = {name: each.to(device) for name, each in state.get("average", {}).items()}
        if self.accelerator.scaler is not None and "scaler" in state:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.generator.set_state(state["generator"])
        self.random_state = state["generator"]
        self.losses = state["losses"]


@torch.no_grad()
def _put(trainee: Trainee, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into the trained parameters of their names."""
    for name, each in trainee.trained():
        if name in weights:
            each.copy_(weights[name])


def names_of_base(trainee: Trainee) -> dict[str, Tensor]:
    """Return the trained weights of the base by its own names."""
    return {name.removeprefix(UNET): each for name, each in trainee.trained() if name.startswith(UNET)}


def names_of_control(trainee: Trainee) -> dict[str, Tensor]:
    """Return the trained weights of the control by its own names."""
    return {name.removeprefix(CONTROL): each for name, each in trainee.trained() if name.startswith(CONTROL)}
