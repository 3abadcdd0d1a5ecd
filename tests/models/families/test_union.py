"""ControlNet-Union against diffusers' class, with one hint and with several, in both layouts of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from controlstack.core.errors import DamagedModelError, ModelError, UnitError
from controlstack.core.stack import ControlStack
from controlstack.core.unit import ControlMode, ControlUnit
from controlstack.models.families.union import UnionModel
from controlstack.models.kinds.unions import KINDS, OPTION
from controlstack.models.naming import to_ldm
from controlstack.models.registry import inspect, load_control_model, offered, outline
from diffusers import ControlNetUnionModel
from oracle import PICTURES, assert_close, randomise, relative_error, residuals_of, stacked, step_of
from torch import Tensor

Save = Callable[..., Path]
CONFIG: dict[str, Any] = {
    "block_out_channels": (32, 64, 64),
    "layers_per_block": 2,
    "cross_attention_dim": 64,
    "attention_head_dim": 4,
    "norm_num_groups": 32,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "transformer_layers_per_block": (1, 2, 3),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 8 * 6 + 32,
    "conditioning_embedding_out_channels": (16, 32, 96, 256),
    "num_trans_channel": 32,
    "num_proj_channel": 32,
}
LAYOUTS: dict[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]] = {
    "diffusers": dict,
    "ldm": to_ldm,
    "prefixed": lambda state: {f"control_model.{name}": each for name, each in to_ldm(state).items()},
    "of ComfyUI's own network": lambda state: {
        name.replace("attn.in_proj_", "attn.in_proj."): each for name, each in to_ldm(state).items()
    },
}
DEPTH, CANNY, TILE, REPAINT = 1, 3, 6, 7


def theirs_of(types: int = 8, **more: Any) -> ControlNetUnionModel:
    net = randomise(ControlNetUnionModel(**{**CONFIG, "num_control_type": types, **more}), 5)
    for parameter in (net.task_embedding, *net.transformer_layes.parameters(), *net.spatial_ch_projs.parameters()):
        parameter.mul_(6)  # so that the tokens are seen in what the network adds
    return net


@pytest.fixture(scope="module")
def theirs() -> ControlNetUnionModel:
    return theirs_of()


@pytest.fixture
def model(theirs: ControlNetUnionModel, save: Save) -> UnionModel:
    loaded = load_control_model(save(theirs.state_dict()), settings={"heads": 4})
    assert isinstance(loaded, UnionModel)
    return loaded


def hints(count: int, of_pictures: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(9)
    light = torch.linspace(1, 0.1, of_pictures)[:, None, None, None]  # for pictures are told apart by their means
    return [torch.rand(of_pictures, 3, 128, 128, generator=generator) * light for _ in range(count)]


def answers(net: ControlNetUnionModel, step: Any, more: Any, kinds: list[int], given: list[Tensor], scale: list[float]):
    """What diffusers' class adds: the encoder's blocks, then the middle. given: a hint of each kind."""
    rows = len(step.x)
    there = torch.zeros(rows, net.config.num_control_type)
    there[:, kinds] = 1
    repeated = [each.repeat(rows // len(each), 1, 1, 1) for each in given]
    skips, middle = net(
        step.x, step.timestep, step.context, repeated, there, kinds, scale, return_dict=False, **more
    )  # fmt: skip
    return [*skips, middle]


def assert_all_close(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("said", ["depth", "canny:0.7", "depth:0.5+canny:0.8", "tile:1.5+repaint:-0.3+openpose"])
def test_it_computes_what_diffusers_does(theirs: ControlNetUnionModel, save: Save, layout: str, said: str) -> None:
    """Two pictures with cond and uncond rows, a hint for each kind."""
    loaded = load_control_model(save(LAYOUTS[layout](theirs.state_dict())), settings={"heads": 4})
    model = loaded.bind({OPTION: said})
    assert isinstance(model, UnionModel)
    step, more = step_of(theirs)
    kinds = [kind for kind, _ in model.kinds]
    given = hints(len(kinds))
    expected = answers(theirs, step, more, kinds, given, [weight for _, weight in model.kinds])
    assert_all_close(residuals_of(model, step, torch.cat(given, dim=1)), expected)


def test_one_hint_serves_all_kinds(theirs: ControlNetUnionModel, model: UnionModel) -> None:
    step, more = step_of(theirs)
    (hint,) = hints(1)
    expected = answers(theirs, step, more, [DEPTH, CANNY], [hint, hint], [1.0, 0.5])
    assert_all_close(residuals_of(model.bind({OPTION: "depth+canny:0.5"}), step, hint), expected)


def test_pictures_with_hints_of_their_own_are_what_each_is_alone(
    theirs: ControlNetUnionModel, model: UnionModel
) -> None:
    """diffusers mixes the hints of a batch, so its answer for each picture alone is the oracle."""
    step, more = step_of(theirs)
    first, second = hints(2, of_pictures=PICTURES)
    ours = residuals_of(model.bind({OPTION: "depth+canny"}), step, torch.cat([first, second], dim=1))
    for picture in range(PICTURES):
        rows = (picture, picture + PICTURES)
        alone = {name: each[list(rows)] for name, each in more["added_cond_kwargs"].items()}
        given = [first[picture : picture + 1], second[picture : picture + 1]]
        expected = answers(theirs, step.rows(rows), {"added_cond_kwargs": alone}, [DEPTH, CANNY], given, [1.0, 1.0])
        assert_all_close([each[list(rows)] for each in ours], expected)


def test_the_mixing_of_a_batch_that_is_left_out_is_small_but_there(
    theirs: ControlNetUnionModel, model: UnionModel
) -> None:
    step, more = step_of(theirs)
    (given,) = hints(1, of_pictures=PICTURES)
    mixed = answers(theirs, step, more, [DEPTH], [given], [1.0])
    ours = residuals_of(model.bind({OPTION: "depth"}), step, given)
    assert 1e-5 < max(relative_error(one, other) for one, other in zip(ours, mixed, strict=True)) < 0.02


def test_without_a_kind_the_hint_is_read_as_it_is(theirs: ControlNetUnionModel, model: UnionModel) -> None:
    """h_0 = conv_in(x) + E(hint): what diffusers computes where the tokens add nothing."""
    step, more = step_of(theirs)
    (hint,) = hints(1)
    silent = theirs_of()
    for parameter in silent.spatial_ch_projs.parameters():
        parameter.zero_()
    there = torch.zeros(len(step.x), 8)
    given = hint.repeat(len(step.x), 1, 1, 1)
    skips, middle = silent(
        step.x, step.timestep, step.context, [given], there, [DEPTH], [1.0], return_dict=False, **more
    )  # fmt: skip
    for told in ({}, {OPTION: "auto"}, {OPTION: "Unknown"}):
        assert_all_close(residuals_of(model.bind(told), step, hint), [*skips, middle])


def test_the_weight_of_a_unit_scales_what_it_adds_whatever_its_kinds(model: UnionModel, theirs: Any) -> None:
    step, _ = step_of(theirs)
    for said in ("depth", "depth:0.5+canny:0.8"):
        bound, (hint,) = model.bind({OPTION: said}), hints(1)
        whole, half = (residuals_of(bound, step, hint, weight=weight) for weight in (1.0, 0.5))
        assert_all_close(half, [each * 0.5 for each in whole])


def test_a_unit_out_of_range_is_left_out_and_its_network_does_not_run(model: UnionModel, theirs: Any) -> None:
    step, _ = step_of(theirs)
    called: list[object] = []
    model.network.zero_convs[0].register_forward_hook(lambda *_: called.append(1))
    bound, (hint,) = model.bind({OPTION: "depth+canny"}), hints(1)
    late = replace(ControlUnit(model=bound, hint=hint).schedule, start=0.5)
    assert stacked([ControlUnit(model=bound, hint=hint, schedule=late)], step) == []
    assert not called
    assert residuals_of(bound, step, hint)
    assert called


def test_units_of_one_network_with_other_kinds_are_added_each_with_its_own_hint(
    model: UnionModel, theirs: ControlNetUnionModel
) -> None:
    """What is kept of a hint belongs to the network and the kinds it was bound to, not to one of the models."""
    step, more = step_of(theirs)
    first, second = hints(2)
    bound = [model.bind({OPTION: said}) for said in ("depth", "canny", "depth")]
    prepared: list[int] = []
    model.network.input_hint_block.register_forward_hook(lambda *_: prepared.append(1))
    units = [ControlUnit(model=each, hint=hint) for each, hint in zip(bound, (first, first, second), strict=True)]
    units.append(ControlUnit(model=model.bind({OPTION: "depth"}), hint=first, weight=0.5))
    stack = ControlStack(units)
    for _ in range(2):
        effects = stack(step)
    assert len(prepared) == 3  # depth of the first and of the second picture, canny of the first
    expected = [
        1.5 * a + b + c
        for a, b, c in zip(
            answers(theirs, step, more, [DEPTH], [first], [1.0]),
            answers(theirs, step, more, [CANNY], [first], [1.0]),
            answers(theirs, step, more, [DEPTH], [second], [1.0]),
            strict=True,
        )
    ]
    assert_all_close([each for each in (*effects.output, *effects.middle) if each is not None], expected)


def test_modes_and_block_weights_act_as_on_any_controlnet(model: UnionModel, theirs: ControlNetUnionModel) -> None:
    step, more = step_of(theirs)
    (hint,) = hints(1)
    bound = model.bind({OPTION: "depth"})
    expected = answers(theirs, step, more, [DEPTH], [hint], [1.0])
    soft = residuals_of(bound, step, hint, mode=ControlMode.PROMPT)
    assert_all_close(soft, [each * 0.825 ** (12 - i) for i, each in enumerate(expected)])
    weights = tuple(0.1 * (i + 1) for i in range(len(expected)))
    weighed = residuals_of(bound, step, hint, block_weights=weights)
    assert_all_close(weighed, [each * weight for each, weight in zip(expected, weights, strict=True)])


@pytest.mark.parametrize("said", ["repaint", "tile", "inpaint:0.5+depth"])
def test_what_is_to_be_invented_is_black(model: UnionModel, theirs: Any, said: str) -> None:
    step, _ = step_of(theirs)
    (hint,) = hints(1)
    holes = torch.rand(1, 1, 128, 128) > 0.5
    bound = model.bind({OPTION: said})
    ours = residuals_of(bound, step, torch.where(holes, -1.0, hint))
    assert_all_close(ours, residuals_of(bound, step, torch.where(holes, 0.0, hint)))


def test_half_a_file_is_half_the_memory_and_nearly_the_same(theirs: ControlNetUnionModel, save: Save) -> None:
    path = save({name: each.half() for name, each in theirs.state_dict().items()})
    wide = load_control_model(path, settings={"heads": 4}, dtype=torch.float32).bind({OPTION: "depth+tile"})
    step, more = step_of(theirs)
    (hint,) = hints(1)
    expected = answers(theirs, step, more, [DEPTH, TILE], [hint, hint], [1.0, 1.0])
    for one, other in zip(residuals_of(wide, step, hint), expected, strict=True):
        assert relative_error(one, other) <= 5e-3
    kept = load_control_model(path, settings={"heads": 4})
    assert {each.dtype for each in kept.network.parameters()} == {torch.float16}


def test_a_model_computes_in_its_own_precision(theirs: ControlNetUnionModel, save: Save) -> None:
    model = load_control_model(save(theirs.state_dict()), settings={"heads": 4}, dtype=torch.bfloat16)
    features, kinds = model.bind({OPTION: "depth"}).prepare(hints(1)[0])
    assert features.dtype == kinds.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("word", "kind"),
    [(word, kind) for kind, *more in KINDS for word in (kind, *more)]
    + [
        ("OpenPose", "openpose"), ("Soft Edge", "softedge"), ("Hard Edge", "canny"), ("Normal Map", "normal"),
        ("Segmentation", "segmentation"), ("Inpaint", "repaint"), ("hed/pidi/scribble/ted", "softedge"),
        ("canny/lineart/anime_lineart/mlsd", "canny"), ("segment", "segmentation"),
    ],
)  # fmt: skip
def test_every_program_s_words_for_a_kind_are_read(model: UnionModel, word: str, kind: str) -> None:
    assert model.bind({OPTION: word}).options == {OPTION: kind}


def test_a_wrong_kind_is_refused_by_those_that_the_file_knows(save: Save) -> None:
    model = load_control_model(save(theirs_of(6).state_dict(), name="six"), settings={"heads": 4})
    known = "auto, openpose, depth, softedge, canny, normal, segmentation"
    for wrong in ("tile", "fog", "depth+repaint", "canny/depth", ""):
        with pytest.raises(UnitError, match=f"'six'.* expected one of {known}$"):
            model.bind({OPTION: wrong})


@pytest.mark.parametrize(
    "said", ["depth+depth", "depth+1:0.5", "auto+depth", "depth:0", "depth:", "depth:much", "depth:nan"]
)
def test_what_makes_no_sense_is_refused(model: UnionModel, said: str) -> None:
    with pytest.raises(UnitError, match=OPTION):
        model.bind({OPTION: said})


def test_binding_again_keeps_what_is_not_told_and_shares_the_network(model: UnionModel) -> None:
    bound = model.bind({OPTION: "depth: 0.50 + Tile"})
    assert bound.options == {OPTION: "depth:0.5+tile"}
    assert bound.bind({}).options == bound.options
    assert bound.bind({OPTION: "auto"}).options == model.options == {}
    assert bound.network is model.network
    assert bound.hint_channels == 6
    assert model.hint_channels == bound.bind({OPTION: "canny"}).hint_channels == 3
    assert bound.sameness == model.bind({OPTION: "depth:0.5+tile:1"}).sameness != model.sameness


@pytest.mark.parametrize("types", [6, 8])
def test_a_file_says_which_kinds_it_knows(save: Save, types: int) -> None:
    path = save(theirs_of(types).state_dict(), {"controlstack.heads": "4"})
    told = inspect(path)
    assert (told.family, told.missing, told.misshapen, told.unexpected) == ("ControlNet-Union", (), (), ())
    assert told.options == {OPTION: ", ".join(["auto", *(kind for kind, *_ in KINDS[:types])])}
    (option,) = offered(path)
    assert list(option.words) == ["auto", *(kind for kind, *_ in KINDS[:types])]
    assert load_control_model(path).offers == (option,)


def test_a_file_offers_the_kinds_that_it_was_trained_on(save: Save) -> None:
    path = save(theirs_of().state_dict(), {"controlstack.heads": "4", "controlstack.learned": "tile, Depth"})
    assert inspect(path).options == {OPTION: "auto, depth, tile"}
    model = load_control_model(path)
    assert model.offers == offered(path)
    assert isinstance(model, UnionModel) and model.bind({OPTION: "blur"}).kinds == ((TILE, 1.0),)
    with pytest.raises(UnitError, match=r"expected one of auto, depth, tile$"):
        model.bind({OPTION: "canny"})
    wrong = save(theirs_of().state_dict(), {"controlstack.learned": "fog"}, name="wrong")
    with pytest.raises(ModelError, match="'learned' is 'fog', expected words with commas between, of openpose, depth"):
        inspect(wrong)


def test_a_network_of_a_host_is_outlined(theirs: ControlNetUnionModel) -> None:
    state = LAYOUTS["of ComfyUI's own network"](theirs.state_dict())
    found = outline({name: tuple(each.shape) for name, each in state.items()})
    assert found is not None
    assert len(found.points) == 10
    assert found.offers[0].name == OPTION


def test_kinds_without_a_name_and_misshapen_files_are_refused(theirs: ControlNetUnionModel, save: Save) -> None:
    state = theirs.state_dict()
    for wrong in (
        {**state, "task_embedding": torch.zeros(9, 32)},
        {**state, "task_embedding": torch.zeros(7, 32)},
        {**state, "task_embedding": torch.zeros(8, 16)},
        {name: each for name, each in state.items() if name != "spatial_ch_projs.bias"},
    ):
        with pytest.raises(DamagedModelError):
            load_control_model(save(wrong), settings={"heads": 4})
