"""The contract of Forge's patcher, by a small stand-in for it: what it hands over, and what it does with the lists."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from controlstack.core.errors import HostError
from controlstack.core.residuals import Residuals
from controlstack.scripts.webui.forge import PatchedControl, join
from torch import Tensor

BLOCKS = 4


class Patcher:
    """As `UnetPatcher`: a chain of controls, and clones that share nothing but what is there already."""

    def __init__(self, chain: Any = None) -> None:
        self.chain = chain

    def clone(self) -> Patcher:
        return Patcher(self.chain)

    def add_patched_controlnet(self, control: Any) -> None:
        control.set_previous_controlnet(self.chain)
        self.chain = control

    def list_controlnets(self) -> list[Any]:
        found, control = [], self.chain
        while control is not None:
            found.append(control)
            control = control.previous_controlnet
        return found


class Objects:
    def __init__(self) -> None:
        self.unet = Patcher()


class Model:
    """A noise schedule in which a sigma is a tenth of its timestep."""

    class predictor:  # noqa: N801
        @staticmethod
        def timestep(sigma: Tensor) -> Tensor:
            return sigma * 10

        @staticmethod
        def calculate_input(sigma: Tensor, x: Tensor) -> Tensor:
            return x / 2


class Other:
    """Somebody else's control."""

    previous_controlnet = None
    calls: tuple[str, ...] = ()
    given = 0

    def set_previous_controlnet(self, control: Any) -> None:
        self.previous_controlnet = control

    def get_models(self) -> list[str]:
        return ["patcher"]

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        return 100

    def pre_run(self, *_: Any) -> None:
        self.calls += ("pre_run",)

    def cleanup(self) -> None:
        self.calls += ("cleanup",)

    def get_control(self, *given: Any) -> dict[str, list[Tensor | None]]:
        self.given = len(given)
        return {"input": [], "middle": [torch.full((4, 1), 5.0)], "output": [torch.full((4, 1), 7.0), None, None, None]}


def one_skip(tensor: Tensor) -> Residuals:
    return Residuals(output=(None, tensor))


def make(answer: Any = None) -> tuple[PatchedControl, list[Any]]:
    seen: list[Any] = []

    def evaluate(*given: Any) -> Residuals:
        seen.append(given)
        return one_skip(torch.ones(4, 1)) if answer is None else answer

    return PatchedControl(evaluate, BLOCKS, size=1000), seen


class NewerModel:
    """As in reForge: the schedule has another name."""

    model_sampling = Model.predictor


def ask(control: PatchedControl, kinds: list[int], *, handed: bool = False) -> Any:
    """handed: the options come with the call (reForge) instead of before it (Forge)."""
    control.pre_run(NewerModel if handed else Model, lambda percent: percent)
    options = {"cond_or_uncond": kinds}
    if not handed:
        control.transformer_options = options
    x, sigma = torch.full((4, 2), 6.0), torch.full((4,), 30.0)
    conditions = {"c_crossattn": torch.zeros(4, 7, 8), "y": None}
    return control.get_control(x, sigma, conditions, len(kinds), *([options] if handed else []))


@pytest.mark.parametrize("handed", [False, True])
def test_an_evaluation_is_handed_over_scaled_and_with_its_cond_rows(handed: bool) -> None:
    control, seen = make()
    ask(control, [1, 0], handed=handed)
    x, timestep, context, y, cond, onto = seen[0]
    assert (x == 3).all() and (timestep == 300).all() and context.shape == (4, 7, 8)
    assert (y, cond, onto) == (None, (False, False, True, True), None)


@pytest.mark.parametrize(
    ("kinds", "cond"), [([0], (True,) * 4), ([0, 1], (True, True, False, False)), ([1], (False,) * 4)]
)
def test_any_order_of_parts(kinds: list[int], cond: tuple[bool, ...]) -> None:
    control, seen = make()
    ask(control, kinds)
    assert seen[0][4] == cond


def test_lists_are_complete_since_the_program_takes_them_from_the_end() -> None:
    control, _ = make()
    lists = ask(control, [1, 0])
    assert [each is not None for each in lists["output"]] == [False, True, False, False]
    streams, _ = make(Residuals(input=(torch.ones(4, 1),)))
    assert [each is not None for each in ask(streams, [0])["input"]] == [False, False, False, True]


@pytest.mark.parametrize("handed", [False, True])
def test_others_in_the_chain_come_first_and_are_looked_after(handed: bool) -> None:
    objects, other = Objects(), Other()
    objects.unet.add_patched_controlnet(other)
    control, seen = make()
    join(objects, control)
    ask(control, [1, 0], handed=handed)
    assert other.given == (4 if not handed else 5)
    onto = seen[0][5]
    assert float(onto.middle[0][0]) == 5 and float(onto.output[0][0]) == 7
    control.cleanup()
    assert other.calls == ("pre_run", "cleanup")
    assert control.get_models() == ["patcher"]
    assert control.inference_memory_requirements(torch.float32) == 1100


def test_joining_twice_is_joining_once_and_touches_no_shared_patcher() -> None:
    objects = Objects()
    shared = objects.unet
    join(objects, make()[0])
    join(objects, make()[0])
    assert len(objects.unet.list_controlnets()) == 1 and shared.list_controlnets() == []
    objects.unet = shared  # as Forge does between its two announcements of a hires pass
    join(objects, make()[0])
    assert len(objects.unet.list_controlnets()) == 1


def test_style_tokens_are_refused_aloud() -> None:
    control, _ = make(Residuals(context=(torch.ones(4, 8, 8),)))
    with pytest.raises(HostError, match="switch the unit with a style model off"):
        ask(control, [1, 0])
