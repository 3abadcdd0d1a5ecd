"""Fooocus's inpainting against its formulas, written once more: the head's convolution, and differences in 8 bits."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from shutil import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from adapters import lent, unet_xl
from controlstack.core.control import ControlModel
from controlstack.core.errors import DamagedModelError, IncompatibleModelError, UnsupportedModelError
from controlstack.core.host import PlainHost
from controlstack.core.network.attach import Patches, attach, change_weights
from controlstack.core.stack import ControlStack
from controlstack.core.unit import ControlUnit
from controlstack.models.naming import to_ldm
from controlstack.models.registry import REGISTRY, inspect, load_control_model
from controlstack.pipelines.attached import check_units, locate_in
from oracle import PICTURES, TOLERANCE, assert_close, relative_error, step_of
from sparse_files import write_sparse
from torch import Tensor

WIDTH, SIDE = 32, 16


class Encoding(PlainHost):
    """An autoencoder that can be told by hand: the mean of 8 x 8 pixels, and three multiples of it."""

    def encode(self, picture: Tensor) -> Tensor:
        return latents_of(picture)


def latents_of(picture: Tensor) -> Tensor:
    small = F.avg_pool2d(picture, 8).mean(dim=1, keepdim=True)
    return torch.cat([small, 2 * small, -small, small - 1], dim=1)


def files(folder: Path, unet: Any) -> tuple[Path, dict[str, Tensor]]:
    """Write the two files; return the head's path and the differences by ldm names."""
    generator = torch.Generator().manual_seed(7)
    torch.save({"head": torch.randn(WIDTH, 5, 3, 3, generator=generator)}, folder / "fooocus_inpaint_head.pth")
    packed, whole = {}, {}
    for name, weight in to_ldm(dict(unet.state_dict())).items():
        values = torch.randint(0, 256, weight.shape, generator=generator, dtype=torch.uint8)
        least, most = torch.tensor(-0.02), torch.tensor(0.03)
        packed[f"diffusion_model.{name}"] = (values, least, most)
        whole[name] = values.double() / 255 * (most.double() - least.double()) + least.double()
    torch.save(packed, folder / "inpaint_v26.fooocus.patch")
    return folder / "fooocus_inpaint_head.pth", whole


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """The two files and the differences in them, for tests that leave them as they are."""
    return files(tmp_path_factory.mktemp("fooocus"), unet_xl())


@pytest.fixture(scope="module")
def model(written: tuple[Path, dict[str, Tensor]]) -> ControlModel:
    return load_control_model(written[0])


def picture(count: int = 1) -> Tensor:
    """Pictures of 128 x 128 with a hole, which begins inside of a cell of 8 x 8."""
    made = torch.rand(count, 3, 8 * SIDE, 8 * SIDE, generator=torch.Generator().manual_seed(4))
    made[..., 36:80, 20:70] = -1
    return made


def by_stack(unet: Any, step: Any, more: dict[str, Any], **unit: Any) -> Tensor:
    one = ControlUnit(**unit)
    check_units([one], unet)
    with Patches() as patches, torch.no_grad():
        change_weights(patches, [one], to_ldm(dict(unet.named_parameters())))
        attach(patches, ControlStack([one], Encoding())(step), locate_in(unet))
        return unet(step.x, step.timestep, step.context, **more).sample


def by_hand(unet: Any, head: Tensor, whole: dict[str, Tensor], hint: Tensor, step: Any, more: dict[str, Any],
            weight: float, strength: float) -> Tensor:  # fmt: skip
    """The U-Net with its weights changed, and the head's answer behind its first convolution."""
    named = to_ldm(dict(unet.named_parameters()))
    for name, difference in whole.items():
        named[name].data += strength * difference.float()
    hole = (hint[:, :1] < 0).float()
    grey = torch.where(hole.bool(), 0.5, hint)
    feed = torch.cat([F.max_pool2d(hole, 8), latents_of(grey)], dim=1)
    added = F.conv2d(F.pad(feed, (1, 1, 1, 1), "replicate"), head).repeat(len(step.x) // len(hint), 1, 1, 1)
    handle = unet.conv_in.register_forward_hook(lambda _module, _args, out: out + weight * added)
    with torch.no_grad():
        answer = unet(step.x, step.timestep, step.context, **more).sample
    handle.remove()
    return answer


@pytest.mark.parametrize(("weight", "strength"), [(1.0, 1.0), (0.6, 0.5)])
@pytest.mark.parametrize("count", [1, PICTURES])
def test_it_does_what_the_formulas_say(
    written: tuple[Path, dict[str, Tensor]], model: ControlModel, count: int, weight: float, strength: float
) -> None:
    unet, (path, whole) = unet_xl(), written
    step, more = step_of(unet)
    before = [each.clone() for each in unet.parameters()]
    ours = by_stack(unet, step, more, model=model, hint=picture(count), weight=weight, delta_strength=strength)
    assert all(torch.equal(*pair) for pair in zip(before, unet.parameters(), strict=True))
    head = torch.load(path, weights_only=True)["head"]
    with lent(unet):
        assert_close(ours, by_hand(unet, head, whole, picture(count), step, more, weight, strength))
    no_hole = by_stack(unet, step, more, model=model, hint=picture(count).clamp(min=0.5), weight=weight)
    assert relative_error(ours, no_hole) > 10 * TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_it_computes_in_half_precision(
    written: tuple[Path, dict[str, Tensor]], model: ControlModel, dtype: torch.dtype
) -> None:
    feed = torch.rand(1, 5, SIDE, SIDE)
    (whole,), (half,) = (each.prepare(feed) for each in (model, load_control_model(written[0], dtype=dtype)))
    assert half.dtype == dtype and relative_error(half.float(), whole) < 0.05


def test_a_head_without_its_patch_is_refused(tmp_path: Path) -> None:
    path, _ = files(tmp_path, unet_xl())
    (tmp_path / "inpaint_v26.fooocus.patch").rename(tmp_path / "mine.patch")
    with pytest.raises(UnsupportedModelError, match=r"one of two files, and the patch .* not beside it: put"):
        load_control_model(path)
    assert load_control_model(path, settings={"companion": "mine.patch"}).delta is not None
    with pytest.raises(UnsupportedModelError, match=r"the inpaint patch of Fooocus .*: choose fooocus_inpaint_head"):
        load_control_model(tmp_path / "mine.patch")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a.weight": torch.ones(3)}, "holds no weights in 8 bits"),
        ({"a.weight": (torch.ones(3, dtype=torch.uint8), torch.ones(1))}, "holds no weights in 8 bits"),
        ({"a.weight": (torch.ones(3), torch.ones(1), torch.ones(1))}, "has a.weight in .*, expected 8 bits"),
    ],
    ids=["whole", "no bounds", "floats"],
)
def test_a_damaged_patch_is_one_line(
    written: tuple[Path, dict[str, Tensor]], content: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = Path(copy(written[0], tmp_path))
    torch.save(content, tmp_path / "inpaint_v26.fooocus.patch")
    with pytest.raises(DamagedModelError, match=words):
        load_control_model(path)


def test_another_base_is_refused_naming_both_sides(model: ControlModel) -> None:
    other = deepcopy(unet_xl())
    other.conv_in = torch.nn.Conv2d(4, WIDTH, 1)
    with pytest.raises(IncompatibleModelError, match=r"changes the weight 'input_blocks.0.0.weight' \[32, 4, 3, 3\]"):
        by_stack(other, *step_of(other), model=model, hint=picture())


def test_the_published_head_is_told_by_its_shape(tmp_path: Path) -> None:
    shapes = {"head": (320, 5, 3, 3)}
    assert [family.id for family in REGISTRY if family.detect(shapes)] == ["fooocus"]
    told = inspect(write_sparse(tmp_path / "head.safetensors", shapes))
    assert (told.family, told.base, told.parameters) == ("Fooocus inpaint", "SDXL", 14_400)
