"""CtrLoRA against diffusers' ControlNet that is given the hint's latents as its sample, with W_base + up @ down."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path

import pytest
import torch
from controlstack.core.control import HintSpace
from controlstack.core.errors import DamagedModelError, IncompatibleModelError, UnsupportedModelError
from controlstack.core.host import PlainHost
from controlstack.core.stack import ControlStack
from controlstack.core.unit import ControlUnit
from controlstack.models.naming import to_diffusers, to_ldm
from controlstack.models.registry import REGISTRY, inspect, load_control_model
from diffusers import ControlNetModel
from oracle import assert_close, step_of
from safetensors.torch import save_file
from sparse_files import write_sparse
from test_detection import CONTROLNETS, by_hand
from torch import Tensor

RANK = 3
SETTINGS = {"heads": "4"}
State = dict[str, Tensor]
OWN = ("zero_convs.", "middle_block_out.", "input_hint_block.")


def is_linear(name: str, shape: Collection[int]) -> bool:
    return name.endswith(".weight") and len(shape) == 2 and not name.startswith(OWN)


def is_norm(name: str) -> bool:
    return any(part.startswith("norm") for part in name.split("."))


def two_files(theirs: ControlNetModel, *, norms: bool = True) -> tuple[State, State, State]:
    """The small file, the base, and the ControlNet that the two make, by ldm names. norms: whether those are new."""
    generator = torch.Generator().manual_seed(5)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.1

    base = {k: each for k, each in to_ldm(theirs.state_dict()).items() if not k.startswith("input_hint_block.")}
    whole, small = dict(base), State()
    for name, each in base.items():
        if is_linear(name, each.shape):
            stem = name.removesuffix("weight")
            up, down = random(len(each), RANK), random(RANK, each.shape[1])
            small |= {f"{stem}lora_layer.up.weight": up, f"{stem}lora_layer.down.weight": down}
            whole[name] = each + up @ down
        elif name.startswith(OWN) or (norms and is_norm(name)):
            small[name] = whole[name] = random(*each.shape)
    return small, base, whole


def save(folder: Path, small: State, base: State) -> Path:
    folder.mkdir(exist_ok=True)
    for name, state in (("ctrlora_base_canny_rank3", small), ("ctrlora_base", base)):
        plain = {f"control_model.{key}": each.contiguous() for key, each in state.items()}
        save_file(plain, folder / f"{name}.safetensors")
    return folder / "ctrlora_base_canny_rank3.safetensors"


class Autoencoder(PlainHost):
    """A host whose latents are four channels of the picture, an eighth as large, as an autoencoder sees it: -1..1."""

    def encode(self, picture: Tensor) -> Tensor:
        small = torch.nn.functional.avg_pool2d(picture * 2 - 1, 8)
        return torch.cat([small, small.mean(dim=1, keepdim=True)], dim=1)


@pytest.mark.parametrize("norms", [True, False])
@pytest.mark.parametrize("hints", [1, 2])
def test_it_equals_a_controlnet_of_the_hints_latents(
    theirs: ControlNetModel, tmp_path: Path, norms: bool, hints: int
) -> None:
    small, base, whole = two_files(theirs, norms=norms)
    model = load_control_model(save(tmp_path, small, base), settings=SETTINGS)
    hint = torch.rand(hints, 3, 128, 128)
    step, more = step_of(theirs)
    residuals = ControlStack([ControlUnit(model=model, hint=hint)], Autoencoder())(step)
    ours = [each for each in (*residuals.output, *residuals.middle) if each is not None]

    state = {name: each for name, each in to_ldm(theirs.state_dict()).items() if name.startswith("input_hint_block.")}
    last = max(state, key=lambda name: int(name.split(".")[1])).rpartition(".")[0]
    state |= {f"{last}.{each}": torch.zeros_like(state[f"{last}.{each}"]) for each in ("weight", "bias")}
    made = ControlNetModel.from_config(theirs.config).eval()
    made.load_state_dict(to_diffusers({**state, **whole}))
    seen = torch.nn.functional.avg_pool2d(hint, 8)  # 0..1 is what the published trainings show to the autoencoder
    latents = torch.cat([seen, seen.mean(dim=1, keepdim=True)], dim=1).repeat(len(step.x) // hints, 1, 1, 1)
    with torch.no_grad():
        skips, middle = made(latents, step.timestep, step.context, hint[:1], return_dict=False, **more)
    for one, other in zip(ours, (*skips, middle), strict=True):
        assert_close(one, other)


def test_what_is_to_be_invented_is_black_to_it(theirs: ControlNetModel, tmp_path: Path) -> None:
    small, base, _ = two_files(theirs)
    model = load_control_model(save(tmp_path, small, base), settings=SETTINGS)
    assert (model.hint_space, model.hint_channels) == (HintSpace.LATENTS, 4)
    hint = torch.rand(1, 3, 128, 128)
    hint[..., :64] = 0.0
    marked = hint.where(hint > 0, -1.0)
    found = [
        ControlStack([ControlUnit(model=model, hint=each)], Autoencoder())(step_of(theirs)[0])
        for each in (hint, marked)
    ]
    assert all(one.equal(other) for one, other in zip(found[0].output, found[1].output, strict=True) if one is not None)


def test_its_base_is_found_or_named(theirs: ControlNetModel, tmp_path: Path) -> None:
    small, base, _ = two_files(theirs)
    path = save(tmp_path, small, base)
    other = tmp_path / "other.safetensors"
    (tmp_path / "ctrlora_base.safetensors").rename(other)
    with pytest.raises(
        UnsupportedModelError, match=r"its base ControlNet is not beside it: put .* into the same folder"
    ):
        load_control_model(path, settings=SETTINGS)
    load_control_model(path, settings={**SETTINGS, "companion": other.name})
    save_file({**small, **base}, other)  # as the published base is: with factors of its training
    with pytest.raises(UnsupportedModelError, match="the base ControlNet of CtrLoRA: choose one of its LoRAs"):
        load_control_model(other)


def test_two_files_that_are_no_pair(theirs: ControlNetModel, tmp_path: Path) -> None:
    small, base, _ = two_files(theirs)
    name = "input_blocks.1.0.in_layers.2.weight"
    with pytest.raises(IncompatibleModelError, match=rf"changes a ControlNet whose '{name}' is .* take the two files"):
        load_control_model(save(tmp_path, small, {**base, name: torch.zeros(8, 8, 3, 3)}), settings=SETTINGS)
    del base[name]
    with pytest.raises(DamagedModelError, match=f"is not the base ControlNet of .* lacks 1 weights, such as {name}"):
        load_control_model(save(tmp_path, small, base), settings=SETTINGS)


@pytest.mark.parametrize(
    "missing", ["time_embed.0.lora_layer.down.weight", "zero_convs.0.0.bias", "middle_block_out.0.weight"]
)
def test_a_file_without_a_part_is_damaged(theirs: ControlNetModel, tmp_path: Path, missing: str) -> None:
    small, base, _ = two_files(theirs)
    del small[missing]
    with pytest.raises(DamagedModelError, match="lacks"):
        load_control_model(save(tmp_path, small, base), settings=SETTINGS)


def test_full_size_files_are_recognised(tmp_path: Path) -> None:
    """37 millions of parameters with rank 128, as the paper says."""
    rank, shapes = 128, dict[str, tuple[int, ...]]()
    for name, shape in by_hand(CONTROLNETS["SD 1.5"]).items():
        stem = f"control_model.{name.removesuffix('weight')}"
        if is_linear(name, shape):
            shapes |= {
                f"{stem}lora_layer.up.weight": (shape[0], rank),
                f"{stem}lora_layer.down.weight": (rank, shape[1]),
            }
        elif name.startswith(OWN[:2]) or is_norm(name):
            shapes[f"control_model.{name}"] = shape
    assert [family.id for family in REGISTRY if family.detect(shapes)] == ["ctrlora"]
    path = write_sparse(tmp_path / "ctrlora_sd15_basecn700k_canny.safetensors", shapes)
    told = inspect(path)
    assert (told.family, told.base) == ("CtrLoRA", "SD 1.x")
    assert (told.missing, told.misshapen, told.unexpected) == ((), (), ())
    assert sum(map(math.prod, shapes.values())) / 1e6 == pytest.approx(37, rel=0.02)
