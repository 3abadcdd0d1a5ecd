"""Something fails at a random place of a controlled run: afterwards the base draws the same bits as before."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import controlstack as cs
import numpy as np
import pytest
import torch
from controlstack.models.naming import to_ldm
from controlstack.pipelines.attached import base_of
from controlstack.pipelines.tiny_world import BASE, CONTROLS, IMAGES
from families import make_families
from torch import Tensor, nn

pytestmark = pytest.mark.campaign

SMALL: dict[str, Any] = {"steps": 3, "width": 64, "height": 64, "seed": 1}
PROMPTS = ("a red star", "a blue circle on grey", "two squares")
SCHEDULERS = ("ddim", "unipc", "euler")


class OddError(Exception):
    """What no code of ours knows."""


def _raise(kind: type[BaseException]) -> Callable[[Any], Any]:
    def act(_: Any) -> Any:
        raise kind("injected")

    return act


def _spoil(output: Any) -> Any:
    """Return the output with a value that is not a number."""
    return output.clone().fill_(float("nan")) if isinstance(output, Tensor) and output.is_floating_point() else output


ACTS: dict[str, Callable[[Any], Any]] = {
    "an unknown error": _raise(OddError),
    "out of memory": _raise(torch.OutOfMemoryError),
    "an error of torch": _raise(RuntimeError),
    "Ctrl-C": _raise(KeyboardInterrupt),
    "not a number": _spoil,
}


@contextmanager
def fault(act: Callable[[Any], Any], call: int) -> Iterator[list[int]]:
    """Act on the output of the n-th layer that computes; yields the count of layers so far."""
    count = [0]

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        count[0] += 1
        return act(output) if count[0] == call else None

    handle = nn.modules.module.register_module_forward_hook(hook)
    try:
        yield count
    finally:
        handle.remove()


@pytest.fixture(scope="module")
def base() -> Any:
    return cs.load_base(BASE, device="cpu")


@pytest.fixture(scope="module")
def models(base: Any) -> list[Any]:
    """The trained controls of the tiny world, and one of each way in which a control may act."""
    files = [cs.load_control_model(CONTROLS / f"{name}.safetensors") for name in ("canny", "depth", "color")]
    weights = {name: tuple(value.shape) for name, value in to_ldm(dict(base.pipeline.unet.named_parameters())).items()}
    attends = min(int(name.split(".")[1]) for name in weights if name.startswith("input_blocks") and ".attn1." in name)
    return [*files, *make_families(base_of(base.pipeline.unet), weights, attends).values()]


def hooks_of(network: nn.Module) -> int:
    """Count all hooks in a network."""
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in network.modules())


def drawn(base: Any, units: list[Any], **more: Any) -> Any:
    given = {**SMALL, **more}
    prompt = given.pop("prompt", PROMPTS[0])
    return np.asarray(cs.generate(base, prompt, units=units, **given).images[0])


def random_units(chance: random.Random, models: list[Any]) -> list[Any]:
    """One to three units with other weights, ranges, modes and masks."""
    mask = np.zeros((64, 64), np.uint8)
    mask[: chance.choice((20, 40))] = 255
    return [
        cs.unit(
            IMAGES / f"scene-{chance.randint(1, 3)}.png",
            chance.choice(models),
            preprocessor=chance.choice(("canny", "none", "color")),
            weight=chance.choice((0.5, 1.0, 1.5)),
            end=chance.choice((0.7, 1.0)),
            mode=chance.choice(("balanced", "control")),
            mask=chance.choice((None, mask)),
            size=(64, 64),
        )
        for _ in range(chance.randint(1, 3))
    ]


@pytest.mark.tries(6, 300)
def test_a_fault_anywhere_leaves_the_base_as_it_was(base: Any, models: list[Any], times: int) -> None:
    weights = {name: value.clone() for name, value in base.pipeline.unet.state_dict().items()}
    plain, hooks = drawn(base, []), hooks_of(base.pipeline.unet)
    failed = 0
    for trial in range(times):
        chance = random.Random(trial)
        units = random_units(chance, models)
        more = {"prompt": chance.choice(PROMPTS), "scheduler": chance.choice(SCHEDULERS)}
        with fault(ACTS["not a number"], 0) as layers:
            whole = drawn(base, units, **more)
        name, call = chance.choice(list(ACTS)), chance.randint(1, layers[0])
        try:
            with fault(ACTS[name], call):
                drawn(base, units, **more)
        except (OddError, RuntimeError, KeyboardInterrupt, cs.ControlError):
            failed += 1
        said = f"trial {trial}: {name} in layer {call}"
        assert hooks_of(base.pipeline.unet) == hooks, said
        assert np.array_equal(drawn(base, []), plain), said
        assert np.array_equal(drawn(base, units, **more), whole), said
    assert failed > times // 2  # a spoilt value may be masked out, or lie in a part that nobody reads
    assert all(torch.equal(value, weights[name]) for name, value in base.pipeline.unet.state_dict().items())
