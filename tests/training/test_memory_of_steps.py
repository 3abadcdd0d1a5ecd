"""What a step keeps in memory: the plan says it, and gradients by checkpoints keep less."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from controlstack.training.choices import FAMILIES
from controlstack.training.loop import loss_of, train
from controlstack.training.report.plan import activations, memory, plan
from controlstack.training.run import Run
from controlstack.training.settings import Settings
from controlstack.training.start import start
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

BLOCKS = 2  # as in the tiny world: some families count them


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """With larger pictures: what a step keeps of smaller ones is lost beside the weights."""
    return replace(settings, resolution=128)


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointed_gradients_are_the_same_and_keep_less(of_family: Callable[..., Settings], family: str) -> None:
    runs = [start(of_family(family, gradient_checkpointing=on)) for on in (False, True)]
    plain, checkpointed = map(_gradients, runs)
    assert max(float(each.abs().max()) for each in plain.values()) > 1e-4
    assert plain.keys() == checkpointed.keys()
    for name, each in plain.items():
        torch.testing.assert_close(checkpointed[name], each, rtol=1e-4, atol=1e-6)
    kept = [_kept(run) for run in runs]
    assert kept[1] < (0.8 if family == "controlnet" else 1.0) * kept[0]


def _gradients(run: Run) -> dict[str, Tensor]:
    """Gradients of one step, after a change of all weights, since none reach what lies behind zeros."""
    torch.manual_seed(0)
    for _, each in run.plain.trained():
        each.data.add_(torch.randn_like(each), alpha=0.01)
    loss_of(run, run.examples.batch(0, 2, 0)).backward()
    run.plain.release()
    return {name: each.grad for name, each in run.plain.trained() if each.grad is not None}


def _kept(run: Run) -> int:
    """Bytes that one step keeps for its gradients."""
    total, weights = {}, {each.untyped_storage().data_ptr() for each in run.plain.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            total[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = run.examples.batch(0, 2, 0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_of(run, batch)
    run.plain.release()
    del loss
    return sum(total.values())


def test_a_plan_says_what_a_step_keeps(settings: Settings) -> None:
    run = start(settings)
    assert activations(run) == pytest.approx(_kept(run), rel=0.15)
    checkpointed = start(replace(settings, gradient_checkpointing=True))
    assert activations(checkpointed) == pytest.approx(_kept(checkpointed), rel=0.15)
    twice = activations(start(replace(settings, batch=4)))
    assert twice == pytest.approx(2 * activations(run), rel=0.1)
    parts = memory(run)
    trained = sum(each.numel() for _, each in run.plain.trained())
    assert parts["trained weights"] == parts["their gradients"] == 4 * trained
    assert parts["optimiser"] == 8 * trained
    said = "\n".join(plan(run))
    assert "memory at 128x128 and batch 2" in said
    assert all(name in said for name in parts)


class Measured(TorchDispatchMode):
    """Inside, the bytes of all tensors that come to be are counted, and the most there were at once."""

    def __init__(self, known: set[int]) -> None:
        """known: storages that are there already."""
        super().__init__()
        self._known, self._sizes = known, dict[int, int]()
        self._now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        self.most = max(self.most, self._now)
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._known and storage._cdata not in self._sizes:
            self._sizes[storage._cdata] = storage.nbytes()
            self._now += storage.nbytes()
            weakref.finalize(storage, self._freed, storage._cdata)

    def _freed(self, key: int) -> None:
        self._now -= self._sizes.pop(key)


@pytest.mark.parametrize(
    "changes", [{}, {"gradient_checkpointing": True}, {"family": "controlnext"}, {"optimiser": "adafactor"}]
)
def test_a_plan_says_what_a_run_takes(settings: Settings, changes: dict[str, Any]) -> None:
    """All memory of a second step, whose optimiser has its moments; encoders have done their work before."""
    run = start(replace(settings, **changes))
    steps = train(run)
    next(steps)
    for index in range(len(run.examples)):
        run.examples.row(index)
    moments = [each for state in run.optimiser.state.values() for each in state.values() if isinstance(each, Tensor)]
    there = {each.untyped_storage()._cdata: each.untyped_storage().nbytes() for each in run.plain.parameters()}
    there |= {each.untyped_storage()._cdata: each.untyped_storage().nbytes() for each in moments}
    with Measured(set(there)) as measured:
        next(steps)
    said = {name: size for name, size in memory(run).items() if name != "autoencoder and text encoders"}
    assert sum(said.values()) == pytest.approx(sum(there.values()) + measured.most, rel=0.15)
