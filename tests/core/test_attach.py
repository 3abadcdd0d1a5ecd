"""What is injected is ejected, whatever happens in between."""

from __future__ import annotations

import pytest
import torch
from controlstack.core.network.attach import Patches
from torch import nn


def _state(module: nn.Linear) -> tuple[object, ...]:
    hooks = (len(module._forward_hooks), len(module._forward_pre_hooks))
    return (*hooks, sorted(vars(module)), module.weight.tolist(), module.forward.__func__)  # type: ignore[attr-defined]


@pytest.mark.parametrize("failure", [None, RuntimeError, KeyboardInterrupt])
def test_the_network_is_exactly_what_it_was(failure: type[BaseException] | None) -> None:
    module = nn.Linear(3, 3)
    before, x = _state(module), torch.randn(2, 3)
    plain = module(x)

    def use() -> None:
        with Patches() as patches:
            patches.hook(module.register_forward_pre_hook(lambda _, args: (args[0] * 2,)))
            assert module(x).equal(torch.nn.functional.linear(x * 2, module.weight, module.bias))
            patches.hook(module.register_forward_hook(lambda *_: torch.zeros(1)))
            patches.add_to_weight(module.weight, torch.full((3, 3), 0.1))
            assert module(x).equal(torch.zeros(1))
            if failure:
                raise failure

    if failure:
        with pytest.raises(failure):
            use()
    else:
        use()
    assert _state(module) == before
    assert module(x).equal(plain)


def test_patches_nest_and_eject_newest_first() -> None:
    module = nn.Linear(2, 2).requires_grad_(False)
    before, steps = module.weight.clone(), (torch.full((2, 2), 1e8), torch.full((2, 2), 0.1))
    with Patches() as patches:
        for delta in steps:
            patches.add_to_weight(module.weight, delta)
        assert module.weight.equal(before + steps[0] + steps[1])
    assert module.weight.equal(before)  # subtracting again would have rounded


def test_ejecting_twice_does_nothing() -> None:
    patches, module = Patches(), nn.Linear(2, 2).requires_grad_(False)
    patches.add_to_weight(module.weight, torch.ones(2, 2))
    patches.eject()
    module.weight.fill_(5.0)
    patches.eject()
    assert (module.weight == 5.0).all()
