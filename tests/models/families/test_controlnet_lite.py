"""ControlNet-Lite against the formulas written down here, by the names of the public re-implementation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from controlstack.core.errors import ModelError
from controlstack.core.network.points import MIDDLE, skip, stream
from controlstack.core.schedule import progress_at
from controlstack.core.step import Step
from controlstack.models.families.controlnet_lite import LiteFamily
from controlstack.models.files.loading import read_header
from controlstack.models.registry import identify, inspect, load_control_model
from safetensors.torch import save_file
from torch import Tensor

STEM = (16, 16, 32, 32, 96, 96, 256)
WIDTHS = (32, 32, 32, 32, 64, 64)  # two blocks, a halving, two blocks
HALVINGS = {3}
GROUPS = 8
STRIDES = (1, 1, 2, 1, 2, 1, 2, 1)


def shapes(widths: tuple[int, ...] = WIDTHS, halvings: set[int] = HALVINGS) -> dict[str, tuple[int, ...]]:
    """The names of the original code, written down by hand."""
    found: dict[str, tuple[int, ...]] = {"time_embed.0.weight": (4 * widths[0], widths[0])}
    hint = (3, *STEM, widths[0])
    for i in range(8):
        found |= _layer(f"input_hint_block.{2 * i}", hint[i + 1], hint[i], 3, 3)
    found |= _layer("input_blocks.0.0", widths[0], 4, 3, 3)
    for i in range(1, len(widths)):
        if i in halvings:
            found |= _layer(f"input_blocks.{i}.0.op", widths[i], widths[i], 3, 3)
        else:
            found |= _layer(f"input_blocks.{i}.0", widths[i - 1])
            found |= _layer(f"input_blocks.{i}.2", widths[i], widths[i - 1], 3, 3)
    found |= _layer("middle_block.0", widths[-1]) | _layer("middle_block.2", widths[-1], widths[-1], 3, 3)
    for i, width in enumerate(widths):
        found |= _layer(f"zero_convs.{i}.0", width, width, 1, 1)
    return found | _layer("middle_block_out.0", widths[-1], widths[-1], 1, 1)


def _layer(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


@pytest.fixture
def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes().items()}


def expected(state: dict[str, Tensor], x: Tensor, hint: Tensor) -> list[Tensor]:
    """The residuals, by the formula in the family's docstring."""
    for i, stride in enumerate(STRIDES):
        hint = _conv(state, f"input_hint_block.{2 * i}", hint, stride)
        hint = F.silu(hint) if i < 7 else hint
    h, found = _conv(state, "input_blocks.0.0", x) + hint, []
    for i in range(len(WIDTHS)):
        if i in HALVINGS:
            h = _conv(state, f"input_blocks.{i}.0.op", h, 2)
        elif i:
            h = _layered(state, f"input_blocks.{i}", h)
        found.append(_conv(state, f"zero_convs.{i}.0", h))
    return [*found, _conv(state, "middle_block_out.0", _layered(state, "middle_block", h))]


def _layered(state: dict[str, Tensor], name: str, h: Tensor) -> Tensor:
    norm = F.group_norm(h, GROUPS, state[f"{name}.0.weight"], state[f"{name}.0.bias"], 1e-5)
    return _conv(state, f"{name}.2", F.silu(norm))


def _conv(state: dict[str, Tensor], name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state[f"{name}.bias"], stride=stride, padding=weight.shape[-1] // 2)


def _step(x: Tensor) -> Step:
    rows = len(x)
    time, context = torch.full((rows,), 500), torch.zeros(rows, 4, 8)
    return Step(x=x, timestep=time, context=context, cond=(True,) * rows, progress=progress_at(0, 1))


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "control_model."])
@pytest.mark.parametrize(("said", "place"), [("skips", skip), ("stream", stream), (None, stream)])
def test_residuals_follow_the_formula(
    state: dict[str, Tensor], tmp_path: Path, prefix: str, said: str | None, place: object
) -> None:
    path = tmp_path / "lite.safetensors"
    about = {"controlstack.norm_groups": str(GROUPS), **({"controlstack.residuals": said} if said else {})}
    save_file({prefix + name: each for name, each in state.items()}, path, about)
    assert isinstance(identify(read_header(path)), LiteFamily)
    model = load_control_model(path)
    x, hint = torch.randn(2, 4, 8, 8), torch.rand(1, 3, 64, 64)
    found = dict(model(_step(x), model.prepare(hint), (), model.points))
    assert list(found) == [*(place(i) for i in range(len(WIDTHS))), MIDDLE]  # type: ignore[operator]
    for one, other in zip(found.values(), expected(state, x, hint), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@torch.no_grad()
def test_blocks_below_the_last_wanted_point_do_not_run(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "lite.safetensors"
    save_file(state, path, {"controlstack.norm_groups": str(GROUPS), "controlstack.residuals": "skips"})
    model = load_control_model(path)
    ran: list[int] = []
    for i, block in enumerate(model.network.input_blocks):
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
    found = dict(model(_step(torch.randn(1, 4, 8, 8)), model.prepare(torch.rand(1, 3, 64, 64)), (), (skip(2),)))
    assert list(found) == [skip(2)]
    assert ran == [0, 1, 2]


def test_files_of_full_size_are_told_and_described(tmp_path: Path) -> None:
    widths = (320,) * 4 + (640,) * 3 + (1280,) * 5
    file = tmp_path / "lite.safetensors"
    save_file(
        {name: torch.zeros(shape, dtype=torch.float16) for name, shape in shapes(widths, {3, 6, 9}).items()}, file
    )
    told = inspect(file)
    assert (told.family, told.base) == ("ControlNet-Lite", "SD 1.x or 2.x")
    assert told.missing == told.misshapen == ()
    assert load_control_model(file).base.blocks == widths


def test_a_damaged_file_is_one_sentence(state: dict[str, Tensor], tmp_path: Path) -> None:
    del state["input_blocks.2.2.weight"]
    save_file(state, tmp_path / "lite.safetensors", {"controlstack.norm_groups": "8"})
    with pytest.raises(ModelError):
        load_control_model(tmp_path / "lite.safetensors")
