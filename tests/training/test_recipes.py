"""Each family's recipe, seen from inside: what is added at first, what moves in which step, what is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from controlstack.core.control import ControlModel
from controlstack.core.errors import ModelError, ScheduleError, UnsupportedModelError
from controlstack.core.network.attach import Patches, change_weights
from controlstack.core.network.effects import WeightDelta
from controlstack.core.network.points import MIDDLE, Block, Part, onward
from controlstack.core.unit import ControlUnit
from controlstack.models.naming import to_ldm
from controlstack.models.registry import load_control_model
from controlstack.pipelines.bases import load_base
from controlstack.pipelines.drawing import generate
from controlstack.pipelines.request import Request
from controlstack.training.choices import COPY, FAMILIES, GAUSSIAN
from controlstack.training.loop import loss_of, train
from controlstack.training.recipes.controlnext import ControlNeXtRecipe
from controlstack.training.recipes.recipe import DEVIATION
from controlstack.training.recipes.registry import RECIPES
from controlstack.training.recipes.trainee import CONTROL, UNET
from controlstack.training.results.model import companion_path, metadata, write_model
from controlstack.training.run import Run
from controlstack.training.settings import Settings
from controlstack.training.start import start
from controlstack.training.words import Words
from diffusers import T2IAdapter
from safetensors.torch import load_file
from torch import Tensor

FAMILY = pytest.mark.parametrize("family", FAMILIES)
BLOCKS = 2  # as in the tiny world: some families count them
MERGED = {"ctrlora"}  # whose factors a load adds to the weights
ROUNDING = 1e-5  # of what a base answers, in two ways of computing it


def inputs(run: Run) -> tuple[Tensor, Tensor, Tensor, Words]:
    generator = torch.Generator().manual_seed(3)
    width = run.base.unet.config["cross_attention_dim"]
    return (
        torch.randn(2, 4, 16, 16, generator=generator),
        torch.tensor([10, 600]),
        torch.rand(2, *((1, 64) if run.recipe.reads_embeddings else (3, 128, 128)), generator=generator),
        Words(torch.randn(2, 16, width, generator=generator)),
    )


@torch.no_grad()
def added(run: Run) -> Tensor:
    """What the control adds to the base's prediction."""
    x, time, hint, words = inputs(run)
    told = run.recipe.told(run.settings, 0)
    return run.plain(x, time, hint, words, told) - run.base.unet(x, time, words.context).sample


def moves(run: Run, steps: int) -> list[set[str]]:
    """Take steps of plain gradient descent; the names of the parameters that each has moved."""
    optimiser = torch.optim.SGD([each for _, each in run.plain.trained()], 1.0)
    found = []
    for step in range(steps):
        before = {name: each.detach().clone() for name, each in run.plain.trained()}
        optimiser.zero_grad()
        loss_of(run, run.examples.batch(2 * step, 2, seed=0), number=0).backward()
        optimiser.step()
        run.plain.release()
        found.append({name for name, each in run.plain.trained() if not each.equal(before[name])})
    return found


def test_the_command_line_names_every_recipe() -> None:
    assert tuple(recipe.id for recipe in RECIPES) == FAMILIES


@pytest.mark.parametrize(
    ("family", "nothing"),
    [
        ("controlnet", True),
        ("controlnet-lite", True),
        ("controlnext", False),
        ("t2i-adapter", False),
        ("lllite", True),
        ("ip-adapter", False),
        ("union", True),
        ("uni-controlnet", True),
        ("controlnet-xs", True),
        ("ctrlora", True),
    ],
)
def test_zero_convolutions_add_exactly_nothing_at_first(
    of_family: Callable[..., Settings], family: str, nothing: bool
) -> None:
    difference = added(start(of_family(family)))
    assert bool((difference == 0).all()) is nothing


@pytest.mark.parametrize("family", ["controlnet", "controlnet-lite"])
def test_gaussian_convolutions_add_something_at_first(settings: Settings, family: str) -> None:
    run = start(replace(settings, family=family, start=GAUSSIAN))
    assert added(run).abs().max() > 1e-5
    weight = run.network.state_dict()["zero_convs.3.0.weight"]
    assert float(weight.std()) == pytest.approx(DEVIATION, rel=0.2)
    assert not run.network.state_dict()["zero_convs.3.0.bias"].any()


def test_the_middle_alone_leaves_the_skips_at_zero(settings: Settings) -> None:
    """Other programs, which do not know that the middle alone was trained, add the skips too."""
    run = start(replace(settings, only_middle=True, start=GAUSSIAN))
    assert not any(each.any() for name, each in run.network.state_dict().items() if name.startswith("zero_convs"))
    assert added(run).abs().max() > 1e-5


def test_lite_wakes_as_a_controlnet_does(settings: Settings) -> None:
    """dy/dW = x at a zero convolution, dy/dx = W = 0 behind it (ControlNet, section 3.2)."""
    run = start(replace(settings, family="controlnet-lite"))
    first, second, third = moves(run, 3)
    zero = (f"{CONTROL}zero_convs", f"{CONTROL}middle_block_out")
    hint = f"{CONTROL}input_hint_block"
    assert first
    assert all(name.startswith(zero) for name in first)
    assert any(name.startswith(f"{CONTROL}input_blocks") for name in second)
    assert {name for name in second if name.startswith(hint)} == {f"{hint}.14.weight", f"{hint}.14.bias"}
    assert {name for name, _ in run.plain.trained()} == third


@pytest.mark.parametrize("family", ["t2i-adapter", "controlnext"])
def test_what_starts_from_random_weights_learns_everywhere_at_once(settings: Settings, family: str) -> None:
    run = start(replace(settings, family=family))
    (first,) = moves(run, 1)
    assert first == {name for name, _ in run.plain.trained()}
    base = {name.removeprefix(UNET) for name in first if name.startswith(UNET)}
    names = {name for name, _ in run.base.unet.named_parameters() if ".to_out." in name}
    assert base == (names if family == "controlnext" else set())


def gradients_at(run: Run, layer: torch.nn.Module) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Take the gradients of a batch; (input, output, gradients of both) of a layer."""
    seen, found = {}, {}

    def hook(_: Any, given: tuple[Tensor], answer: Tensor) -> None:
        for name, each in (("in", given[0]), ("out", answer)):
            seen[name] = each.detach().clone()
            each.register_hook(lambda gradient, name=name: found.update({name: gradient}))

    handle = layer.register_forward_hook(hook)
    loss_of(run, run.examples.batch(0, 2, seed=0), number=0).backward()
    handle.remove()
    run.plain.release()
    return seen["in"], seen["out"], found


@pytest.mark.parametrize("family", ["controlnet", "controlnet-lite"])
def test_gradients_at_a_zero_convolution_are_as_derived(of_family: Callable[..., Settings], family: str) -> None:
    """Of y = W x + B with W = B = 0: dL/dW = sum g x^T, dL/dB = sum g, dL/dx = W^T g = 0 (ControlNet, section 3.2)."""
    run = start(of_family(family))
    layer = dict(run.network.named_modules())["zero_convs.3.0"]
    x, y, gradients = gradients_at(run, layer)
    g = gradients["out"]
    assert not y.any()
    assert g.abs().max() > 0
    expected = torch.einsum("nohw,nihw->oi", g, x)[..., None, None]
    assert torch.allclose(layer.weight.grad, expected, atol=1e-5 * float(expected.abs().max()))
    assert torch.allclose(layer.bias.grad, g.sum((0, 2, 3)), atol=1e-5 * float(g.abs().sum()))
    assert not gradients["in"].any()


def test_gradients_through_cross_normalisation_are_as_derived(of_family: Callable[..., Settings]) -> None:
    """What enters is the same for a + b c as for c: so the gradient g at c has sum g = 0 and sum g c = 0."""
    run = start(of_family("controlnext"))
    _, c, gradients = gradients_at(run, run.network.mid_convs[1])
    g = gradients["out"]
    scale = (g.abs() * c.abs()).sum((1, 2, 3))
    assert (scale > 0).all()
    assert ((g * c).sum((1, 2, 3)).abs() <= 1e-4 * scale).all()
    assert (g.sum((1, 2, 3)).abs() <= 1e-4 * g.abs().sum((1, 2, 3))).all()


@torch.no_grad()
def test_an_adapter_in_training_equals_diffusers(settings: Settings) -> None:
    run = start(replace(settings, family="t2i-adapter"))
    config = {"channels": [32, 64, 64, 64], "num_res_blocks": 2, "downscale_factor": 8}
    theirs = T2IAdapter(in_channels=3, adapter_type="full_adapter", **config)
    named = {f"adapter.{key}": value for key, value in _per_level(run.network.state_dict()).items()}
    theirs.load_state_dict(named)
    x, time, hint, words = inputs(run)
    features = [each.clone() for each in theirs(hint)]
    expected = run.base.unet(x, time, words.context, down_intrablock_additional_residuals=features).sample
    assert torch.allclose(run.plain(x, time, hint, words), expected, atol=1e-5)


def _per_level(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of the original as diffusers has them: two residual blocks a level, the change of width before them."""
    found = {}
    for name, each in state.items():
        first, *parts = name.split(".")
        if first != "body":
            found[name] = each
        elif parts[1] == "in_conv":
            found[f"body.{int(parts[0]) // 2}.in_conv.{parts[2]}"] = each
        else:
            found[f"body.{int(parts[0]) // 2}.resnets.{int(parts[0]) % 2}.{'.'.join(parts[1:])}"] = each
    return found


@FAMILY
def test_what_was_trained_is_what_draws(of_family: Callable[..., Settings], tmp_path: Path, family: str) -> None:
    """The file of each family, loaded as any other, acts on the base as in its last step."""
    run = start(of_family(family, steps=2))
    list(train(run))
    (path, *_) = write_model(run, tmp_path / "control.safetensors")
    assert metadata(run)["controlstack.family"] == family
    model = load_control_model(path)
    told = run.recipe.told(run.settings, 0)
    assert model.bind(told).options == told
    expected = added(run)
    assert expected.abs().max() > 0
    state, own = model.network.state_dict(), run.network.state_dict()
    if family not in MERGED:
        assert all(state[name].equal(each.detach()) for name, each in own.items())
    # Weights in a mapped file lie elsewhere than those in memory, by which processors choose how they sum.
    assert (_drawn(run, model) - expected).abs().max() < ROUNDING < expected.abs().max() / 10


@torch.no_grad()
def _drawn(run: Run, model: ControlModel) -> Tensor:
    """What the loaded model adds in a trainee of its own."""
    from controlstack.training.recipes.trainee import Trainee

    x, time, hint, words = inputs(run)
    other = Trainee(run.base.unet, model.network, model, encode=run.encoder.latents)
    return other(x, time, hint, words, run.recipe.told(run.settings, 0)) - run.base.unet(x, time, words.context).sample


@FAMILY
def test_every_family_goes_on_bit_for_bit(of_family: Callable[..., Settings], tmp_path: Path, family: str) -> None:
    own = of_family(family, steps=2)
    whole = start(own)
    losses = list(train(whole))
    first = start(replace(own, steps=1))
    head = list(train(first))
    first.save(tmp_path / "state")
    second = start(own)
    second.load(tmp_path / "state")
    assert head + list(train(second)) == losses
    other = dict(second.plain.trained())
    assert all(other[name].equal(each) for name, each in whole.plain.trained())


def test_points_are_those_of_the_papers(of_family: Callable[..., Settings]) -> None:
    models = {}
    for family in FAMILIES:
        run = start(of_family(family))
        models[family] = run.recipe.model(run.network, run.base.unet, run.settings)
    for family in ("controlnet", "controlnet-lite", "union", "uni-controlnet", "ctrlora"):
        *skips, middle = models[family].points
        assert [(point.block, point.part) for point in skips] == [(Block.INPUT, Part.SKIP)] * 12
        assert middle == MIDDLE
    assert [point.part for point in models["t2i-adapter"].points] == [Part.STREAM] * 4
    assert models["controlnext"].points == (onward(3),)
    projections = {Part("attn1.q"), Part("attn1.k"), Part("attn1.v"), Part("attn2.q")}
    assert [(point.block, point.index) for point in models["lllite"].points[::4]] == [
        (Block.INPUT, index) for index in (1, 2, 4, 5, 7, 8)
    ]
    assert {point.part for point in models["lllite"].points} == projections
    assert [point.part for point in models["ip-adapter"].points] == [Part.ATTN2_HEADS] * 16
    blocks = [point.block for point in models["controlnet-xs"].points]
    assert blocks == [Block.INPUT] * 12 + [Block.MIDDLE] + [Block.OUTPUT] * 11


def test_controlnext_has_the_published_rates_and_size(settings: Settings) -> None:
    run = start(replace(settings, family="controlnext", learning_rate=None, steps=1, warm_up=0))
    list(train(run))
    assert [group["lr"] for group in run.optimiser.param_groups] == pytest.approx([1e-4, 1e-5])
    wide = {"block_out_channels": (320,), "addition_embed_type": None}
    network = ControlNeXtRecipe().create(SimpleNamespace(config=wide), run.settings)
    assert sum(each.numel() for each in network.parameters()) / 1e6 == pytest.approx(3.53, abs=0.01)


@torch.no_grad()
def test_cross_normalisation_follows_the_published_code(settings: Settings) -> None:
    """c = (c - mean(c)) * std(x) / (std(c) + eps) + mean(x), over channels and places of each row; x + c."""
    run = start(replace(settings, family="controlnext"))
    x, time, hint, words = inputs(run)
    seen: dict[str, Tensor] = {}
    unet = run.base.unet
    handles = [
        unet.down_blocks[0].register_forward_hook(lambda _m, _a, output: seen.update(before=output[0])),
        unet.down_blocks[1].resnets[0].norm1.register_forward_pre_hook(lambda _m, given: seen.update(after=given[0])),
    ]
    unet(x, time, words.context)
    plain = seen["before"]
    run.plain(x, time, hint, words)
    control = torch.nn.functional.adaptive_avg_pool2d(run.network(run.network.stem(hint), time), plain.shape[-2:])
    std, mean = torch.std_mean(control, dim=(1, 2, 3), keepdim=True)
    deviation, middle = torch.std_mean(plain, dim=(1, 2, 3), keepdim=True)
    expected = plain + (control - mean) * deviation / (std + 1e-12) + middle
    for handle in handles:
        handle.remove()
    assert torch.allclose(seen["after"], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"family": "lora"}, "--family is 'lora', expected one of controlnet, controlnet-lite"),
        ({"family": "t2i-adapter", "start": COPY}, "--start is 'copy', expected a file for t2i-adapter"),
        ({"family": "controlnet-lite", "start": COPY}, "expected gaussian, a file"),
        ({"family": "t2i-adapter", "only_middle": True}, "--only-middle is of another family"),
        ({"family": "controlnet-lite", "unlock": "decoder"}, "--unlock is of another family"),
    ],
)
def test_what_a_family_does_not_have_is_refused(settings: Settings, change: dict[str, object], words: str) -> None:
    with pytest.raises(ScheduleError, match=words):
        start(replace(settings, **change))


def test_a_file_of_another_family_is_no_start(settings: Settings, tmp_path: Path) -> None:
    run = start(replace(settings, family="controlnet-lite"))
    (path, *_) = write_model(run, tmp_path / "lite.safetensors")
    with pytest.raises(UnsupportedModelError, match="no ControlNet: start from one"):
        start(replace(settings, start=path))
    again = start(replace(settings, family="controlnet-lite", start=path))
    name = "input_blocks.1.2.weight"
    assert again.network.state_dict()[name].equal(run.network.state_dict()[name])


@pytest.mark.parametrize("part", ["decoder", "all"])
def test_an_unlocked_base_is_trained_at_a_rate_of_its_own(settings: Settings, tmp_path: Path, part: str) -> None:
    run = start(replace(settings, unlock=part, unlock_rate=2e-4, steps=1, warm_up=0))
    frozen = {name: each.clone() for name, each in run.base.unet.named_parameters()}
    list(train(run))
    assert [group["lr"] for group in run.optimiser.param_groups] == [1e-3, 2e-4]
    moved = {name for name, each in run.base.unet.named_parameters() if not each.equal(frozen[name])}
    decoder = {name for name in frozen if name.startswith(("up_blocks.", "conv_norm_out.", "conv_out."))}
    assert moved
    assert moved <= decoder if part == "decoder" else moved - decoder
    control, companion = write_model(run, tmp_path / "control.safetensors")
    assert companion == companion_path(control)
    assert set(load_file(companion)) == (decoder if part == "decoder" else set(frozen))


def test_what_was_added_to_the_base_is_a_weight_delta(settings: Settings, tmp_path: Path) -> None:
    run = start(replace(settings, unlock="decoder", steps=2, warm_up=0))
    list(train(run))
    with torch.no_grad():
        _compare_delta(run, settings, tmp_path)


def _compare_delta(run: Run, settings: Settings, tmp_path: Path) -> None:
    """The base with the companion's difference added, under the control, predicts what the training did."""
    x, time, hint, words = inputs(run)
    expected = run.plain(x, time, hint, words)
    control, companion = write_model(run, tmp_path / "control.safetensors")
    plain = start(settings)
    model = load_control_model(control)
    assert isinstance(model.delta, WeightDelta)  # the control names its companion
    expected_delta = to_ldm(load_file(companion))
    assert all(model.delta.of(name).equal(each) for name, each in expected_delta.items())
    unit = ControlUnit(model=model, hint=hint)
    from controlstack.training.recipes.trainee import Trainee

    with Patches() as patches:
        change_weights(patches, [unit], to_ldm(dict(plain.base.unet.named_parameters())))
        found = Trainee(plain.base.unet, model.network, model)(x, time, hint, words)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(plain.plain(x, time, hint, words), expected, atol=1e-5)


def test_an_unlocked_training_goes_on_bit_for_bit(settings: Settings, tmp_path: Path) -> None:
    own = replace(settings, unlock="decoder", steps=2, ema=0.5)
    whole, first = start(own), start(replace(own, steps=1))
    losses = list(train(whole))
    list(train(first))
    first.save(tmp_path / "state")
    second = start(own)
    second.load(tmp_path / "state")
    assert list(train(second)) == losses[1:]
    delta, again = whole.base_delta(), second.base_delta()
    assert any(name.startswith(UNET) for name, _ in whole.plain.trained())
    assert all(again[name].equal(each) for name, each in delta.items())


def test_a_lite_control_draws(settings: Settings, tmp_path: Path) -> None:
    run = start(replace(settings, family="controlnet-lite", start=GAUSSIAN))
    (path, *_) = write_model(run, tmp_path / "lite.safetensors")
    base = load_base(settings.base)
    request = Request(prompt=("a star",), steps=2, width=128, height=128, batch=1, scheduler="ddim")
    unit = ControlUnit(model=load_control_model(path), hint=torch.rand(1, 3, 128, 128))
    plain, drawn = (generate(base, request, units).images for units in ([], [unit]))
    assert (plain != drawn).any()


def test_files_of_two_steps_are_no_pair(settings: Settings, tmp_path: Path) -> None:
    """A process that is killed between the two files leaves the companion of one step beside the control of another."""
    run = start(replace(settings, family="controlnext", steps=2, warm_up=0))
    steps = train(run)
    next(steps)
    first = write_model(run, tmp_path / "first" / "control.safetensors")
    next(steps)
    second = write_model(run, tmp_path / "second" / "control.safetensors")
    assert load_control_model(first[0]).delta is not None
    second[1].replace(first[1])
    with pytest.raises(ModelError, match="were not written together, by one training at one step"):
        load_control_model(first[0])


def test_a_controlnext_goes_on_with_what_its_companion_changed(settings: Settings, tmp_path: Path) -> None:
    own = replace(settings, family="controlnext", steps=1, warm_up=0)
    run = start(own)
    list(train(run))
    control, companion = write_model(run, tmp_path / "control.safetensors")
    again = start(replace(own, start=control))
    x, time, hint, words = inputs(run)
    with torch.no_grad():
        assert torch.allclose(again.plain(x, time, hint, words), run.plain(x, time, hint, words), atol=1e-6)
    assert all(each.equal(load_file(companion)[name]) for name, each in again.base_delta().items())
    companion.unlink()
    with pytest.raises(ModelError, match="there is no 'control_unet_weight_increasements"):
        start(replace(own, start=control))


def test_what_was_unlocked_must_be_unlocked_again(settings: Settings, tmp_path: Path) -> None:
    run = start(replace(settings, unlock="decoder", steps=1))
    list(train(run))
    (control, *_) = write_model(run, tmp_path / "control.safetensors")
    with pytest.raises(UnsupportedModelError, match="give --unlock as in that training"):
        start(replace(settings, start=control))
    assert start(replace(settings, start=control, unlock="all")).base_delta().keys() > run.base_delta().keys()
