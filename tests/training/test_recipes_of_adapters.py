"""The recipes of LLLite, IP-Adapter and Union, seen from inside: gradients and starts as their papers derive them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from controlstack.core.errors import HintError, ScheduleError, UnsupportedModelError
from controlstack.core.network.points import Block
from controlstack.models.kinds.unions import OPTION
from controlstack.models.registry import load_control_model
from controlstack.preprocessors import find
from controlstack.training.data.hints import HintSource, Kind
from controlstack.training.loop import loss_of, train
from controlstack.training.options import kind_of
from controlstack.training.recipes.lllite import EMBEDDING, MLP
from controlstack.training.recipes.trainee import CONTROL
from controlstack.training.results.model import metadata, write_model
from controlstack.training.run import Run
from controlstack.training.settings import Settings
from controlstack.training.start import start
from controlstack.training.words import Words
from safetensors.torch import save_file
from torch import Tensor

Made = Callable[..., Settings]
BLOCKS = 2  # as in the tiny world: some families count them


def moved(run: Run, steps: int) -> list[set[str]]:
    """Take steps of plain gradient descent on one batch; the names of the parameters that each has moved."""
    optimiser = torch.optim.SGD([each for _, each in run.plain.trained()], 1.0)
    batch = run.examples.batch(0, 2, seed=0)
    found = []
    for _ in range(steps):
        before = {name: each.detach().clone() for name, each in run.plain.trained()}
        optimiser.zero_grad()
        loss_of(run, batch).backward()
        optimiser.step()
        run.plain.release()
        found.append({name for name, each in run.plain.trained() if not each.equal(before[name])})
    return found


def test_the_last_layer_of_lllite_wakes_first(of_family: Made) -> None:
    """y = x + U m: dy/dU = m, and dy/dm = U = 0, so nothing before U moves in the first step."""
    run = start(of_family("lllite"))
    first, second = moved(run, 2)
    names = {name for name, _ in run.plain.trained()}
    assert first == {name for name in names if ".up." in name}
    assert second > first
    assert {name.split(".")[2] for name in second} == {"conditioning1", "down", "mid", "up"}


def test_lllite_has_the_published_widths(of_family: Made) -> None:
    shapes = {name: tuple(each.shape) for name, each in start(of_family("lllite")).network.state_dict().items()}
    wide = "lllite_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_q"
    assert shapes[f"{wide}.down.0.weight"] == (min(MLP, 32), 64)
    assert shapes[f"{wide}.conditioning1.2.weight"] == (EMBEDDING, EMBEDDING // 2, 4, 4)  # 16 pixels a token
    assert not any("middle" in name or "output" in name for name in shapes)


@torch.no_grad()
def test_an_adapter_starts_as_the_cross_attention_of_the_base(of_family: Made) -> None:
    """Attention(q, K tokens, V tokens), K and V the base's own, stands before the base's output projection."""
    run = start(of_family("ip-adapter"))
    unet, network = run.base.unet, run.network
    layer = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2
    x, time, context = torch.randn(1, 4, 16, 16), torch.tensor([500]), torch.randn(1, 16, 64)
    hint = torch.rand(1, 1, 64)
    seen: dict[str, Tensor] = {}
    handles = [
        layer.to_q.register_forward_hook(lambda _m, _g, out: seen.update(q=out)),
        layer.to_out[0].register_forward_hook(lambda _m, _g, out: seen.update(out=out)),
    ]
    run.plain(x, time, hint, Words(context))
    tokens = network.image_proj(hint)
    q, k, v = (_heads(each) for each in (seen["q"], layer.to_k(context), layer.to_v(context)))
    ip_k, ip_v = (_heads(each) for each in (layer.to_k(tokens), layer.to_v(tokens)))
    expected = F.scaled_dot_product_attention(q, k, v) + F.scaled_dot_product_attention(q, ip_k, ip_v)
    for handle in handles:
        handle.remove()
    assert tokens.shape == (1, 4, 64)
    run.plain.release()
    assert torch.allclose(seen["out"], layer.to_out[0](expected.transpose(1, 2).flatten(2)), atol=1e-5)


def _heads(x: Tensor) -> Tensor:
    return x.unflatten(2, (4, -1)).transpose(1, 2)


def test_all_of_an_adapter_learns_at_once_and_none_of_the_base(of_family: Made) -> None:
    run = start(of_family("ip-adapter", empty_hints=0.0))
    (first,) = moved(run, 1)
    assert first == {name for name, _ in run.plain.trained()}
    assert all(name.startswith(CONTROL) for name in first)


def test_an_adapter_leaves_out_a_tenth_of_prompts_and_pictures(of_family: Made) -> None:
    run = start(of_family("ip-adapter"))
    assert (run.settings.empty_prompts, run.settings.empty_hints, run.settings.learning_rate) == (0.1, 0.1, 1e-3)
    hint = torch.rand(2, 1, 64)
    assert not run.recipe.without_hint(run.network, hint).any()


def test_an_adapter_of_hidden_states_goes_on_and_sees_grey_where_it_sees_nothing(
    of_family: Made, tmp_path: Path
) -> None:
    run = start(of_family("ip-adapter"))
    state = {name: each.clone() for name, each in run.network.state_dict().items() if "image_proj" not in name}
    torch.manual_seed(1)
    state |= {
        "image_proj.proj.0.weight": torch.randn(48, 48) * 0.1,
        "image_proj.proj.0.bias": torch.zeros(48),
        "image_proj.proj.2.weight": torch.randn(64, 48) * 0.1,
        "image_proj.proj.2.bias": torch.zeros(64),
        "image_proj.proj.3.weight": torch.ones(64),
        "image_proj.proj.3.bias": torch.zeros(64),
    }
    path = tmp_path / "full-face.safetensors"
    save_file(state, path, {"controlstack.heads": "4"})
    again = start(of_family("ip-adapter", start=path))
    seen = torch.rand(2, 5, 96)
    empty = again.recipe.without_hint(again.network, seen)
    assert empty[..., :48].equal(seen[..., 48:])
    assert empty[..., 48:].equal(seen[..., 48:])


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("ip-adapter", {"hints": HintSource(preprocessor="canny")}, "learns from what an image encoder sees"),
        ("ip-adapter", {"hints": HintSource(preprocessor="clip_h_states")}, "expected an image embedding"),
        ("controlnet", {"hints": HintSource(preprocessor="colours")}, "and controlnet reads pictures"),
        ("union", {"kinds": (), "hints": HintSource(preprocessor="canny")}, "name each with --kind"),
    ],
)
def test_hints_that_a_family_cannot_read_are_refused(
    of_family: Made, family: str, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(ScheduleError, match=words):
        start(of_family(family, **changes))


def test_kinds_belong_to_unions_alone(of_family: Made) -> None:
    kinds = (Kind("canny", HintSource(preprocessor="canny")),)
    with pytest.raises(ScheduleError, match="--kind is of another family than controlnet"):
        start(of_family("controlnet", kinds=kinds, hints=HintSource()))


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        (("canny=canny", "edges=canny"), "--kind is 'edges=canny', expected KIND=SOURCE"),
        (("canny",), "--kind is 'canny', expected KIND=SOURCE"),
        (("canny=canny", "lineart=canny(low=3)"), "expected each kind once"),
        (("depth=column:a", "normal=column:b"), "expected one: an example has one hint"),
    ],
)
def test_kinds_that_make_no_sense_are_refused(of_family: Made, kinds: tuple[str, ...], words: str) -> None:
    with pytest.raises(HintError, match=words):
        of_family("union", kinds=tuple(kind_of(text, "union") for text in kinds))


def test_kinds_say_where_hints_come_from(of_family: Made) -> None:
    said = ("Depth=column:depth_image", "hed=canny(low=50,high=100)")
    kinds = tuple(kind_of(text, "union") for text in said)
    assert [each.kind for each in kinds] == ["depth", "softedge"]
    assert kinds[0].hints == HintSource("depth_image")
    assert kinds[1].hints == HintSource(preprocessor="canny", parameters={"low": 50, "high": 100})
    with pytest.raises(HintError, match="leave those out"):
        of_family("union", kinds=kinds, hints=HintSource(preprocessor="canny"))


def test_kinds_take_turns_and_the_union_is_told(of_family: Made) -> None:
    run = start(of_family("union"))
    told = [run.recipe.told(run.settings, number)[OPTION] for number in range(4)]
    assert told == ["canny", "depth", "tile", "canny"]
    batches = [run.examples.batch(0, 2, seed=0, source=source)["hint"] for source in range(3)]
    pictures = [picture for _, picture, _ in run.examples.pictures()]
    wanted = [find("canny")(picture) for picture in pictures]
    found = [batches[0][row].permute(1, 2, 0).numpy() for row in range(2)]
    assert all(any(np.array_equal(each, other) for other in wanted) for each in found)
    assert not any(batches[0].equal(other) for other in batches[1:])
    assert batches[1].unique().numel() > 10  # depth is no drawing


def test_only_the_kind_of_a_batch_learns_its_embedding(of_family: Made) -> None:
    run = start(of_family("union", start="gaussian", steps=1, warm_up=0))
    before = run.network.state_dict()["task_embedding"].clone()
    run.network.get_parameter("spatial_ch_projs.weight").data.normal_(0, 0.1)  # else no gradient reaches the tokens
    loss_of(run, run.examples.batch(0, 2, seed=0, source=1), number=1).backward()
    grown = run.network.get_parameter("task_embedding").grad
    assert grown is not None
    assert [bool(row.any()) for row in grown] == [number == 1 for number in range(len(before))]
    run.plain.release()


def test_a_union_wakes_as_a_controlnet_does(of_family: Made) -> None:
    run = start(of_family("union"))
    first, second, third = moved(run, 3)
    zero = (f"{CONTROL}zero_convs", f"{CONTROL}middle_block_out")
    assert first
    assert all(name.startswith(zero) for name in first)
    tokens = (f"{CONTROL}task_embedding", f"{CONTROL}transformer_layes")
    assert f"{CONTROL}spatial_ch_projs.weight" in second
    assert not any(name.startswith(tokens) for name in second)
    assert any(name.startswith(tokens) for name in third)


def test_a_trained_union_says_its_kinds(of_family: Made, tmp_path: Path) -> None:
    run = start(of_family("union", steps=1))
    list(train(run))
    about = metadata(run)
    assert about["controlstack.kinds"] == "canny=canny(low=100,high=200) depth=depth_image tile=color_grid(cell=64)"
    assert "controlstack.hint" not in about
    (path,) = write_model(run, tmp_path / "union.safetensors")
    model = load_control_model(path)
    assert model.points[-1].block is Block.MIDDLE
    assert "tile" in model.offers[0].words


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("lllite", "shifts 48 channels of the attention in input block 1, where the base has 32"),
        ("ip-adapter", "16 cross-attentions of the widths 48, 64, the base has 16 of 32, 64: start from a file"),
    ],
)
def test_a_file_of_a_base_of_other_widths_is_no_start(of_family: Made, tmp_path: Path, family: str, words: str) -> None:
    state = {name: each.clone() for name, each in start(of_family(family)).network.state_dict().items()}
    for name, each in state.items():
        if family == "lllite":
            state[name] = _wider(each, name)
        elif name.endswith("_ip.weight") and len(each) == 32:
            state[name] = torch.zeros(48, each.shape[1])
    path = tmp_path / "wide.safetensors"
    save_file(state, path, {"controlstack.heads": "4"})
    with pytest.raises(UnsupportedModelError, match=words):
        start(of_family(family, start=path))


def _wider(weight: Tensor, name: str) -> Tensor:
    """The weights of a module for 48 channels in place of 32."""
    if ".down.0.weight" in name and weight.shape[1] == 32:
        return torch.zeros(len(weight), 48)
    if ".up.0." in name and len(weight) == 32:
        return torch.zeros(48, *weight.shape[1:])
    return weight


def test_a_union_may_start_from_a_controlnet(settings: Settings, of_family: Made, tmp_path: Path) -> None:
    """It adds what the ControlNet adds, whatever kind it is told, and trains as a union from there on."""
    own = start(replace(settings, start="gaussian"))
    (path,) = write_model(own, tmp_path / "control.safetensors")
    run = start(of_family("union", start=path))
    one, union = load_control_model(path).network, run.network
    assert all(union.state_dict()[name].equal(weight) for name, weight in one.state_dict().items())
    hint = torch.rand(2, 3, 64, 64)
    for kind in (1, 6):
        torch.testing.assert_close(union.fuse([hint], [(kind, 1.0)]), one.input_hint_block(hint))
    assert not union.embed_kinds([6], hint).any()
    (first,) = moved(run, 1)
    assert {f"{CONTROL}spatial_ch_projs.weight", f"{CONTROL}control_add_embedding.linear_2.weight"} <= first
