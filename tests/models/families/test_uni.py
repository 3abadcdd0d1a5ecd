"""Uni-ControlNet against its formulas, written down a second time, and against the published classes where they are.

`CONTROLSTACK_UNI_CONTROLNET` names a checkout of ShihaoZhaoZSH/Uni-ControlNet (which imports einops and omegaconf);
without it, only the formulas below prove the arithmetic. They are written with the functions of torch on the names of a
checkpoint, and share no code with the family.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from controlstack.core.control import HintSpace
from controlstack.core.embedding import Embedding, Encoder, Values
from controlstack.core.errors import DamagedModelError, HintError, IncompatibleModelError, UnitError
from controlstack.core.network.base import Base
from controlstack.core.network.effects import Effects
from controlstack.core.schedule import progress_at
from controlstack.core.stack import ControlStack
from controlstack.core.step import Step
from controlstack.core.unit import ControlMode, ControlUnit
from controlstack.models.families.uni.model import UniModel
from controlstack.models.files.loading import read_header
from controlstack.models.kinds.unions import OPTION
from controlstack.models.kinds.unis import KINDS
from controlstack.models.registry import REGISTRY, identify, inspect, load_control_model, offered, outline
from controlstack.units.make import make
from controlstack.units.request import UnitRequest
from oracle import PICTURES, SIDE, TOKENS, assert_close, relative_error
from sparse_files import write_sparse
from test_detection import OTHERS, base_unet
from torch import Tensor
from uni_shapes import STEM, both, global_adapter, local_adapter

Save = Callable[..., Path]
CHECKOUT = os.environ.get("CONTROLSTACK_UNI_CONTROLNET", "")

WIDTHS, CONTEXT, HEADS = (32, 64, 64, 64), 32, 4
FEATURES = (8, 12, 16, 20)  # channels of the maps of the hints
ORDER = ("canny", "mlsd", "softedge", "scribble", "openpose", "depth", "segmentation")
SETTINGS = {"heads": HEADS}
CONTENT_TOKENS = 4


TINY = both(local_adapter(WIDTHS, CONTEXT, FEATURES), global_adapter(CONTEXT))
FULL = both(local_adapter((320, 640, 1280, 1280), 768, (192, 256, 384, 512)), global_adapter(768))


def weights() -> dict[str, Tensor]:
    """Random weights of a tiny checkpoint, none of them 0, and hints that matter."""
    generator = torch.Generator().manual_seed(3)
    state = {}
    for name, shape in TINY.items():
        fan = max(1, math.prod(shape[1:]))
        scale = 1.6 if "feature_extractor" in name or "conv_" in name else 1.0
        state[name] = (
            torch.randn(shape, generator=generator) * scale / fan**0.5
            if len(shape) > 1
            else 0.1 * torch.randn(shape, generator=generator) + (1.0 if name.endswith("weight") else 0.0)
        )
    return state


class Formulas:
    """What the published code computes (`models/local_adapter.py`, `models/global_adapter.py`), from a checkpoint."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = state

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        return F.conv2d(x, weight, self.state[f"{name}.bias"], stride=stride, padding=weight.shape[-1] // 2)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"))

    def norm(self, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
        return F.group_norm(x, 32, self.state[f"{name}.weight"], self.state[f"{name}.bias"], eps)

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def features(self, hints: Tensor) -> list[Tensor]:
        h, found = hints, []
        for number in range(len(STEM)):
            name = f"local_adapter.feature_extractor.pre_extractor.{2 * number}"
            h = F.silu(self.conv(name, h, 2 if number in (1, 3) else 1))
        for number in range(len(FEATURES)):
            h = F.silu(self.conv(f"local_adapter.feature_extractor.extractors.{number}.0", h, 2))
            found.append(self.conv(f"local_adapter.feature_extractor.zero_convs.{number}", h))
        return found

    def denormalised(self, name: str, x: Tensor, features: Tensor) -> Tensor:
        gamma, beta = (self.conv(f"{name}.conv_{each}", features) for each in ("gamma", "beta"))
        return F.group_norm(x, 32) * (1 + gamma) + beta

    def residual(self, name: str, x: Tensor, emb: Tensor, features: Tensor | None) -> Tensor:
        def normed(which: str, old: str, h: Tensor) -> Tensor:
            if features is None:
                return self.norm(f"{name}.{old}.0", h)
            return self.denormalised(f"{name}.{which}", h, features)

        h = self.conv(f"{name}.in_layers.2", F.silu(normed("norm_in", "in_layers", x)))
        h = h + self.linear(f"{name}.emb_layers.1", F.silu(emb))[..., None, None]
        h = self.conv(f"{name}.out_layers.3", F.silu(normed("norm_out", "out_layers", h)))
        skip = f"{name}.skip_connection"
        return h + (self.conv(skip, x) if f"{skip}.weight" in self.state else x)

    def attention(self, name: str, x: Tensor, context: Tensor) -> Tensor:
        def heads(tensor: Tensor) -> Tensor:
            return tensor.unflatten(2, (HEADS, -1)).transpose(1, 2)

        q, k, v = (heads(self.linear(f"{name}.to_{p}", x if p == "q" else context)) for p in "qkv")
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        return self.linear(f"{name}.to_out.0", (weights @ v).transpose(1, 2).flatten(2))

    def gated(self, name: str, x: Tensor) -> Tensor:
        value, gate = self.linear(f"{name}.net.0.proj", x).chunk(2, dim=-1)
        return self.linear(f"{name}.net.2", value * F.gelu(gate))

    def transformer(self, name: str, x: Tensor, context: Tensor) -> Tensor:
        block, (height, width) = f"{name}.transformer_blocks.0", x.shape[-2:]
        h = self.conv(f"{name}.proj_in", self.norm(f"{name}.norm", x, 1e-6)).flatten(2).transpose(1, 2)
        normed = self.layer_norm(f"{block}.norm1", h)
        h = h + self.attention(f"{block}.attn1", normed, normed)
        h = h + self.attention(f"{block}.attn2", self.layer_norm(f"{block}.norm2", h), context)
        h = h + self.gated(f"{block}.ff", self.layer_norm(f"{block}.norm3", h))
        return x + self.conv(f"{name}.proj_out", h.transpose(1, 2).unflatten(2, (height, width)))

    def residuals(self, x: Tensor, timestep: Tensor, context: Tensor, hints: Tensor) -> list[Tensor]:
        """What is added to each skip, then to the middle; hints [B, 21, 8h, 8w]."""
        half = WIDTHS[0] // 2
        angles = timestep.float()[:, None] * torch.exp(-math.log(10000) * torch.arange(half) / half)
        emb = F.silu(self.linear("local_adapter.time_embed.0", torch.cat([angles.cos(), angles.sin()], dim=1)))
        emb, features = self.linear("local_adapter.time_embed.2", emb), self.features(hints)
        h, found = x, []
        for number in range(12):
            name = f"local_adapter.input_blocks.{number}"
            if f"{name}.0.op.weight" in self.state:
                h = self.conv(f"{name}.0.op", h, 2)
            elif number == 0:
                h = self.conv(f"{name}.0", h)
            else:
                h = self.residual(f"{name}.0", h, emb, features[number // 3] if number % 3 == 1 else None)
            h = self.transformer(f"{name}.1", h, context) if f"{name}.1.proj_in.weight" in self.state else h
            found.append(self.conv(f"local_adapter.zero_convs.{number}.0", h))
        h = self.residual("local_adapter.middle_block.0", h, emb, None)
        h = self.transformer("local_adapter.middle_block.1", h, context)
        h = self.residual("local_adapter.middle_block.2", h, emb, None)
        return [*found, self.conv("local_adapter.middle_block_out.0", h)]

    def tokens(self, seen: Tensor) -> Tensor:
        """The tokens [N, 4, D] of image embeddings [N, D]."""
        h = self.gated("global_adapter.ff1", self.layer_norm("global_adapter.norm1", seen))
        return self.gated("global_adapter.ff2", self.layer_norm("global_adapter.norm2", h)).unflatten(1, (4, -1))


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return weights()


@pytest.fixture
def model(state: dict[str, Tensor], save: Save) -> UniModel:
    loaded = load_control_model(save(state), settings=SETTINGS)
    assert isinstance(loaded, UniModel)
    return loaded


@pytest.fixture
def step() -> Step:
    """Two pictures, uncond and cond rows, the rows of a picture with the same latents."""
    generator = torch.Generator().manual_seed(8)
    return Step(
        x=torch.randn(PICTURES, 4, SIDE, SIDE, generator=generator).repeat(2, 1, 1, 1),
        timestep=torch.full((2 * PICTURES,), 321),
        context=torch.randn(2 * PICTURES, TOKENS, CONTEXT, generator=generator),
        cond=(False,) * PICTURES + (True,) * PICTURES,
        progress=progress_at(0, 1),
        pictures=tuple(row % PICTURES for row in range(2 * PICTURES)),
    )


def hints(count: int, of_pictures: int = 1, side: int = SIDE) -> list[Tensor]:
    generator = torch.Generator().manual_seed(9)
    return [torch.rand(of_pictures, 3, 8 * side, 8 * side, generator=generator) for _ in range(count)]


def stacked_hints(shown: Mapping[str, Tensor], rows: int) -> Tensor:
    """The 21 channels of the published program: three of each kind in its order, black where there is none."""
    black = torch.zeros_like(next(iter(shown.values())))
    whole = torch.cat([shown.get(kind, black) for kind in ORDER], dim=1)
    return whole.repeat(rows // len(whole), 1, 1, 1)


def added(effects: Effects) -> list[Tensor]:
    return [each for each in (*effects.output, *effects.middle) if each is not None]


def assert_all_close(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("pictures", [1, PICTURES])
@pytest.mark.parametrize("kinds", [("canny",), ("depth", "canny"), ("segmentation", "mlsd", "scribble"), ORDER])
def test_it_computes_the_formulas(
    state: dict[str, Tensor], model: UniModel, step: Step, kinds: tuple[str, ...], pictures: int
) -> None:
    """Two pictures with cond and uncond rows, one hint for both or one for each, in any order of the kinds."""
    given = hints(len(kinds), pictures)
    unit = ControlUnit(model=model.bind({OPTION: "+".join(kinds)}), hint=torch.cat(given, dim=1))
    whole = stacked_hints(dict(zip(kinds, given, strict=True)), len(step.x))
    expected = Formulas(state).residuals(step.x, step.timestep, step.context, whole)
    assert_all_close(added(ControlStack([unit])(step)), expected)


def test_a_latent_of_odd_size_is_read_as_well(state: dict[str, Tensor], model: UniModel, step: Step) -> None:
    (hint,) = hints(1, side=11)
    small = Step(
        x=step.x[..., :11, :11], timestep=step.timestep, context=step.context, cond=step.cond, progress=step.progress
    )
    expected = Formulas(state).residuals(
        small.x, small.timestep, small.context, stacked_hints({"depth": hint}, len(small.x))
    )
    assert_all_close(
        added(ControlStack([ControlUnit(model=model.bind({OPTION: "midas"}), hint=hint)])(small)), expected
    )


def test_every_kind_has_channels_of_its_own(model: UniModel, step: Step) -> None:
    (hint,) = hints(1)
    found = [
        added(ControlStack([ControlUnit(model=model.bind({OPTION: kind}), hint=hint)])(step)) for kind, *_ in KINDS
    ]
    for i, one in enumerate(found):
        assert all(relative_error(one[-1], other[-1]) > 0.01 for other in found[i + 1 :])
    assert [kind for kind, *_ in KINDS] == list(ORDER)


def test_one_hint_serves_all_kinds_and_weights_of_several_act_on_their_hints(
    state: dict[str, Tensor], model: UniModel, step: Step
) -> None:
    (hint,) = hints(1)
    bound = model.bind({OPTION: "depth:0.5+openpose"})
    whole = stacked_hints({"depth": hint * 0.5, "openpose": hint}, len(step.x))
    expected = Formulas(state).residuals(step.x, step.timestep, step.context, whole)
    assert_all_close(added(ControlStack([ControlUnit(model=bound, hint=hint)])(step)), expected)


def test_the_weight_of_a_single_kind_and_of_a_unit_multiply_what_is_added(
    state: dict[str, Tensor], model: UniModel, step: Step
) -> None:
    (hint,) = hints(1)
    unit = ControlUnit(model=model.bind({OPTION: "depth:0.5"}), hint=hint, weight=0.6)
    whole = stacked_hints({"depth": hint}, len(step.x))
    expected = Formulas(state).residuals(step.x, step.timestep, step.context, whole)
    assert_all_close(added(ControlStack([unit])(step)), [each * 0.3 for each in expected])


def test_what_is_to_be_invented_is_black(model: UniModel, step: Step) -> None:
    (hint,) = hints(1)
    hint[..., :64] = 0.0
    bound = model.bind({OPTION: "seg"})
    black, marked = (
        added(ControlStack([ControlUnit(model=bound, hint=each)])(step)) for each in (hint, hint.where(hint > 0, -1.0))
    )
    assert_all_close(marked, black)


def test_the_modulations_are_computed_once_for_a_hint(model: UniModel, step: Step) -> None:
    called: list[object] = []
    model.network.feature_extractor.register_forward_hook(lambda *_: called.append(1))
    stack = ControlStack([ControlUnit(model=model.bind({OPTION: "depth"}), hint=hints(1)[0])])
    for _ in range(3):
        stack(step)
    assert len(called) == 1


@pytest.mark.parametrize("pictures", [1, PICTURES])
@pytest.mark.parametrize("weight", [1.0, 0.6])
def test_content_makes_tokens_beside_the_prompt(
    state: dict[str, Tensor], model: UniModel, step: Step, weight: float, pictures: int
) -> None:
    """The rows of the negative prompt have the tokens of an embedding of zeros, as `uc_global_control` has."""
    seen = torch.randn(pictures, 1, CONTEXT, generator=torch.Generator().manual_seed(4))
    effects = ControlStack([ControlUnit(model=model.bind({OPTION: "content"}), hint=seen, weight=weight)])(step)
    (tokens,) = effects.tokens
    assert tokens is not None and not added(effects)
    assert tokens.shape == (2 * PICTURES, CONTENT_TOKENS, CONTEXT)
    formulas = Formulas(state)
    positive = formulas.tokens(seen[:, 0]).repeat(PICTURES // pictures, 1, 1)
    negative = formulas.tokens(torch.zeros(PICTURES, CONTEXT))
    assert_close(tokens, weight * torch.cat([negative, positive]))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_local_adapter_reads_the_tokens_of_content_as_the_base_does(
    state: dict[str, Tensor], model: UniModel, step: Step, order: tuple[int, int]
) -> None:
    """`apply_model` hands both the same prompt, whatever the order of the units is."""
    (hint,), weight = hints(1), 0.7
    seen = torch.randn(1, 1, CONTEXT, generator=torch.Generator().manual_seed(4))
    units = [
        ControlUnit(model=model.bind({OPTION: "depth"}), hint=hint),
        ControlUnit(model=model.bind({OPTION: "content"}), hint=seen, weight=weight),
    ]
    stack = ControlStack([units[i] for i in order])
    for _ in range(2):  # what is kept of the prompt is not what is kept of the tokens
        effects = stack(step)
    (tokens,) = effects.tokens
    assert tokens is not None
    whole = stacked_hints({"depth": hint}, len(step.x))
    formulas = Formulas(state)
    expected = formulas.residuals(step.x, step.timestep, torch.cat([step.context, tokens], dim=1), whole)
    assert_all_close(added(effects), expected)
    alone = formulas.residuals(step.x, step.timestep, step.context, whole)
    assert relative_error(expected[-1], alone[-1]) > 1e-3


def test_content_on_the_cond_rows_alone_leaves_zeros_beside_the_negative_prompt(model: UniModel, step: Step) -> None:
    seen = torch.randn(1, 1, CONTEXT)
    unit = ControlUnit(model=model.bind({OPTION: "global"}), hint=seen, mode=ControlMode.CONTROL)
    (tokens,) = ControlStack([unit])(step).tokens
    assert tokens is not None and not tokens[:PICTURES].any() and tokens[PICTURES:].any()


@pytest.mark.skipif(not CHECKOUT, reason="CONTROLSTACK_UNI_CONTROLNET names no checkout of Uni-ControlNet")
class TestThePublishedClasses:
    """The modules of the authors' program, with the same weights."""

    @pytest.fixture(autouse=True)
    def importable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let its modules find their package `ldm`; its folder `models` has the name of one of ours."""
        monkeypatch.syspath_prepend(CHECKOUT)

    def test_the_local_adapter(self, state: dict[str, Tensor], model: UniModel, step: Step) -> None:
        theirs = _module("local_adapter").LocalAdapter(
            in_channels=4, model_channels=WIDTHS[0], local_channels=21, inject_channels=list(FEATURES),
            inject_layers=[1, 4, 7, 10], num_res_blocks=2, attention_resolutions=[4, 2, 1], channel_mult=[1, 2, 2, 2],
            num_heads=HEADS, use_spatial_transformer=True, transformer_depth=1, context_dim=CONTEXT, legacy=False,
        )  # fmt: skip
        theirs.load_state_dict(_below(state, "local_adapter."))
        given = hints(2)
        whole = stacked_hints(dict(zip(("openpose", "canny"), given, strict=True)), len(step.x))
        with torch.no_grad():
            expected = theirs.eval()(step.x, step.timestep, step.context, whole)
        unit = ControlUnit(model=model.bind({OPTION: "openpose+canny"}), hint=torch.cat(given, dim=1))
        assert_all_close(added(ControlStack([unit])(step)), expected)

    def test_the_global_adapter(self, state: dict[str, Tensor], model: UniModel) -> None:
        theirs = _module("global_adapter").GlobalAdapter(CONTEXT)
        theirs.load_state_dict(_below(state, "global_adapter."))
        seen = torch.randn(2, 1, CONTEXT)
        with torch.no_grad():
            expected = theirs.eval()(seen[:, 0])
        positive, _ = model.bind({OPTION: "content"}).prepare(seen)
        assert_close(positive, expected)

    def test_names_and_shapes_at_full_size(self) -> None:
        with torch.device("meta"):
            local = _module("local_adapter").LocalAdapter(
                in_channels=4, model_channels=320, local_channels=21, inject_channels=[192, 256, 384, 512],
                inject_layers=[1, 4, 7, 10], num_res_blocks=2, attention_resolutions=[4, 2, 1],
                channel_mult=[1, 2, 4, 4], num_heads=8, use_spatial_transformer=True, transformer_depth=1,
                context_dim=768, legacy=False,
            )  # fmt: skip
            content = _module("global_adapter").GlobalAdapter(768)
        shapes = both(*({k: tuple(v.shape) for k, v in each.state_dict().items()} for each in (local, content)))
        assert shapes == FULL


def _module(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"of_uni_controlnet_{name}", Path(CHECKOUT) / "models" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): each for name, each in state.items() if name.startswith(prefix)}


def test_a_unit_has_to_say_what_its_hint_shows(model: UniModel) -> None:
    (hint,) = hints(1)
    expected = r"'model' has to be told what its hint shows: set the option union_control_type to one of canny, mlsd,"
    for told in (model, model.bind({OPTION: "auto"})):
        with pytest.raises(UnitError, match=expected):
            ControlUnit(model=told, hint=hint)
    with pytest.raises(UnitError, match=expected):
        make(UnitRequest(model="model", preprocessor="lineart_realistic"), hint, model)
    unit = make(UnitRequest(model="model", preprocessor="depth_midas"), hint, model)
    assert unit.model.options == {OPTION: "depth"}


@pytest.mark.parametrize(
    ("word", "kind"), [(word, kind) for kind, *more in KINDS for word in (kind, *more)] + [("Global", "content")]
)
def test_words_for_a_kind_are_read(model: UniModel, word: str, kind: str) -> None:
    assert model.bind({OPTION: word}).options == {OPTION: kind}


def test_content_is_read_as_an_embedding_and_stands_alone(model: UniModel) -> None:
    bound = model.bind({OPTION: "content"})
    assert (bound.hint_space, bound.hint_channels) == (HintSpace.EMBEDDING, CONTEXT)
    assert bound.embedding == Embedding(Encoder.CLIP_L, Values.IMAGE)
    again = bound.bind({OPTION: "depth+canny"})
    assert (again.hint_space, again.hint_channels, again.embedding) == (HintSpace.PICTURE, 6, None)
    assert again.points == model.points and again.network is model.network
    with pytest.raises(UnitError, match=r"'depth\+content': content is read by another part"):
        model.bind({OPTION: "depth+content"})
    with pytest.raises(HintError, match=r"reads image embedding of CLIP ViT-L/14 \[N, T, 32\], got \[1, 3"):
        ControlUnit(model=bound, hint=hints(1)[0])


def test_a_file_says_which_kinds_it_knows(state: dict[str, Tensor], save: Save) -> None:
    local = {name: each for name, each in state.items() if name.startswith("local_adapter.")}
    for tensors, more in ((state, ["content"]), (local, [])):
        path = save(tensors, {"controlstack.heads": str(HEADS)})
        told = inspect(path)
        assert (told.family, told.layout, told.missing, told.misshapen, told.unexpected) == (
            "Uni-ControlNet", "adapters", (), (), (),
        )  # fmt: skip
        (option,) = offered(path)
        assert list(option.words) == ["auto", *ORDER, *more]
        loaded = load_control_model(path)
        assert loaded.offers == (option,)
    with pytest.raises(UnitError, match=r"'content', expected one of auto, canny, .*, segmentation$"):
        loaded.bind({OPTION: "content"})


def test_a_checkpoint_of_the_published_kind_is_recognised(tmp_path: Path) -> None:
    """`uni.ckpt` holds Stable Diffusion 1.5 beside both adapters, all of it in one table."""
    shapes = {**base_unet(), **OTHERS, **FULL}
    assert [family.id for family in REGISTRY if family.detect(shapes)] == ["uni-controlnet"]
    for name, layout in ((shapes, "full checkpoint"), (FULL, "adapters")):
        told = inspect(write_sparse(tmp_path / "uni.safetensors", name))
        assert (told.family, told.base, told.layout) == ("Uni-ControlNet", "SD 1.x", layout)
        assert (told.missing, told.misshapen, told.unexpected) == ((), (), ())
    wrapped = write_sparse(tmp_path / "wrapped.safetensors", {f"state_dict.{k}": v for k, v in shapes.items()})
    assert identify(read_header(wrapped)).id == "uni-controlnet"
    local, content = (sum(math.prod(v) for k, v in FULL.items() if k.startswith(each)) for each in ("local", "global"))
    assert (round(local / 1e6, 1), round(content / 1e6, 1)) == (411.9, 47.2)  # as the published classes have


def test_a_network_of_a_host_is_outlined() -> None:
    found = outline(FULL)
    assert found is not None
    assert (len(found.points), found.base.name, found.hint_channels) == (13, "SD 1.x", 21)


def test_another_base_is_refused(model: UniModel) -> None:
    with pytest.raises(IncompatibleModelError):
        model.bind({OPTION: "content"}).check_base(Base(context=2048, label=2816, blocks=(320,) * 9))


def test_misshapen_files_are_refused(state: dict[str, Tensor], save: Save) -> None:
    first = "local_adapter.feature_extractor.pre_extractor.0.weight"
    for wrong in (
        {**state, first: torch.zeros(32, 12, 3, 3)},
        {**state, "global_adapter.ff2.net.2.weight": torch.zeros(100, 256)},
        {name: each for name, each in state.items() if not name.endswith("norm_out.conv_beta.bias")},
        {name: each for name, each in state.items() if "extractors.3" not in name},
        {name: each for name, each in state.items() if "global_adapter.norm1" not in name},
    ):
        with pytest.raises(DamagedModelError):
            load_control_model(save(wrong), settings=SETTINGS)


def test_a_half_precision_file_computes_in_its_own_precision(state: dict[str, Tensor], save: Save) -> None:
    model = load_control_model(save({k: v.half() for k, v in state.items()}), settings=SETTINGS)
    assert {each.dtype for each in model.bind({OPTION: "depth"}).prepare(hints(1)[0])} == {torch.float16}
