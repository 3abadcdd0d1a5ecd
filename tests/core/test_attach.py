"""What is injected is ejected, whatever happens in between."""

from __future__ import annotations

import pytest
import torch
from controlstack.core.attach import Patches
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
            patches.attribute(module, "forward", lambda y: y * 2)
            assert module(x).equal(x * 2)
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
    module = nn.Linear(2, 2)
    with Patches() as patches:
        for factor in (2.0, 3.0):
            patches.attribute(module, "scale", factor)
        assert module.scale == 3.0
    assert not hasattr(module, "scale")


def test_ejecting_twice_does_nothing() -> None:
    patches, module = Patches(), nn.Linear(2, 2)
    patches.attribute(module, "scale", 1.0)
    patches.eject()
    module.scale = 5.0  # type: ignore[assignment]
    patches.eject()
    assert module.scale == 5.0
