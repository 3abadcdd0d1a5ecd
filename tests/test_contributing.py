"""The worked examples of CONTRIBUTING.md run as they are printed."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from controlstack.core.schedule import progress_at
from controlstack.core.stack import ControlStack
from controlstack.core.unit import ControlUnit, Step

PAGE = Path(__file__).resolve().parent.parent / "CONTRIBUTING.md"
EXAMPLES = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S))


def load(path: str) -> ModuleType:
    """The example as a module at its place in the package, so that its relative imports resolve."""
    module = ModuleType("controlstack." + path.removesuffix(".py").replace("/", "."))
    module.__package__ = module.__name__.rpartition(".")[0]
    exec(compile(EXAMPLES[path], path, "exec"), vars(module))
    return module


def test_the_preprocessor_works() -> None:
    posterize = load("preprocessors/tones.py").POSTERIZE
    image = np.arange(256, dtype=np.uint8).reshape(1, 256, 1).repeat(3, axis=2)
    assert np.unique(posterize(image)).tolist() == [0, 85, 170, 255]
    assert np.unique(posterize(image, levels=2)).tolist() == [0, 255]


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_the_family_works(weight: float) -> None:
    tint = load("models/families/tint.py")
    network = tint.Tint.from_shapes({"conv.weight": (6, 3, 8, 8), "conv.bias": (6,)})
    hint = torch.rand(1, 3, 32, 32)
    step = Step(
        x=torch.rand(2, 4, 4, 4),
        timestep=torch.tensor([5, 5]),
        context=torch.rand(2, 3, 8),
        cond=(False, True),
        progress=progress_at(0, 10),
    )
    residuals = ControlStack([ControlUnit(model=tint.TintModel(network, name="tint"), hint=hint, weight=weight)])(step)
    assert residuals.input[0] is not None
    torch.testing.assert_close(residuals.input[0], weight * network.conv(hint).detach().expand(2, -1, -1, -1))
    assert not (residuals.middle or residuals.output)
