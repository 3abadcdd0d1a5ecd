"""Units on a transformer like Anima, as Forge Neo evaluates one: controls are asked, and their answer is not taken."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import anima_world
import pytest
import torch
from controlstack.core.errors import HostError
from controlstack.core.network.attach import Patches
from controlstack.core.network.base import Base, Transformer
from controlstack.core.network.effects import Effects
from controlstack.core.network.points import Block, Part, Point
from controlstack.scripts.webui.host.unet.attachment import Call
from controlstack.scripts.webui.host.unet.denoiser import noise_at_sigma
from controlstack.scripts.webui.host.unet.kinds import acts_on, base_of, locate_in
from controlstack.scripts.webui.host.unet.patched import PatchedControl
from controlstack.scripts.webui.host.unet.tiles import Tiles
from torch import Tensor, nn

SHIFT = 3.0
POINT = Point(Block.LAYER, 1, Part.MLP)


class Flow:
    """Neo's `PredictionDiscreteFlow`: latents as they are, sigmas in 0..1 as times, and a schedule that is shifted."""

    @staticmethod
    def timestep(sigma: Tensor) -> Tensor:
        return sigma

    @staticmethod
    def calculate_input(sigma: Tensor, x: Tensor) -> Tensor:
        return x

    @staticmethod
    def percent_to_sigma(percent: float) -> float:
        if not 0 < percent < 1:
            return float(percent <= 0)
        return SHIFT * (1 - percent) / (1 + (SHIFT - 1) * (1 - percent))


class Said:
    """Units that add 1 to what the second block's MLP is given, or to what comes of an evaluation."""

    size = (8, 8)

    def __init__(self, *, finishes: bool = False) -> None:
        self.calls: list[Call] = []
        self.finishes = finishes
        self.units: list[Any] = []
        self.shape: tuple[int, ...] = ()

    def effects(self, call: Call) -> Effects:
        self.calls.append(call)

        def shift(h: Tensor) -> Tensor:
            self.shape = tuple(h.shape)
            return torch.ones_like(h)

        return Effects(shifts={POINT: shift})

    def restore_clean(self, clean: Tensor) -> Tensor:
        assert clean.ndim == 4
        return clean + 1


class Silent(Said):
    def effects(self, call: Call) -> Effects:
        return Effects()


@pytest.fixture
def network() -> anima_world.Transformer:
    return anima_world.transformer()


class World:
    """A control on a network, and Neo around it."""

    def __init__(self, network: nn.Module, said: Any) -> None:
        self.network, self.said = network, said
        patcher = SimpleNamespace(model=SimpleNamespace(diffusion_model=network, predictor=Flow))
        self.control = PatchedControl(said, patcher, 0, Tiles(lambda: (8, 8)))

    def evaluate(self, kinds: list[int], sigma: float = 0.75, *, frames: int = 1, fails: bool = False) -> Tensor:
        generator = torch.Generator().manual_seed(len(kinds))
        rows = 2 * len(kinds)
        x = torch.randn(rows, 4, frames, 8, 8, generator=generator)
        context = torch.randn(rows, 5, 12, generator=generator)
        options = {"cond_or_uncond": kinds}
        self.control.transformer_options = options
        sigmas = torch.full((rows,), sigma)
        given = {"c_crossattn": context, "transformer_options": options}
        given["control"] = self.control.get_control(x, sigmas, dict(given), len(kinds))

        def apply(x: Tensor, sigma: Tensor, *, c_crossattn: Tensor, **_: Any) -> Tensor:
            if fails:
                raise RuntimeError("somebody else's")
            with torch.no_grad():
                return self.network(x, sigma, c_crossattn)

        if self.control.wraps:
            return self.control.around(None, apply, {"input": x, "timestep": sigmas, "c": given})
        return apply(x, sigmas, **given)

    def plain(self, kinds: list[int]) -> Tensor:
        return World(self.network, Silent()).evaluate(kinds)

    @property
    def hooks(self) -> int:
        return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in self.network.modules())


@pytest.mark.parametrize("kinds", [[0, 1], [1, 0], [0], [1]])
def test_shifts_act_by_hooks_that_are_gone_after_the_evaluation(network: nn.Module, kinds: list[int]) -> None:
    said = Said()
    world = World(network, said)
    plain = world.plain(kinds)
    drawn = world.evaluate(kinds)
    layer: Any = locate_in(network)(POINT).module
    with Patches() as patches:
        patches.hook(layer.register_forward_pre_hook(lambda _, args: (args[0] + 1,)))
        wanted = world.plain(kinds)
    assert torch.equal(drawn, wanted) and not torch.equal(drawn, plain)
    assert said.shape == (2 * len(kinds), 16, 32)  # tokens of a map of 4 x 4
    assert said.calls[0].parts == tuple(kind == 0 for kind in kinds)
    world.control.detach()
    assert world.hooks == 0
    assert torch.equal(world.plain(kinds), plain)


def test_a_call_has_flat_latents_and_the_progress_of_the_flow(network: nn.Module) -> None:
    said = Said()
    World(network, said).evaluate([0, 1], Flow.percent_to_sigma(0.25))
    call = said.calls[0]
    assert call.x.shape == (4, 4, 8, 8) and call.onto is None
    assert call.noise() == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize("percent", [0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_progress_is_what_the_program_means_by_it(percent: float) -> None:
    """A sigma in fp32 gives back the very number that a person typed, so both ends of a range belong to it."""
    sigma = torch.tensor([Flow.percent_to_sigma(percent)])
    assert noise_at_sigma(sigma, Flow.percent_to_sigma) == percent


def test_after_an_error_and_an_interrupt_nothing_is_left(network: nn.Module) -> None:
    world = World(network, Said())
    plain = world.plain([0])
    with pytest.raises(RuntimeError, match="somebody else's"):
        world.evaluate([0], fails=True)
    other = World(anima_world.transformer(), Said())
    assert torch.equal(world.evaluate([0]), other.evaluate([0]))  # the hooks of the one that failed act no second time
    with pytest.raises(RuntimeError, match="somebody else's"):
        world.evaluate([0], fails=True)
    world.control.detach()
    assert world.hooks == 0 and torch.equal(world.plain([0]), plain)


def test_answers_are_finished_as_pictures(network: nn.Module) -> None:
    said = Said(finishes=True)
    drawn, other = World(network, said).evaluate([0]), World(network, Said()).evaluate([0])
    assert torch.equal(drawn, other + 1)


def test_films_are_refused(network: nn.Module) -> None:
    with pytest.raises(HostError, match="draws 2 frames, and units act on pictures"):
        World(network, Said()).evaluate([0], frames=2)


def test_a_network_is_told_by_its_parts(network: nn.Module) -> None:
    assert acts_on(network) and base_of(network) == Base(transformer=Transformer(32, 2))
    other = anima_world.transformer(blocks=1)
    other.blocks[0].mlp.layer1 = nn.Identity()
    del other.blocks[0].self_attn.q_proj
    assert not acts_on(other) and not acts_on(nn.Linear(2, 2))
