"""The worked examples of CONTRIBUTING.md run as they are printed."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from controlstack.core.errors import DamagedModelError, IncompatibleModelError, PreprocessorError
from controlstack.core.network.base import Base, check_fits
from controlstack.core.schedule import progress_at
from controlstack.core.stack import ControlStack
from controlstack.core.step import Step
from controlstack.core.unit import ControlUnit
from controlstack.models import registry as models
from controlstack.models.layers import Kit
from controlstack.models.settings import Settings
from controlstack.preprocessors import registry as preprocessors
from safetensors.torch import save_file

PAGE = Path(__file__).resolve().parent.parent / "CONTRIBUTING.md"
EXAMPLES = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S))


def load(path: str) -> ModuleType:
    """The example as a module at its place in the package, so that its relative imports resolve."""
    module = ModuleType("controlstack." + path.removesuffix(".py").replace("/", "."))
    module.__package__ = module.__name__.rpartition(".")[0]
    exec(compile(EXAMPLES[path], path, "exec"), vars(module))
    return module


def test_the_preprocessor_works() -> None:
    posterize = load("preprocessors/pictures/tones.py").POSTERIZE
    image = np.arange(256, dtype=np.uint8).reshape(1, 256, 1).repeat(3, axis=2)
    assert np.unique(posterize(image)).tolist() == [0, 85, 170, 255]
    assert np.unique(posterize(image, levels=2)).tolist() == [0, 255]


def test_the_preprocessor_is_one_of_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    posterize = load("preprocessors/pictures/tones.py").POSTERIZE
    assert posterize.id not in {each.id for each in preprocessors.REGISTRY}
    monkeypatch.setattr(preprocessors, "REGISTRY", (*preprocessors.REGISTRY, posterize))
    assert preprocessors.find("posterize") is posterize
    with pytest.raises(PreprocessorError, match="64"):
        posterize(np.zeros((8, 8, 3), np.uint8), levels=65)


@pytest.fixture
def tint(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example family, listed by the registry."""
    module = load("models/families/tint.py")
    monkeypatch.setattr(models, "REGISTRY", (*models.REGISTRY, module.FAMILY))
    return module


def test_a_file_of_the_family_is_recognised_described_and_loaded(tint: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "blue.safetensors"
    weights = {"tint.conv.weight": torch.randn(6, 3, 8, 8), "tint.conv.bias": torch.randn(6)}
    save_file(weights, path)
    told = models.inspect(path)
    assert (told.family, told.missing, told.misshapen) == ("Tint", (), ())
    model = models.load_control_model(path)
    assert model.name == "blue"
    hint = torch.rand(1, 3, 16, 16)
    expected = torch.nn.functional.conv2d(hint, weights["tint.conv.weight"], weights["tint.conv.bias"], stride=8)
    assert model.prepare(hint)[0].equal(expected)
    with pytest.raises(IncompatibleModelError, match="blue"):
        check_fits(model.name, model.base, Base(blocks=(320, 320)))


def test_a_damaged_file_of_the_family_is_refused(tint: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "blue.safetensors"
    save_file({"tint.conv.weight": torch.randn(6, 3, 8, 8)}, path)
    assert models.inspect(path).missing == ("conv.bias",)
    with pytest.raises(DamagedModelError, match=r"conv\.bias"):
        models.load_control_model(path)


def test_the_family_takes_no_other_file_for_its_own(tint: ModuleType) -> None:
    assert not tint.FAMILY.detect({"conv.weight": (6, 3, 8, 8)})
    assert not tint.FAMILY.detect({"tint.conv.weight": (6, 3)})


def test_the_family_is_small() -> None:
    assert len(EXAMPLES["models/families/tint.py"].splitlines()) <= 40


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_the_family_works(weight: float) -> None:
    tint = load("models/families/tint.py")
    network = tint.Tint(6, Kit())
    hint = torch.rand(1, 3, 32, 32)
    step = Step(
        x=torch.rand(2, 4, 4, 4),
        timestep=torch.tensor([5, 5]),
        context=torch.rand(2, 3, 8),
        cond=(False, True),
        progress=progress_at(0, 10),
    )
    residuals = ControlStack(
        [ControlUnit(model=tint.FAMILY.wrap(network, "tint", Settings(), None), hint=hint, weight=weight)]
    )(step)
    assert residuals.input[0] is not None
    torch.testing.assert_close(residuals.input[0], weight * network.conv(hint).detach().expand(2, -1, -1, -1))
    assert not (residuals.middle or residuals.output)
