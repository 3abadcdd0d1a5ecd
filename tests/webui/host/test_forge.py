"""The contract of Forge's patcher, by a small stand-in for it: what it hands over, and what it does with the lists."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from controlstack.core.network.effects import Effects
from controlstack.core.network.points import PROMPT
from controlstack.core.step import Window
from controlstack.scripts.webui.host.unet.attachment import Call
from controlstack.scripts.webui.host.unet.patched import PatchedControl, join
from controlstack.scripts.webui.host.unet.tiles import Tiles
from torch import Tensor

BLOCKS = 4


class Predictor:
    """A noise schedule in which a sigma is a tenth of its timestep."""

    @staticmethod
    def timestep(sigma: Tensor) -> Tensor:
        return sigma * 10

    @staticmethod
    def calculate_input(sigma: Tensor, x: Tensor) -> Tensor:
        return x / 2


class Patcher:
    """As `UnetPatcher`: a chain of controls and options, and clones that share no list and no option."""

    def __init__(self, schedule: str = "predictor") -> None:
        self.chain: Any = None
        self.options: dict[str, Any] = {}
        unet = SimpleNamespace(input_blocks=range(BLOCKS))
        self.model = SimpleNamespace(diffusion_model=unet, **{schedule: Predictor})

    def clone(self) -> Patcher:
        other = copy.copy(self)
        other.options = copy.deepcopy(self.options)
        return other

    def add_patched_controlnet(self, control: Any) -> None:
        control.set_previous_controlnet(self.chain)
        self.chain = control

    def add_conditioning_modifier(self, modifier: Any) -> None:
        self.options.setdefault("conditioning_modifiers", []).append(modifier)

    def list_controlnets(self) -> list[Any]:
        found, control = [], self.chain
        while control is not None:
            found.append(control)
            control = control.previous_controlnet
        return found

    def sample(self, prompt: Tensor, *, handed: bool = False) -> tuple[Tensor, Any]:
        """One evaluation as the program does it, and what the base model was given."""
        options = dict(self.options)
        for modifier in options.get("conditioning_modifiers", ()):
            *_, options, _seed = modifier(self.model, None, None, None, None, 7.0, options, 1)
        x, sigma, parts = torch.full((4, 2), 6.0), torch.full((4,), 30.0), {"cond_or_uncond": [1, 0]}
        given: dict[str, Any] = {"c_crossattn": prompt, "y": None, "transformer_options": parts}
        self.chain.transformer_options = {} if handed else parts
        given["control"] = self.chain.get_control(x, sigma, given, 2, *([parts] if handed else []))
        seen: list[Any] = []

        def apply(x: Tensor, sigma: Tensor, **conditions: Any) -> Tensor:
            seen.append(conditions)
            return x * 1

        wrapper = options.get("model_function_wrapper")
        if wrapper is None:
            return apply(x, sigma, **given), seen[0]
        return wrapper(apply, {"input": x, "timestep": sigma, "c": given, "cond_or_uncond": [1, 0]}), seen[0]


class Objects:
    def __init__(self) -> None:
        self.unet = Patcher()


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


def one_skip(tensor: Tensor) -> Effects:
    return Effects(output=(None, tensor))


class Said:
    """What units say, as far as a control asks; finish: what they want of each answer."""

    size = (6, 8)

    def __init__(
        self, effects: Effects, *, tokens: bool = False, finish: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self.calls: list[Call] = []
        self._effects, self._finish = effects, finish
        self.finishes = finish is not None
        self.units = [SimpleNamespace(model=SimpleNamespace(points=(PROMPT,) if tokens else ()))]

    def effects(self, call: Call) -> Effects:
        self.calls.append(call)
        return self._effects

    def restore_clean(self, clean: Tensor) -> Tensor:
        assert self._finish is not None
        return self._finish(clean)


def make(answer: Any = None, schedule: str = "predictor", **more: Any) -> tuple[PatchedControl, list[Call]]:
    said: Any = Said(one_skip(torch.ones(4, 1)) if answer is None else answer, **more)
    return PatchedControl(said, Patcher(schedule), 1000, Tiles(lambda: (6, 8))), said.calls


def ask(control: PatchedControl, kinds: list[int], *, handed: bool = False) -> Any:
    """handed: the options come with the call (reForge) instead of before it (Forge)."""
    control.pre_run(None, lambda percent: percent)
    options = {"cond_or_uncond": kinds}
    if not handed:
        control.transformer_options = options
    x, sigma = torch.full((4, 2), 6.0), torch.full((4,), 30.0)
    conditions = {"c_crossattn": torch.zeros(4, 7, 8), "y": None}
    return control.get_control(x, sigma, conditions, len(kinds), *([options] if handed else []))


@pytest.mark.parametrize("handed", [False, True])
def test_an_evaluation_is_handed_over_scaled_and_with_its_cond_rows(handed: bool) -> None:
    control, seen = make(schedule="model_sampling" if handed else "predictor")
    ask(control, [1, 0], handed=handed)
    call = seen[0]
    assert (call.x == 3).all() and (call.timestep == 300).all() and call.context.shape == (4, 7, 8)
    assert (call.y, call.parts, call.onto) == (None, (False, True), None)


@pytest.mark.parametrize(("kinds", "parts"), [([0], (True,)), ([0, 1], (True, False)), ([1], (False,))])
def test_any_order_of_parts(kinds: list[int], parts: tuple[bool, ...]) -> None:
    control, seen = make()
    ask(control, kinds)
    assert seen[0].parts == parts


def test_lists_are_complete_since_the_program_takes_them_from_the_end() -> None:
    control, _ = make()
    lists = ask(control, [1, 0])
    assert [each is not None for each in lists["output"]] == [False, True, False, False]
    streams, _ = make(Effects(input=(torch.ones(4, 1),)))
    assert [each is not None for each in ask(streams, [0])["input"]] == [False, False, False, True]


@pytest.mark.parametrize("handed", [False, True])
def test_others_in_the_chain_come_first_and_are_looked_after(handed: bool) -> None:
    objects, other = Objects(), Other()
    objects.unet.add_patched_controlnet(other)
    control, seen = make()
    join(objects, control)
    ask(control, [1, 0], handed=handed)
    assert other.given == (4 if not handed else 5)
    onto = seen[0].onto
    assert onto is not None
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


def test_leaving_puts_the_patcher_back_unless_somebody_has_changed_it() -> None:
    objects = Objects()
    shared = objects.unet
    leave = join(objects, make()[0])
    leave()
    assert objects.unet is shared
    leave = join(objects, make()[0])
    objects.unet = theirs = objects.unet.clone()
    leave()
    assert objects.unet is theirs


@pytest.mark.parametrize("handed", [False, True])
def test_tokens_stand_beside_the_prompt_for_one_evaluation(handed: bool) -> None:
    objects = Objects()
    join(objects, make(Effects(tokens=(torch.ones(4, 3, 8, dtype=torch.float16),)), tokens=True)[0])
    prompt = torch.zeros(4, 7, 8)
    for _ in range(2):
        _, given = objects.unet.sample(prompt, handed=handed)
        assert given["c_crossattn"].shape == (4, 10, 8) and given["c_crossattn"].dtype is torch.float32
        assert (given["c_crossattn"][:, 7:] == 1).all() and prompt.shape == (4, 7, 8)


def test_the_answer_is_finished_around_what_others_put_there_meanwhile() -> None:
    objects = Objects()
    control, _ = make(finish=lambda answer: answer + 1)
    join(objects, control)
    assert (objects.unet.sample(torch.zeros(4, 7, 8))[0] == 7).all()
    other = objects.unet = objects.unet.clone()  # copies the options deeply, and must not copy the control
    other.options["model_function_wrapper"] = lambda apply, given: (
        10 * apply(given["input"], given["timestep"], **given["c"])
    )
    assert (other.sample(torch.zeros(4, 7, 8))[0] == 61).all()
    assert other.list_controlnets() == [control]


def test_tiles_that_are_cut_out_of_the_hint_and_put_back_are_known() -> None:
    tiles = Tiles(lambda: (6, 8))
    said: Any = Said(Effects())
    control = PatchedControl(said, Patcher(), 0, tiles)
    assert control.cond_hint is None and control.cond_hint_original.shape == (1, 2, 48, 64)
    control.cond_hint = whole = control.cond_hint_original.clone().to(dtype=torch.float32, device=control.device)
    assert tiles.windows((6, 8), (6, 8)) == ()
    control.cond_hint = torch.cat([whole[:, :, 0:32, 0:32], whole[:, :, 16:48, 32:64]])
    assert tiles.windows((6, 8), (4, 4)) == (Window((6, 8), 0, 0), Window((6, 8), 2, 4))
    control.cleanup()
    assert control.cond_hint is None


def test_where_residuals_are_all_nothing_is_wrapped() -> None:
    objects = Objects()
    join(objects, make()[0])
    assert objects.unet.options == {} and (objects.unet.sample(torch.zeros(4, 7, 8))[0] == 6).all()
