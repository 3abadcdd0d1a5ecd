"""ControlNeXt against the arithmetic of its authors' modules, written down here with diffusers' blocks and hooks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from controlstack.core.errors import IncompatibleModelError, ModelError, UnitError, UnsupportedModelError
from controlstack.core.network.attach import Patches, attach, change_weights
from controlstack.core.stack import ControlStack
from controlstack.core.step import Step
from controlstack.core.unit import ControlMode, ControlUnit
from controlstack.models.families.controlnext_video import VideoControlNeXt, entering
from controlstack.models.layers import STANDARD
from controlstack.models.naming import to_ldm
from controlstack.models.registry import REGISTRY, inspect, load_control_model
from controlstack.models.remembered import Remembered
from controlstack.pipelines.attached import locate_in
from diffusers import UNet2DConditionModel
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import Downsample2D, ResnetBlock2D
from families import random_layer
from oracle import randomise, step_of
from safetensors.torch import save_file
from sparse_files import write_sparse
from tiny_networks import CONFIGS, UP
from torch import Tensor, nn

TOLERANCE = 1e-5
SMALL = {"time": 16, "emb": 24, "stem": 8, "width": 16, "last": 32}
FULL = {"time": 128, "emb": 256, "stem": 64, "width": 128, "last": 256}
Save = Callable[..., Path]


class Theirs(nn.Module):
    """`ControlNeXtModel` and the older `ControlNetModel` of the project, at any width."""

    def __init__(
        self, out: int, *, old: bool, time: int, emb: int, stem: int, width: int, last: int, padding: int = 1
    ) -> None:
        """padding: 0 in the network for videos."""
        super().__init__()
        self.old = old
        self.time_proj = Timesteps(time, True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(time, emb)
        widths, groups = ((3, width, last), (1, 8, 8)) if old else ((width, width), (4, 8))
        if not old:
            self.embedding = nn.Sequential(
                nn.Conv2d(3, stem, 3, 2, 1), nn.GroupNorm(2, stem), nn.ReLU(),
                nn.Conv2d(stem, stem, 3, 1, padding), nn.GroupNorm(2, stem), nn.ReLU(),
                nn.Conv2d(stem, width, 3, 1, padding), nn.GroupNorm(2, width), nn.ReLU(),
            )  # fmt: skip
        outs = (*widths[1:], last)
        self.down_res = nn.ModuleList(
            ResnetBlock2D(in_channels=a, out_channels=b, temb_channels=emb, groups=g)
            for a, b, g in zip(widths, outs, groups, strict=True)
        )
        self.down_sample = nn.ModuleList(
            Downsample2D(b, use_conv=True, out_channels=b, padding=1, name="op") for b in outs
        )
        first: list[nn.Module] = [nn.Conv2d(last, last, 3, 1, 1), nn.ReLU(), nn.Conv2d(last, last, 3, 1, 1)]
        if not old:
            first = [*first[:2], nn.GroupNorm(8, last), first[2], nn.GroupNorm(8, last)]
        self.mid_convs = nn.ModuleList([nn.Sequential(*first), nn.Conv2d(last, out, 1)])
        if old:
            self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, sample: Tensor, timesteps: Tensor) -> Tensor:
        emb = self.time_embedding(self.time_proj(timesteps.expand(len(sample))).to(sample))
        sample = sample if self.old else self.embedding(sample)
        for res, halving in zip(self.down_res, self.down_sample, strict=True):
            sample = halving(res(sample, emb))
        middle = self.mid_convs[0](sample)
        return self.mid_convs[1](middle if self.old else middle + sample)


def cross_normed(kind: str, x: Tensor, c: Tensor, paper: bool) -> Tensor:
    """What `models/unet.py` of the three projects adds, or equation 10 of the paper."""
    over = {"dim": (1, 2, 3), "keepdim": True}
    if kind != "sdxl":
        c = nn.functional.adaptive_avg_pool2d(c, x.shape[-2:])
    if paper:
        c = (c - x.mean(**over)) / (x.var(**over) + 1e-12).sqrt()
    else:
        c = (c - c.mean(**over)) * (x.std(**over) / (c.std(**over) + 1e-12)) + x.mean(**over)
    return nn.functional.adaptive_avg_pool2d(c, x.shape[-2:])


@contextmanager
def by_hand(unet: Any, kind: str, theirs: Theirs, hint: Tensor, weight: float, paper: bool) -> Iterator[None]:
    """The projects' change of a U-Net's forward, on the blocks that their own code changes."""

    def added(x: Tensor, time: Tensor) -> Tensor:
        scale = theirs.scale if theirs.old else 1.0
        return x + cross_normed(kind, x, theirs(hint.expand(len(x), -1, -1, -1), time), paper) * scale * weight

    times: list[Tensor] = []
    hooks = [unet.register_forward_pre_hook(lambda _, args: times.append(args[1]))]
    if kind == "old":
        hooks.append(unet.mid_block.register_forward_hook(lambda _, __, output: added(output, times[0])))
    else:
        block = unet.down_blocks[{"sd15": 1, "sdxl": 0}[kind]]

        def before(_: Any, args: Any, given: dict[str, Any]) -> Any:
            return args, {**given, "hidden_states": added(given["hidden_states"], times[0])}

        hooks.append(block.register_forward_pre_hook(before, with_kwargs=True))
    yield
    for hook in hooks:
        hook.remove()


KINDS = ("sd15", "old", "sdxl")
BASES = {"sd15": "SD", "old": "SD", "sdxl": "SDXL"}


@cache
def tiny_unet(name: str) -> Any:
    """A base whose every layer is heard in what it answers."""
    return random_layer(UNet2DConditionModel(sample_size=16, up_block_types=UP[name], **CONFIGS[name]), 0, scale=1.0)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def unet(kind: str) -> Any:
    return tiny_unet(BASES[kind])


@pytest.fixture
def theirs(kind: str, unet: Any) -> Theirs:
    out = unet.config["block_out_channels"][-1 if kind == "old" else 0]
    made = randomise(Theirs(out, old=kind == "old", **SMALL), 1)
    for parameter in made.parameters():
        if parameter.ndim == 4:
            parameter.mul_(4)  # so that normalisation has more than rounding to see
    return made  # type: ignore[return-value]


@pytest.fixture
def hint() -> Tensor:
    return torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(3))


def drawn(unet: Any, step: Step, more: dict[str, Any], units: list[ControlUnit]) -> Tensor:
    """What the U-Net answers under units."""
    with Patches() as patches, torch.no_grad():
        change_weights(patches, units, to_ldm(dict(unet.named_parameters())))
        attach(patches, ControlStack(units)(step), locate_in(unet))
        return unet(step.x, step.timestep, step.context, **more).sample


def companion(unet: Any, kind: str) -> dict[str, Tensor]:
    """Random differences to what the trainings of the three change, in diffusers' names."""
    generator = torch.Generator().manual_seed(7)
    part = "attn2.to_out" if kind == "sdxl" else ".to_out"
    return {
        name: torch.randn(each.shape, generator=generator) * 0.02
        for name, each in unet.state_dict().items()
        if part in name
    }


FORMS = ("increments", "weights", "increments, ldm", "weights, checkpoint")


def write(folder: Path, theirs: Theirs, unet: Any, kind: str, form: str = "increments", stem: str = "canny") -> Path:
    """The two files of a training, in one of their forms."""
    folder.mkdir(exist_ok=True)
    difference = companion(unet, kind)
    if form.startswith("weights"):
        difference = {name: unet.state_dict()[name] + each for name, each in difference.items()}
    if "ldm" in form or "checkpoint" in form:
        prefix = "model.diffusion_model." if "checkpoint" in form else ""
        whole = {name: name for name in unet.state_dict()}
        ldm = {old: new for new, old in to_ldm(whole).items()}
        difference = {prefix + ldm[name]: each for name, each in difference.items()}
    save_file(theirs.state_dict(), folder / f"{stem}.safetensors")
    save_file(difference, folder / f"{stem}_unet.safetensors")
    return folder / f"{stem}.safetensors"


def loaded(path: Path, unet: Any, **settings: Any) -> Any:
    return load_control_model(path, base_state=to_ldm(unet.state_dict()), settings=settings or None)


@pytest.mark.parametrize("form", FORMS)
def test_each_equals_the_projects_arithmetic(
    tmp_path: Path, unet: Any, theirs: Theirs, kind: str, hint: Tensor, form: str
) -> None:
    model = loaded(write(tmp_path, theirs, unet, kind, form), unet)
    step, more = step_of(unet)
    plain = drawn(unet, step, more, [])
    ours = drawn(unet, step, more, [ControlUnit(model=model, hint=hint, weight=0.7)])
    assert drawn(unet, step, more, []).equal(plain)
    with torch.no_grad():
        alone = None
        for strength in (0.0, 1.0):
            difference = {name: each * strength for name, each in companion(unet, kind).items()}
            changed = {name: each + difference.get(name, 0.0) for name, each in unet.state_dict().items()}
            other = UNet2DConditionModel.from_config(unet.config).eval()
            other.load_state_dict(changed)
            with by_hand(other, kind, theirs, hint, 0.7, paper=False):
                expected = other(step.x, step.timestep, step.context, **more).sample
            alone = expected if alone is None else alone
    assert alone is not None
    scale = expected.abs().max()
    assert (ours - expected).abs().max() <= TOLERANCE * scale
    assert (expected - plain).abs().max() > 1e-2 * scale
    assert (expected - alone).abs().max() > 1e-4 * scale  # the companion matters


@pytest.mark.parametrize("paper", [False, True])
def test_both_normalisations(tmp_path: Path, unet: Any, theirs: Theirs, kind: str, hint: Tensor, paper: bool) -> None:
    model = loaded(write(tmp_path, theirs, unet, kind), unet)
    step, more = step_of(unet)
    bound = model.bind({"normalisation": "paper" if paper else "code"})
    unit = ControlUnit(model=bound, hint=hint, weight=0.4, delta_strength=0.0)
    ours = drawn(unet, step, more, [unit])
    with by_hand(unet, kind, theirs, hint, 0.4, paper), torch.no_grad():
        expected = unet(step.x, step.timestep, step.context, **more).sample
    assert (ours - expected).abs().max() <= TOLERANCE * expected.abs().max()
    with pytest.raises(UnitError, match="expected one of code, paper"):
        model.bind({"normalisation": "both"})
    with pytest.raises(UnitError, match="has no option 'colour'"):
        model.bind({"colour": 1})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(tmp_path: Path, unet: Any, theirs: Theirs, kind: str, hint: Tensor, dtype: torch.dtype) -> None:
    path, (step, _) = write(tmp_path, theirs, unet, kind), step_of(unet)
    model = load_control_model(path, base_state=to_ldm(unet.state_dict()), dtype=dtype)
    whole = ControlStack([ControlUnit(model=loaded(path, unet), hint=hint)])(step)
    half = replace(
        step, x=step.x.to(dtype), context=step.context.to(dtype), y=None if step.y is None else step.y.to(dtype)
    )
    found = ControlStack([ControlUnit(model=model, hint=hint.to(dtype))])(half)
    (point,) = whole.shifts
    h = torch.randn(4, model.network.out, 8, 8, generator=torch.Generator().manual_seed(1))
    expected, ours = whole.shifts[point](h), found.shifts[point](h.to(dtype))
    assert ours.dtype == dtype
    assert (ours.float() - expected).abs().max() <= 0.05 * expected.abs().max()


def test_rows_of_their_own_hints_and_a_share_of_the_rows(
    tmp_path: Path, unet: Any, theirs: Theirs, kind: str, hint: Tensor
) -> None:
    model = loaded(write(tmp_path, theirs, unet, kind), unet)
    step, more = step_of(unet)
    hints = torch.cat([hint, hint.flip(-1)])
    unit = ControlUnit(model=model, hint=hints, mode=ControlMode.CONTROL, delta_strength=0.0)
    ours = drawn(unet, step, more, [unit])
    plain = drawn(unet, step, more, [])
    assert (ours[:2] - plain[:2]).abs().max() <= TOLERANCE * plain.abs().max()
    with by_hand(unet, kind, theirs, hints.repeat(2, 1, 1, 1), 1.0, paper=False), torch.no_grad():
        expected = unet(step.x, step.timestep, step.context, **more).sample
    assert (ours[2:] - expected[2:]).abs().max() <= TOLERANCE * expected.abs().max()


def test_a_hint_and_a_time_are_computed_once_for_all_pictures(
    tmp_path: Path, unet: Any, theirs: Theirs, kind: str, hint: Tensor
) -> None:
    model = loaded(write(tmp_path, theirs, unet, kind), unet)
    computed: list[int] = []
    model.network.register_forward_hook(lambda _, args, __: computed.append(len(args[0])))
    pictures = []
    for _ in range(2):  # the second picture's hint is another tensor of the same values
        stack = ControlStack([ControlUnit(model=model, hint=hint.clone())])
        for time in (900, 321, 321):
            step, more = step_of(unet, time=time)
            with Patches() as patches, torch.no_grad():
                attach(patches, stack(step), locate_in(unet))
                pictures.append(unet(step.x, step.timestep, step.context, **more).sample)
        stack.close()
    assert computed == [1, 1]
    assert pictures[0].equal(pictures[3]) and pictures[1].equal(pictures[5])
    ControlStack([ControlUnit(model=model, hint=hint * 0.5)])(step_of(unet)[0])
    assert computed == [1, 1, 1]
    both = [ControlUnit(model=model, hint=each) for each in (hint, hint * 0.25)]
    ControlStack(both)(step_of(unet)[0])
    assert computed == [1, 1, 1, 1]


def test_a_flat_control_adds_the_mean_and_no_rounding(tmp_path: Path, unet: Any, theirs: Theirs, kind: str) -> None:
    theirs.mid_convs[1].weight.zero_()
    theirs.mid_convs[1].bias.fill_(0.3)
    model = loaded(write(tmp_path, theirs, unet, kind), unet)
    step, _ = step_of(unet)
    effects = ControlStack([ControlUnit(model=model, hint=torch.rand(1, 3, 128, 128))])(step)
    (shift,) = effects.shifts.values()
    h = torch.randn(4, model.network.out, 16, 16)
    mean = h.mean((1, 2, 3), keepdim=True) * (theirs.scale if theirs.old else 1.0)
    assert (shift(h) - mean).abs().max() <= 1e-6


def test_memory_has_a_bound_and_keeps_what_is_asked_for_in_turn() -> None:
    answers = Remembered(limit=40)
    for time in range(4):
        answers.put("a", time, torch.zeros(1, 3))
    assert [answers.find("a", time) is not None for time in range(4)] == [True, True, True, False]
    answers.put("b", 0, torch.ones(1, 5))
    assert answers.bytes <= 40
    assert answers.find("b", 0) is not None and answers.find("a", 0) is None
    answers.put("b", 1, torch.ones(1, 50))
    assert answers.find("b", 1) is None


NAMES = {
    "controlnet.safetensors": "unet.safetensors",
    "canny_controlnext.safetensors": "canny_unet_weight_increasements.safetensors",
    "pose.safetensors": "pose.unet.safetensors",
    "depth.safetensors": "depth-unet.safetensors",
}


@pytest.mark.parametrize("name", NAMES)
def test_the_companion_is_found_by_its_name(tmp_path: Path, name: str) -> None:
    unet = tiny_unet("SDXL")
    theirs = randomise(Theirs(32, old=False, **SMALL))
    save_file(theirs.state_dict(), tmp_path / name)
    save_file(companion(unet, "sdxl"), tmp_path / NAMES[name])
    (tmp_path / "other_unet.safetensors").write_bytes(b"of something else")
    model = loaded(tmp_path / name, unet)
    assert model.delta is not None and model.delta.names
    if "increasements" in NAMES[name]:
        assert load_control_model(tmp_path / name).delta is not None  # its name says what it holds
    else:
        with pytest.raises(ModelError, match="may hold whole weights or differences: load the control together with"):
            load_control_model(tmp_path / name)
        said = {"companion_holds": "increments"}
        assert load_control_model(tmp_path / name, settings=said).delta is not None


def test_a_control_without_its_companion_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "canny.safetensors"
    save_file(randomise(Theirs(32, old=False, **SMALL)).state_dict(), path)
    with pytest.raises(UnsupportedModelError, match=r"is one of two files.*name it 'canny_unet'"):
        load_control_model(path)
    with pytest.raises(ModelError, match=r"there is no 'other\.safetensors' beside 'canny\.safetensors'"):
        load_control_model(path, settings={"companion": "other.safetensors"})
    with pytest.raises(ModelError, match="expected the name of a file in the same folder"):
        load_control_model(path, settings={"companion": "../other.safetensors"})
    assert inspect(path).base == "SD 1.x or SDXL, as its companion tells, which is not beside it"


def test_the_old_network_also_works_alone(tmp_path: Path) -> None:
    path = tmp_path / "pose.safetensors"
    save_file(randomise(Theirs(64, old=True, **SMALL)).state_dict(), path)
    assert load_control_model(path).delta is None


def test_a_companion_of_another_base_is_refused(tmp_path: Path) -> None:
    bases = {name: tiny_unet(name) for name in CONFIGS}
    theirs = randomise(Theirs(32, old=False, **SMALL))
    path = write(tmp_path, theirs, bases["SDXL"], "sdxl")
    with pytest.raises(IncompatibleModelError, match=r"'canny_unet\.safetensors' changes '.*' .* the loaded one has"):
        loaded(path, bases["SD"])
    model = load_control_model(path, settings={"companion_holds": "increments"})
    unit = ControlUnit(model=model, hint=torch.rand(1, 3, 128, 128))
    with pytest.raises(IncompatibleModelError, match="changes the weight"):
        drawn(bases["SD"], *step_of(bases["SD"]), [unit])


def test_a_control_for_videos_is_named_by_its_companion(tmp_path: Path) -> None:
    path = tmp_path / "controlnet.safetensors"
    save_file(randomise(Theirs(32, old=False, **SMALL)).state_dict(), path)
    name = "down_blocks.0.attentions.0.temporal_transformer_blocks.0.attn2.to_out.0.weight"
    save_file({name: torch.ones(4, 4)}, tmp_path / "unet.safetensors")
    for use in (inspect, load_control_model):
        with pytest.raises(UnsupportedModelError, match="is a ControlNeXt for Stable Video Diffusion"):
            use(path)


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(each.shape) for name, each in module.state_dict().items()}


@torch.no_grad()
def test_the_network_for_videos_equals_the_projects_on_frames() -> None:
    """`ControlNeXtSDVModel.forward`: frames as rows, the time of a video repeated for each; then its U-Net's lines."""
    theirs = randomise(Theirs(32, old=False, padding=0, **SMALL), 1)
    ours = VideoControlNeXt(shapes_of(theirs), STANDARD)
    ours.load_state_dict(theirs.state_dict())
    hints, time = torch.rand(2, 3, 3, 64, 96), torch.tensor([900.0, 17.0])
    found = ours.frames(hints, time)
    expected = theirs(hints.flatten(0, 1), time.repeat_interleave(3))
    assert found.shape == (2, 3, 32, 7, 11)  # 64 and 96 pixels, halved, less two at each end, halved twice
    assert torch.allclose(found.flatten(0, 1), expected, atol=1e-5, rtol=1e-4)
    stream = torch.randn(6, 32, 8, 12)
    over: dict[str, Any] = {"dim": (1, 2, 3), "keepdim": True}
    normed = (expected - expected.mean(**over)) * (stream.std(**over) / (expected.std(**over) + 1e-5))
    added = nn.functional.adaptive_avg_pool2d(normed + stream.mean(**over), (8, 12)) * 0.2
    assert torch.allclose(entering(stream, found.flatten(0, 1)), added, atol=1e-5, rtol=1e-4)


def test_the_network_for_videos_at_full_size() -> None:
    with torch.device("meta"):
        theirs = Theirs(320, old=False, padding=0, **FULL)
        ours = VideoControlNeXt(shapes_of(theirs), STANDARD)
        made = ours.frames(torch.empty(1, 14, 3, 576, 1024), torch.empty(1))
    assert shapes_of(ours) == shapes_of(theirs)
    assert made.shape == (1, 14, 320, 71, 127)
    assert entering(torch.empty(14, 320, 36, 64, device="meta"), made[0]).shape == (14, 320, 36, 64)


def test_a_damaged_companion_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "controlnet.safetensors"
    save_file(randomise(Theirs(32, old=False, **SMALL)).state_dict(), path)
    (tmp_path / "unet.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{broken")
    with pytest.raises(ModelError, match=r"unet\.safetensors") as caught:
        load_control_model(path)
    assert "\n" not in str(caught.value)


PUBLISHED = {"sd15": (320, 3.53), "sdxl": (320, 3.53), "old": (1280, 5.35)}  # (channels, millions of parameters)


def test_full_size_files_are_recognised(tmp_path: Path, kind: str) -> None:
    out, millions = PUBLISHED[kind]
    with torch.device("meta"):
        theirs = Theirs(out, old=kind == "old", **FULL)
    shapes = {name: tuple(each.shape) for name, each in theirs.state_dict().items()}
    assert [family.id for family in REGISTRY if family.detect(shapes)] == ["controlnext"]
    assert sum(map(math.prod, shapes.values())) / 1e6 == pytest.approx(millions, abs=0.005)
    path = write_sparse(tmp_path / "canny.safetensors", shapes)
    depth = "input_blocks.1.1" if kind == "sd15" else "input_blocks.4.1"
    name = f"{depth}.transformer_blocks.0.attn2.to_out.0.weight"
    write_sparse(tmp_path / "canny_unet.safetensors", {name: (320, 320)})
    told = inspect(path)
    assert (told.family, told.base) == ("ControlNeXt", "SDXL" if kind == "sdxl" else "SD 1.x")
    assert (told.missing, told.misshapen, told.unexpected) == ((), (), ())


def test_a_file_of_settings_beside_it_counts(tmp_path: Path) -> None:
    path = tmp_path / "canny.safetensors"
    save_file(randomise(Theirs(32, old=False, **SMALL)).state_dict(), path)
    save_file({"mid_block.attentions.0.x": torch.ones(3)}, tmp_path / "extra.safetensors")
    said = {"companion": "extra.safetensors", "companion_holds": "increments", "base": "sdxl"}
    path.with_suffix(".json").write_text(json.dumps(said))
    assert load_control_model(path).points[0].index == 0
    path.with_suffix(".json").write_text(json.dumps({**said, "base": "sd15"}))
    assert load_control_model(path).points[0].index == 3
