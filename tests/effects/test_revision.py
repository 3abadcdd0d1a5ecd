"""Revision against its formula, written here on diffusers' U-Net for SDXL."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from controlstack.core.control import ControlModel
from controlstack.core.errors import HintError, IncompatibleModelError, UnitError
from controlstack.core.network.base import Base
from controlstack.core.network.effects import Effects, Vector
from controlstack.core.network.points import MIDDLE
from controlstack.core.schedule import Schedule, progress_at
from controlstack.core.stack import ControlStack
from controlstack.core.step import Step
from controlstack.core.unit import ControlMode, ControlUnit
from controlstack.models.fileless.making import make_fileless
from controlstack.models.fileless.revision import RevisionModel
from controlstack.models.kinds.revisions import IGNORE_PROMPT, REVISION, REVISIONS
from controlstack.models.naming import to_ldm
from controlstack.pipelines.attached import arguments, vector_condition
from diffusers import UNet2DConditionModel
from families import random_layer
from tiny_networks import CONFIGS, UP
from torch import Tensor

SIDE, POOLED = 16, 32
COND = (False, False, True, True)
SHOWN = torch.tensor([[0.0], [0.0], [1.0], [1.0]])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def unet() -> Any:
    return random_layer(UNet2DConditionModel(sample_size=SIDE, up_block_types=UP["SDXL"], **CONFIGS["SDXL"]), 0)


def given() -> dict[str, Any]:
    added = {"text_embeds": normal(4, POOLED, seed=1), "time_ids": normal(4, 6, seed=2)}
    return {"encoder_hidden_states": normal(4, 8, 64, seed=3), "added_cond_kwargs": added}


def step_of(unet: Any, at: int = 0) -> Step:
    kwargs = given()
    return Step(
        x=normal(4, 4, SIDE, SIDE), timestep=torch.full((4,), 321), context=kwargs["encoder_hidden_states"], cond=COND,
        progress=progress_at(at, 4), y=vector_condition(unet, kwargs["added_cond_kwargs"]),
    )  # fmt: skip


def unit(unet: Any, seed: int = 7, kind: str = REVISION, noise: float = 0.0, **said: Any) -> ControlUnit:
    model = make_fileless(kind, to_ldm(unet.state_dict())).bind({"noise_augmentation": noise})
    return ControlUnit(model=model, hint=normal(1, 1, POOLED, seed=seed), **said)


def drawn(unet: Any, units: list[ControlUnit], at: int = 0) -> Tensor:
    step, kwargs = step_of(unet, at), given()
    with torch.no_grad():
        kwargs |= arguments(unet, ControlStack(units)(step), kwargs)
        return unet(step.x, step.timestep, **kwargs).sample


def by_hand(unet: Any, pooled: Tensor, silent: Tensor | None = None) -> Tensor:
    kwargs = given()
    kwargs["added_cond_kwargs"]["text_embeds"] = pooled
    if silent is not None:
        kwargs["encoder_hidden_states"] = kwargs["encoder_hidden_states"] * (1 - silent[:, :, None])
    with torch.no_grad():
        return unet(normal(4, 4, SIDE, SIDE), torch.full((4,), 321), **kwargs).sample


def noisy(embedding: Tensor, amount: float) -> Tensor:
    """The formula of sd-webui-controlnet's `q_sample`, with our noise."""
    if not amount:
        return embedding
    kept = 1.0
    for step in range(min(int(amount * 1000), 999) + 1):
        kept *= 1 - (0.0001**0.5 + (0.02**0.5 - 0.0001**0.5) * step / 999) ** 2
    noise = torch.randn(POOLED, generator=torch.Generator().manual_seed(0))
    return kept**0.5 * embedding + (1 - kept) ** 0.5 * noise


def equal(found: Tensor, wanted: Tensor) -> bool:
    return float((found - wanted).norm() / wanted.norm()) <= 1e-5


@pytest.mark.parametrize("noise", [0.0, 0.004, 0.5, 1.0])
@pytest.mark.parametrize("kind", REVISIONS)
def test_it_equals_the_formula(unet: Any, kind: str, noise: float) -> None:
    pooled = 0.7 * noisy(normal(1, POOLED, seed=7), noise) * SHOWN
    silent = torch.ones(4, 1) if kind == IGNORE_PROMPT else None
    found = drawn(unet, [unit(unet, kind=kind, noise=noise, weight=0.7)])
    assert equal(found, by_hand(unet, pooled, silent))
    assert not equal(found, drawn(unet, []))


def test_units_are_summed_in_place_of_the_pooled_prompt(unet: Any) -> None:
    first, second = normal(1, POOLED, seed=7), normal(1, POOLED, seed=8)
    units = [unit(unet, weight=0.7), unit(unet, 8, noise=0.3, weight=-0.4)]
    assert equal(drawn(unet, units), by_hand(unet, (0.7 * first - 0.4 * noisy(second, 0.3)) * SHOWN))


def test_one_picture_for_each_of_a_batch(unet: Any) -> None:
    pictures = normal(2, 1, POOLED, seed=9)
    units = [replace(unit(unet), hint=pictures)]
    assert equal(drawn(unet, units), by_hand(unet, torch.cat([pictures[:, 0]] * 2) * SHOWN))


def test_range_and_curve_hold(unet: Any) -> None:
    late = unit(unet, schedule=Schedule(start=0.5))
    assert torch.equal(drawn(unet, [late]), drawn(unet, []))
    assert equal(drawn(unet, [late], at=2), by_hand(unet, normal(1, POOLED, seed=7) * SHOWN))
    assert torch.equal(drawn(unet, [unit(unet, weight=0.0)]), drawn(unet, []))


@pytest.mark.parametrize("said", [{"mode": ControlMode.CONTROL}, {"uncond_weight": 0.0}])
def test_rows_on_which_it_does_not_act_keep_their_prompt(unet: Any, said: dict[str, Any]) -> None:
    kept = given()["added_cond_kwargs"]["text_embeds"] * (1 - SHOWN) + normal(1, POOLED, seed=7) * SHOWN
    assert equal(drawn(unet, [unit(unet, kind=IGNORE_PROMPT, **said)]), by_hand(unet, kept, SHOWN))


def test_other_networks_read_the_conditions_that_it_leaves(unet: Any) -> None:
    class Reader(ControlModel):
        """Adds nothing, and keeps what it reads."""

        name, network, base, points, soft_weights = "reader", None, Base(), (MIDDLE,), (1.0,)

        def __init__(self) -> None:
            self.seen: list[Step] = []

        def __call__(self, step: Step, *_: Any) -> Any:
            self.seen.append(step)
            yield from ()

    reader = Reader()
    step = step_of(unet)
    units = [ControlUnit(model=reader, hint=torch.zeros(1, 3, 8, 8)), unit(unet, kind=IGNORE_PROMPT)]
    stack = ControlStack(units)
    stack(step)
    stack(step_of(unet, 1))
    first, second = reader.seen
    assert not first.context.any() and torch.equal(first.y[:, :POOLED], normal(1, POOLED, seed=7) * SHOWN)
    assert step.y is not None and torch.equal(first.y[:, POOLED:], step.y[:, POOLED:])
    assert first.token is second.token  # so the projections of a silent prompt are computed once


def test_what_others_have_put_there_is_summed_too(unet: Any) -> None:
    step, other = step_of(unet), normal(4, POOLED, seed=5)
    found = ControlStack([unit(unet)])(step, Effects(vector=Vector(other, (2,), (2,)))).vector
    assert found is not None and found.rows == (0, 1, 2, 3) and found.silent == (2,)
    assert torch.allclose(found.values, other + normal(1, POOLED, seed=7) * SHOWN)


def test_it_is_refused_where_it_cannot_act(unet: Any) -> None:
    with pytest.raises(IncompatibleModelError, match=r"vector condition of SDXL.*load a base model of the SDXL kind"):
        RevisionModel(REVISION, 0)
    with pytest.raises(IncompatibleModelError, match="vector condition of SDXL"):
        ControlStack([unit(unet)])(replace(step_of(unet), y=None))
    with pytest.raises(HintError, match="acts on the prompt, which has no place in the picture: leave its mask out"):
        unit(unet, mask=torch.ones(1, 1, 8, 8))
    with pytest.raises(IncompatibleModelError, match=r"vector condition of SDXL.*load a base model of the SDXL kind"):
        RevisionModel(REVISION, 2816).check_base(Base(context=64, label=0))
    with pytest.raises(UnitError, match="has 1 blocks, got 12 block weights"):
        unit(unet, block_weights=(1.0,) * 12)
    with pytest.raises(HintError, match=r"reads image embedding of CLIP ViT-bigG/14 .*1280.*choose its own encoder"):
        ControlUnit(model=RevisionModel(REVISION, 2816), hint=normal(1, 1, 1024))
    with pytest.raises(HintError, match="puts 99 values in place of the pooled prompt"):
        drawn(unet, [replace(unit(unet), hint=normal(1, 1, 99))])
    with pytest.raises(UnitError, match="noise_augmentation is '2', expected 0 to 1"):
        RevisionModel(REVISION, 2816).bind({"noise_augmentation": 2})
