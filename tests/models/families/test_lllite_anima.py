"""ControlLLLite for Anima against its arithmetic, written by hand on the projections of a tiny transformer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import anima_world
import pytest
import torch
import torch.nn.functional as F
from anima_world import PROJECTIONS, State, Transformer
from controlstack.core.errors import (
    ControlError,
    DamagedModelError,
    HintError,
    IncompatibleModelError,
    ModelError,
    UnsupportedModelError,
)
from controlstack.core.network.attach import Patches, attach
from controlstack.core.network.base import Base
from controlstack.core.network.base import Transformer as Widths
from controlstack.core.schedule import Easing, Keyframe, RangeBasis, Schedule, progress_at
from controlstack.core.stack import ControlStack
from controlstack.core.step import Step
from controlstack.core.unit import ControlMode, ControlUnit
from controlstack.models.families.lllite_anima.family import AnimaSettings
from controlstack.models.files.loading import read_header
from controlstack.models.registry import REGISTRY, identify, inspect, load_control_model
from controlstack.models.settings import read
from controlstack.scripts.webui.host.unet.kinds import base_of, locate_in
from oracle import assert_close
from safetensors.torch import save_file
from sparse_files import write_sparse
from torch import Tensor

Save = Callable[..., Path]
PICTURES, SIDE, TOKENS = 2, 16, 8


@pytest.fixture(scope="module")
def network() -> Transformer:
    return anima_world.transformer()


@pytest.fixture
def hint() -> Tensor:
    return torch.rand(1, 3, 8 * SIDE, 8 * SIDE, generator=torch.Generator().manual_seed(3))


def step_of(size: tuple[int, int] = (SIDE, SIDE), seed: int = 0) -> Step:
    """Two pictures, uncond and cond rows."""
    generator, rows = torch.Generator().manual_seed(seed), 2 * PICTURES
    return Step(
        x=torch.randn(rows, 4, *size, generator=generator),
        timestep=torch.full((rows,), 0.7),
        context=torch.randn(rows, TOKENS, 12, generator=generator),
        cond=(False,) * PICTURES + (True,) * PICTURES,
        progress=progress_at(0, 1),
    )


def answer(network: Transformer, step: Step) -> Tensor:
    with torch.no_grad():
        return network(step.x[:, :, None], step.timestep, step.context)


def drawn(network: Transformer, step: Step, *units: ControlUnit) -> Tensor:
    with Patches() as patches:
        attach(patches, ControlStack(units)(step), locate_in(network))
        return answer(network, step)


def by_hand(network: Transformer, step: Step, *given: tuple[State, Tensor, Tensor]) -> Tensor:
    """The network whose projections read x + factor * what is added; (file, its tokens, factor [B or 1, N or 1, 1])."""
    hooks: list[Any] = []
    for i, block in enumerate(network.blocks):
        for name, path in PROJECTIONS.items():

            def before(_: Any, args: Any, full: str = f"lllite_dit_blocks_{i}_{name}") -> Any:
                x = args[0].flatten(1, -2)
                sums = [f * anima_world.added(file, full, e, x) for file, e, f in given if f"{full}.up.weight" in file]
                return (sum(sums, x).reshape(args[0].shape),)

            hooks.append(block.get_submodule(path).register_forward_pre_hook(before))
    result = answer(network, step)
    for hook in hooks:
        hook.remove()
    return result


def factor(*values: float) -> Tensor:
    return torch.tensor(values)[:, None, None]


FORMS: dict[str, dict[str, Any]] = {
    "all": {},
    "queries": {"projections": ["self_attn_q_proj"]},
    "mlp": {"projections": ["mlp_layer1"]},
    "surroundings": {"branches": 4, "resblocks": 2},
    "bare trunk": {"resblocks": 0, "trunk": 12},
    "one block": {"blocks": [1]},
}


@pytest.mark.parametrize("form", FORMS)
def test_it_equals_its_arithmetic(network: Transformer, save: Save, hint: Tensor, form: str) -> None:
    file = anima_world.state(**FORMS[form])
    model, step = load_control_model(save(file)), step_of()
    plain = answer(network, step)
    expected = by_hand(network, step, (file, anima_world.tokens(file, hint * 2 - 1), factor(0.7)))
    assert_close(drawn(network, step, ControlUnit(model=model, hint=hint, weight=0.7)), expected)
    assert (expected - plain).abs().max() > 1e-2 * plain.abs().max()
    assert answer(network, step).equal(plain)


def test_cond_rows_and_a_hint_for_each_picture(network: Transformer, save: Save, hint: Tensor) -> None:
    file, step = anima_world.state(), step_of()
    hints = torch.cat([hint, hint.flip(-1)])
    unit = ControlUnit(model=load_control_model(save(file)), hint=hints, mode=ControlMode.CONTROL)
    e = anima_world.tokens(file, hints.repeat(2, 1, 1, 1) * 2 - 1)
    assert_close(drawn(network, step, unit), by_hand(network, step, (file, e, factor(0, 0, 1, 1))))


@pytest.mark.parametrize("mode", [ControlMode.BALANCED, ControlMode.PROMPT])
@pytest.mark.parametrize("rows", [(0, 1), (2, 3)])
def test_prompts_that_are_evaluated_apart(
    network: Transformer, save: Save, hint: Tensor, mode: ControlMode, rows: tuple[int, ...]
) -> None:
    file, part = anima_world.state(), step_of().rows(rows)
    unit = ControlUnit(model=load_control_model(save(file)), hint=hint, mode=mode)
    expected = by_hand(network, part, (file, anima_world.tokens(file, hint * 2 - 1), factor(1)))
    assert_close(drawn(network, part, unit), expected)


def test_several_units_see_the_same(network: Transformer, save: Save, hint: Tensor) -> None:
    one, two, step = anima_world.state(1), anima_world.state(2, projections=["self_attn_q_proj"]), step_of()
    first, second = (load_control_model(save(file, name=str(n))) for n, file in enumerate((one, two)))
    units = [ControlUnit(model=first, hint=hint, weight=0.6), ControlUnit(model=second, hint=1 - hint, weight=-0.4)]
    given = [
        (one, anima_world.tokens(one, hint * 2 - 1), factor(0.6)),
        (two, anima_world.tokens(two, 1 - 2 * hint), factor(-0.4)),
    ]
    assert_close(drawn(network, step, *units), by_hand(network, step, *given))


def test_a_mask_lies_on_the_tokens(network: Transformer, save: Save, hint: Tensor) -> None:
    """Also before the MLP, which is given a map of five axes."""
    file, step = anima_world.state(), step_of()
    mask = torch.zeros(1, 1, 8 * SIDE, 8 * SIDE)
    mask[..., : 4 * SIDE] = 1
    grid = torch.zeros(SIDE // 2, SIDE // 2)
    grid[:, : SIDE // 4] = 1
    unit = ControlUnit(model=load_control_model(save(file)), hint=hint, weight=0.8, mask=mask)
    expected = by_hand(network, step, (file, anima_world.tokens(file, hint * 2 - 1), 0.8 * grid.reshape(1, -1, 1)))
    assert_close(drawn(network, step, unit), expected)


def test_a_range_and_a_curve_along_the_noise(network: Transformer, save: Save, hint: Tensor) -> None:
    file, model = anima_world.state(), load_control_model(save(anima_world.state()))
    frames = (Keyframe(at=0, weight=1, easing=Easing.LINEAR), Keyframe(at=1, weight=0))
    schedule = Schedule(start=0.2, end=0.6, basis=RangeBasis.NOISE, keyframes=frames)
    unit, e = ControlUnit(model=model, hint=hint, schedule=schedule), anima_world.tokens(file, hint * 2 - 1)
    for at, wanted in ((0.1, 0.0), (0.25, 0.75), (0.6, 0.4), (0.7, 0.0)):
        step = replace(step_of(), progress={**progress_at(0, 1), RangeBasis.NOISE: at})
        expected = by_hand(network, step, (file, e, factor(wanted)))
        assert_close(drawn(network, step, unit), expected)


def test_block_weights_follow_the_projections(network: Transformer, save: Save, hint: Tensor) -> None:
    file, step = anima_world.state(), step_of()
    model = load_control_model(save(file))
    weights = tuple(float(n == 6) for n in range(len(model.points)))  # the keys of the second block
    unit = ControlUnit(model=model, hint=hint, block_weights=weights)
    alone = {key: each for key, each in file.items() if "blocks_" not in key or "blocks_1_self_attn_k_proj" in key}
    expected = by_hand(network, step, (alone, anima_world.tokens(file, hint * 2 - 1), factor(1)))
    assert_close(drawn(network, step, unit), expected)


@pytest.mark.parametrize("size", [(13, 9), (15, 16)])
def test_sides_that_are_not_whole_tokens(network: Transformer, save: Save, size: tuple[int, int]) -> None:
    file, step = anima_world.state(), step_of(size)
    hint = torch.rand(1, 3, 8 * size[0], 8 * size[1])
    whole = F.pad(hint, (0, 8 * (size[1] % 2), 0, 8 * (size[0] % 2)), mode="replicate")
    unit = ControlUnit(model=load_control_model(save(file)), hint=hint)
    expected = by_hand(network, step, (file, anima_world.tokens(file, whole * 2 - 1), factor(1)))
    assert_close(drawn(network, step, unit), expected)


def save_said(folder: Path, file: State, **said: str) -> Path:
    path = folder / "said.safetensors"
    save_file(file, path, {f"lllite.{key}": each for key, each in said.items()})
    return path


def test_a_hole_is_a_channel_and_grey(network: Transformer, tmp_path: Path, hint: Tensor) -> None:
    file, step = anima_world.state(reads=4), step_of()
    path = save_said(tmp_path, file, version="2", inpaint_masked_input="true")
    hole = torch.zeros(1, 1, *hint.shape[-2:])
    hole[..., :40, 24:] = 1
    read = torch.cat([(hint * 2 - 1) * (1 - hole), hole * 2 - 1], dim=1)
    unit = ControlUnit(model=load_control_model(path), hint=torch.where(hole > 0, -1.0, hint))
    expected = by_hand(network, step, (file, anima_world.tokens(file, read), factor(1)))
    assert_close(drawn(network, step, unit), expected)


def test_dilations_are_read_from_the_file(network: Transformer, tmp_path: Path, hint: Tensor) -> None:
    file, step = anima_world.state(branches=2), step_of()
    path = save_said(tmp_path, file, aspp_dilations="1,3", use_aspp="true")
    expected = by_hand(network, step, (file, anima_world.tokens(file, hint * 2 - 1, (1, 3)), factor(1)))
    assert_close(drawn(network, step, ControlUnit(model=load_control_model(path), hint=hint)), expected)


def test_dilations_are_a_list_or_a_text() -> None:
    assert [read(AnimaSettings, {"dilations": each}, "x").dilations for each in ("1, 2", [1, 2])] == ["1,2", "1,2"]
    for wrong in ("", "1,", "0", "65", [1.5], 3):
        with pytest.raises(ModelError, match="expected whole numbers from 1 to 64, with commas between"):
            read(AnimaSettings, {"dilations": wrong}, "x")


def test_the_hint_is_embedded_once(save: Save, hint: Tensor) -> None:
    model: Any = load_control_model(save(anima_world.state()))
    calls: list[int] = []
    model.network.lllite_conditioning1.register_forward_hook(lambda *_: calls.append(1))
    stack = ControlStack([ControlUnit(model=model, hint=hint)])
    for _ in range(3):
        stack(step_of())
    assert len(calls) == 1


def test_another_number_of_tokens_is_said(save: Save, hint: Tensor) -> None:
    model = load_control_model(save(anima_world.state()))
    shift = ControlStack([ControlUnit(model=model, hint=hint)])(step_of()).shifts[model.points[0]]
    with pytest.raises(HintError, match=r"has 64 tokens of the hint for 128 of the picture: leave out .*reference"):
        shift(torch.zeros(4, 128, 32))


BASES: dict[str, tuple[Base, str]] = {
    "U-Net": (
        Base(context=768, label=0, blocks=(320,)),
        r"was trained for a transformer like Anima \(2 blocks of tokens 32 wide\), the loaded checkpoint is SD 1.x "
        r"\(a U-Net\): .*units act on Anima in Forge Neo, and in ComfyUI .*'Apply Anima LLLite'",
    ),
    "width": (
        Base(transformer=Widths(64, 2)),
        r"tokens 32 wide\), the loaded .* \(2 blocks of tokens 64 wide\): choose",
    ),
    "blocks": (
        Base(transformer=Widths(32, 1)),
        r"\(2 blocks .*\), the loaded .* \(1 block of tokens 32 wide\): choose",
    ),
}


@pytest.mark.parametrize("name", BASES)
def test_another_base_is_refused_by_both_sides(save: Save, name: str) -> None:
    base, said = BASES[name]
    with pytest.raises(IncompatibleModelError, match=said):
        load_control_model(save(anima_world.state())).check_base(base)


def test_a_base_with_more_blocks_fits(network: Transformer, save: Save) -> None:
    load_control_model(save(anima_world.state(blocks=[0]))).check_base(base_of(network))


BAD: dict[str, tuple[Mapping[str, Any], type[ControlError], str]] = {
    "no place": ({"lllite_dit_blocks_0_self_attn_output_proj.down.weight": torch.ones(5, 32)}, DamagedModelError,
                 "'lllite_dit_blocks_0_self_attn_output_proj' names no projection of Anima's blocks"),
    "missing": ({"lllite_dit_blocks_0_mlp_layer1.up.bias": None}, DamagedModelError, "lacks 1 weights"),
    "two widths": (anima_world.state(64, blocks=[2], width=64), DamagedModelError, "tokens 32 and 64 wide"),
    "narrow": ({"lllite_dit_blocks_0_mlp_layer1.cond_to_film.weight": torch.ones(10, 7)}, DamagedModelError,
               r"1 misshapen weights: .* expected \[10, 6\]"),
    "latent hint": ({"lllite_conditioning1.conv1.weight": torch.ones(8, 16, 4, 4)}, UnsupportedModelError,
                    "ControlLLLite model for Anima in another form than version 2"),
    "no modules": ({key: None for key in anima_world.shapes() if "blocks_" in key}, UnsupportedModelError,
                   "ControlLLLite model for Anima in another form than version 2"),
    "branches": (anima_world.state(branches=3), UnsupportedModelError, "3 branches, and 4 dilations"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_by_a_sentence(save: Save, name: str) -> None:
    changes, error, said = BAD[name]
    file = {key: each for key, each in {**anima_world.state(), **changes}.items() if each is not None}
    with pytest.raises(error, match=said):
        load_control_model(save(file))


SAID: dict[str, tuple[dict[str, str], int, str]] = {
    "version": ({"version": "3"}, 3, r"'said\S*': it is a ControlLLLite for Anima of version 3, and version 2"),
    "latents": ({"cond_input_space": "latent"}, 3, r"of version 2 whose cond_input_space is latent"),
    "semantic": ({"trunk": "semantic", "version": "3"}, 3, r"of version 3 whose trunk is semantic"),
    "sees the hole": ({"inpaint_masked_input": "false"}, 4, r"'said\S*': it fills holes and reads the picture in them"),
    "odd dilations": ({"aspp_dilations": "1,x"}, 3, r"'dilations' is '1,x', expected whole numbers from 1 to 64"),
}


@pytest.mark.parametrize("name", SAID)
def test_what_a_file_says_of_itself_counts(tmp_path: Path, name: str) -> None:
    words, reads, said = SAID[name]
    path = save_said(tmp_path, anima_world.state(reads=reads), **words)
    for use in (load_control_model, inspect):
        with pytest.raises(ControlError, match=said):
            use(path)


@pytest.mark.parametrize("reads", [3, 4])
def test_a_full_size_file_is_recognised(tmp_path: Path, reads: int) -> None:
    """Of the 2B model with all atomic targets."""
    shapes = anima_world.shapes(2048, range(28), embedding=32, mlp=64, trunk=64, reads=reads)
    assert [family.id for family in REGISTRY if family.detect(shapes)] == ["lllite-anima"]
    path = write_sparse(tmp_path / "anima-canny.safetensors", shapes)
    assert identify(read_header(path)).id == "lllite-anima"
    told = inspect(path, {"masked_input": True} if reads == 4 else None)
    assert (told.family, told.base) == ("ControlLLLite (Anima)", "Anima")
    assert (told.missing, told.misshapen, told.unexpected) == ((), (), ())
