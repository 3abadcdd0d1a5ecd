"""Patches of ComfyUI on a model, weighed: against the same patches with a strength of their own."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from controlstack.core.errors import HostError, UnitError
from controlstack.core.schedule import RangeBasis, Schedule
from controlstack.nodes.host.foreign.model_patches import weigh_patches
from torch import Tensor, nn

ROWS, HEIGHT, WIDTH, CHANNELS, TEXT = 2, 3, 4, 6, 5
SIGMAS = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0])
QKV = ("q", "k", "v")


class Lllite:
    """A control that reads its hint before the first block and then adds to what attention and MLP receive.

    It acts where it has read its hint, as the host's LLLite for Anima does.
    """

    def __init__(self, strength: float) -> None:
        self.strength, self.hints = strength, list[bool]()
        torch.manual_seed(0)
        self.layers = nn.ModuleDict({name: nn.Linear(CHANNELS, CHANNELS) for name in (*QKV, "cross", "mlp")})

    def _on(self, name: str, x: Tensor, options: dict[str, Any]) -> Tensor:
        if self not in options["model_patch_data"]:
            return x
        with torch.no_grad():
            return x + torch.tanh(self.layers[name](x)) * self.strength

    def begin(self, given: dict[str, Any]) -> dict[str, Any]:
        given["transformer_options"]["model_patch_data"][self] = True
        return given

    def own(self, q: Tensor, k: Tensor, v: Tensor, pe: Any = None, attn_mask: Any = None, *, extra_options: Any) -> Any:
        changed = {name: self._on(name, each, extra_options) for name, each in zip(QKV, (q, k, v), strict=True)}
        return {**changed, "pe": pe, "attn_mask": attn_mask}

    def cross(
        self, q: Tensor, k: Tensor, v: Tensor, pe: Any = None, attn_mask: Any = None, *, extra_options: Any
    ) -> Any:
        return {"q": self._on("cross", q, extra_options), "k": k, "v": v, "pe": pe, "attn_mask": attn_mask}

    def mlp(self, given: dict[str, Any]) -> dict[str, Any]:
        given["x"] = self._on("mlp", given["x"], given["transformer_options"])
        return given

    @property
    def patches(self) -> dict[str, list[Any]]:
        return {
            "post_input": [self.begin], "attn1_patch": [self.own], "attn2_patch": [self.cross], "mlp_patch": [self.mlp],
        }  # fmt: skip


class Patcher:
    """As much of the host's model patcher as a node sees."""

    def __init__(self, patches: dict[str, list[Any]]) -> None:
        self.model_options: dict[str, Any] = {"transformer_options": {"patches": patches}}
        self.model = SimpleNamespace(model_sampling=SimpleNamespace(percent_to_sigma=lambda percent: 1.0 - percent))

    def clone(self) -> Patcher:
        return Patcher(self.model_options["transformer_options"]["patches"])


def evaluate(patcher: Patcher, step: int = 0) -> list[Tensor]:
    """What attention and MLP of a block receive, as the host's transformer calls patches."""
    patches = patcher.model_options["transformer_options"]["patches"]
    options: dict[str, Any] = {"sigmas": SIGMAS[step : step + 1], "sample_sigmas": SIGMAS, "model_patch_data": {}}
    generator = torch.Generator().manual_seed(1)
    grid = torch.randn(ROWS, 1, HEIGHT, WIDTH, CHANNELS, generator=generator)
    text = torch.randn(ROWS, TEXT, CHANNELS, generator=generator)
    latents = torch.zeros(ROWS, 16, 1, 2 * HEIGHT, 2 * WIDTH)
    for each in patches.get("post_input", ()):
        each({"img": grid, "x": latents, "transformer_options": options})
    found = []
    for place, (k, v) in {"attn1_patch": (grid.flatten(1, 3),) * 2, "attn2_patch": (text, text)}.items():
        given = dict(zip(QKV, (grid.flatten(1, 3), k, v), strict=True))
        for each in patches.get(place, ()):
            answer = each(**given, pe=None, attn_mask=None, extra_options=options)
            given = {name: answer.get(name, value) for name, value in given.items()}
        found += given.values()
    args = {"x": grid, "transformer_options": options}
    for each in patches.get("mlp_patch", ()):
        args = each(args)
    return [*found, args["x"]]


def weighed(weight: float, mask: Tensor | None = None, **when: Any) -> Patcher:
    schedule = Schedule(**{"start": 0.0, "end": 1.0, "basis": RangeBasis.STEPS, **when})
    return weigh_patches(Patcher({}), Patcher(Lllite(1.0).patches), weight, schedule, mask)


def close(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_a_weight_is_its_strength() -> None:
    plain = evaluate(Patcher({}))
    close(evaluate(weighed(0.4)), evaluate(Patcher(Lllite(0.4).patches)))
    assert all(one.equal(other) for one, other in zip(evaluate(weighed(0.0)), plain, strict=True))
    changed = [not one.equal(other) for one, other in zip(evaluate(weighed(0.4)), plain, strict=True)]
    assert changed == [True, True, True, True, False, False, True]  # the text's keys and values are not the picture's


def test_a_range_says_when() -> None:
    half, plain = weighed(1.0, start=0.5), evaluate(Patcher({}))
    assert all(one.equal(other) for one, other in zip(evaluate(half, 1), plain, strict=True))
    close(evaluate(half, 2), evaluate(Patcher(Lllite(1.0).patches)))


def test_a_mask_says_where() -> None:
    mask = torch.zeros(1, HEIGHT, WIDTH)
    mask[..., :2] = 1.0
    plain, full = evaluate(Patcher({})), evaluate(Patcher(Lllite(1.0).patches))
    for none, some, every in zip(plain, evaluate(weighed(1.0, mask)), full, strict=True):
        if none.equal(every):
            assert some.equal(none)
            continue
        none, some, every = (each.reshape(ROWS, HEIGHT, WIDTH, CHANNELS) for each in (none, some, every))
        torch.testing.assert_close(some[:, :, :2], every[:, :, :2])
        assert some[:, :, 2:].equal(none[:, :, 2:])


def test_what_cannot_be_weighed_is_named() -> None:
    schedule = Schedule(basis=RangeBasis.STEPS)
    with pytest.raises(HostError, match="has no patch that the model lacks"):
        weigh_patches(Patcher({}), Patcher({}), 1.0, schedule, None)
    own = {"attn1_patch": [Lllite(1.0).own]}
    with pytest.raises(UnitError, match=r"\(attn1_patch\) acts where no weight, range or mask can reach it"):
        weigh_patches(Patcher({}), Patcher(own), 1.0, schedule, None)
