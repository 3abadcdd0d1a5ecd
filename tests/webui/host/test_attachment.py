"""Units on a tiny U-Net as both kinds of program have it, against the same changes written by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from controlstack.core.control import Prepared, Prompt
from controlstack.core.errors import HostError, IncompatibleModelError
from controlstack.core.network.attach import Patches
from controlstack.core.network.base import Base
from controlstack.core.network.effects import Effect, WeightDelta
from controlstack.core.network.points import Point
from controlstack.core.stack import ControlStack
from controlstack.core.step import Step
from controlstack.core.unit import ControlMode, ControlUnit
from controlstack.models.family import shapes_of
from controlstack.scripts.webui.host.unet.attachment import Attachment
from controlstack.scripts.webui.host.unet.deltas import Deltas
from controlstack.scripts.webui.host.unet.denoiser import Denoising
from controlstack.scripts.webui.host.unet.hooked import Hooked, casting_of
from controlstack.scripts.webui.host.unet.network import options_of
from controlstack.scripts.webui.host.unet.patched import Patched
from controlstack.scripts.webui.host.unet.tiles import Tiles
from controlstack.scripts.webui.pictures.restoring import Restoration
from controlstack.scripts.webui.request.evaluation import Evaluations
from controlstack.scripts.webui.request.passes import Pass
from families import Again, Family, families_of
from ldm_unet import CONTEXT, UNet
from torch import Tensor, nn

SIZE = (8, 8)  # latent pixels
# Where each family acts, and whether on what a module returns or receives, found by hand.
BLOCK = "input_blocks.1.1.transformer_blocks.0"
PLACES = {
    "cross-normed": ("input_blocks.1", "output"),
    "query tap": (f"{BLOCK}.attn1.to_q", "input"),
    "cross out": (f"{BLOCK}.attn2", "output"),
    "again": ("input_blocks.1", "output"),
    "stream": ("input_blocks.2", "output"),
    "middle": ("middle_block", "output"),
    "decoder": ("output_blocks.3", "output"),
    "prompt keys": (f"{BLOCK}.attn2.to_k", "input"),
    "decoder query": ("output_blocks.2.1.transformer_blocks.0.attn2.to_q", "input"),
    "skip": ("output_blocks.0", "channels"),
    "onward": ("input_blocks.1.0", "input"),
}
KINDS = [*PLACES, "delta"]
COND = (True, False, True, False)  # of four rows that one call shows


@pytest.fixture
def unet() -> UNet:
    return UNet()


def family(kind: str, unet: UNet) -> Family:
    return families_of(shapes_of(dict(unet.named_parameters())))[kind]


def hint() -> Tensor:
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


class Given:
    """What an evaluation shows; rows 0 and 2 are cond."""

    def __init__(self, rows: int = 4, size: tuple[int, int] = SIZE) -> None:
        generator = torch.Generator().manual_seed(2)
        self.x = torch.randn(rows, 4, *size, generator=generator)
        self.time = torch.full((rows,), 300.0)
        self.context = torch.randn(rows, 5, CONTEXT, generator=generator)


def make_evaluations(units: Sequence[ControlUnit]) -> tuple[Evaluations, Denoising, list[str]]:
    denoising, warnings = Denoising(), []
    present = Pass(
        size=SIZE, stack=ControlStack(units), denoising=denoising, originals=[],
        restoration=Restoration([], SimpleNamespace(), lambda: ()),  # type: ignore[arg-type]
    )  # fmt: skip
    passes: Any = SimpleNamespace(present=present)
    return Evaluations(passes, SimpleNamespace(), warnings.append), denoising, warnings  # type: ignore[arg-type]


class Hooking:
    """AUTOMATIC1111's WebUI: cond rows first, then uncond rows."""

    order = (0, 2, 1, 3)

    def __init__(self, unet: UNet, units: Sequence[ControlUnit], tiles: Tiles | None = None) -> None:
        self.unet = unet
        answers, self.denoising, self.warnings = make_evaluations(units)
        self.attachment: Attachment = Hooked(lambda: self.unet, answers, tiles)

    def sample(self, given: Given) -> Tensor:
        self.denoising.announce(len(given.x), len(given.x) // 2, 0, 3)
        rows = list(self.order) if len(given.x) == 4 else list(range(len(given.x)))
        answer = self.unet(given.x[rows], given.time[rows], context=given.context[rows])
        return answer[[rows.index(row) for row in range(len(rows))]]


class Patcher:
    """As `UnetPatcher`: a chain of controls, and options that clones do not share."""

    def __init__(self, unet: UNet) -> None:
        schedule = SimpleNamespace(calculate_input=lambda sigma, x: x / 2, timestep=lambda sigma: sigma * 10)
        self.model = SimpleNamespace(diffusion_model=unet, predictor=schedule, computation_dtype=torch.float32)
        self.options: dict[str, Any] = {"patches": {}}
        self.chain: Any = None

    def clone(self) -> Patcher:
        other = copy.copy(self)
        other.options = copy.deepcopy(self.options)
        return other

    def add_patched_controlnet(self, control: Any) -> None:
        control.set_previous_controlnet(self.chain)
        self.chain = control

    def list_controlnets(self) -> list[Any]:
        return [] if self.chain is None else [self.chain]

    def sample(self, given: Given) -> Tensor:
        """One evaluation: two parts, cond rows 0 and 2, uncond rows 1 and 3, each a whole block."""
        rows = [0, 2, 1, 3] if len(given.x) == 4 else list(range(len(given.x)))
        x, sigma, context = given.x[rows] * 2, given.time[rows] / 10, given.context[rows]
        options = {**self.options, "cond_or_uncond": [0, 1], "sigmas": sigma[: len(rows) // 2]}
        lists = None
        if self.chain is not None:
            self.chain.transformer_options = options
            lists = self.chain.get_control(x, sigma, {"c_crossattn": context, "transformer_options": options}, 2)
        schedule, unet = self.model.predictor, self.model.diffusion_model
        answer = unet(
            schedule.calculate_input(sigma, x), schedule.timestep(sigma), context=context, control=lists,
            transformer_options=options,
        )  # fmt: skip
        return answer[[rows.index(row) for row in range(len(rows))]]


class Patching:
    """A program of Forge's family."""

    def __init__(self, unet: UNet, units: Sequence[ControlUnit], tiles: Tiles | None = None) -> None:
        self.unet = unet
        answers, _, self.warnings = make_evaluations(units)
        self.shared = Patcher(unet)
        self.objects = SimpleNamespace(unet=self.shared)
        self.attachment: Attachment = Patched(lambda: self.unet, lambda: self.objects, answers)

    def sample(self, given: Given) -> Tensor:
        return self.objects.unet.sample(given)


PROGRAMS = (Hooking, Patching)


@contextmanager
def acting(program: Any) -> Iterator[Any]:
    try:
        program.attachment.begin()
        program.attachment.begin_pass()
        yield program
    finally:
        program.attachment.end()


@contextmanager
def by_hand(
    unet: UNet, family: Family, kind: str, given: Given, weigh: Callable[[Tensor], Tensor] = lambda added: added
) -> Iterator[None]:
    """The family's formula through one hook of this test; weigh: what becomes of a change, row by row."""
    prepared = family.prepare(hint())
    if isinstance(family, Again):
        seen: list[Tensor] = []
        handle = unet.get_submodule(PLACES[kind][0]).register_forward_hook(lambda *args: seen.append(args[2]))
        unet(family.other(given.x, prepared[0]), given.time, context=given.context)
        handle.remove()

    def added(h: Tensor) -> Tensor:
        return weigh(family.change(seen[0]) if isinstance(family, Again) else family.change(h, prepared[0]))

    def before(_: Any, args: Any) -> Any:
        if PLACES[kind][1] == "input":
            return (args[0] + added(args[0]), *args[1:])
        width = 16  # of the skip
        stream, skip = args[0][:, :-width], args[0][:, -width:]
        return (torch.cat([stream, skip + added(skip)], dim=1), *args[1:])

    module = unet.get_submodule(PLACES[kind][0])
    hook = (
        module.register_forward_hook(lambda _, __, output: output + added(output))
        if PLACES[kind][1] == "output"
        else module.register_forward_pre_hook(before)
    )
    yield
    hook.remove()


def plain_of(unet: UNet, given: Given) -> Tensor:
    return unet(given.x, given.time, context=given.context)


def traces(unet: nn.Module) -> int:
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in unet.modules())


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("program", PROGRAMS)
def test_each_equals_the_same_change_by_hand(unet: UNet, program: Any, kind: str) -> None:
    given, one = Given(), family(kind, unet)
    unit = ControlUnit(model=one, hint=hint(), weight=0.7, mode=ControlMode.CONTROL)
    factor = torch.tensor(COND).float() * 0.7 * one.soft_weights[0]
    plain = plain_of(unet, given)
    with by_hand(unet, one, kind, given, lambda added: added * factor.reshape(-1, *[1] * (added.ndim - 1))):
        expected = plain_of(unet, given)
    with acting(program(unet, [unit])) as running:
        for _ in range(2):
            answer = running.sample(given)
            assert (answer - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (expected - plain).abs().max() > 1e-4 * plain.abs().max()
    assert expected[~torch.tensor(COND)].allclose(plain[~torch.tensor(COND)], atol=1e-6)
    assert traces(unet) == 0 and plain_of(unet, given).equal(plain)


class Constant(Family):
    """The same tensor at one point."""

    def __init__(self, point: Point, tensor: Tensor) -> None:
        super().__init__("constant", nn.Module(), point)
        self.tensor = tensor

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Effect]]:
        yield from ((point, self.tensor) for point in points)


@pytest.mark.parametrize("kind", ["stream", "middle", "skip"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_shift_sees_the_tensor_at_its_point(unet: UNet, program: Any, kind: str) -> None:
    given, one = Given(), family(kind, unet)
    shapes = {"stream": (8, 4, 4), "middle": (16, 4, 4), "skip": (16, 4, 4)}
    tensor = torch.randn(1, *shapes[kind], generator=torch.Generator().manual_seed(5))
    module = unet.get_submodule(PLACES[kind][0])

    def skip_first(_: Any, args: Any) -> Any:
        return (torch.cat([args[0][:, :-16], args[0][:, -16:] + tensor], dim=1), *args[1:])

    first = (
        module.register_forward_pre_hook(skip_first)
        if kind == "skip"
        else module.register_forward_hook(lambda _, __, output: output + tensor)
    )
    with by_hand(unet, one, kind, given):
        expected = plain_of(unet, given)
    first.remove()
    units = [ControlUnit(model=each, hint=hint()) for each in (Constant(one.points[0], tensor), one)]
    with acting(program(unet, units)) as running:
        answer = running.sample(given)
    assert (answer - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert traces(unet) == 0


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_delta_equals_changed_weights(unet: UNet, program: Any) -> None:
    given, one = Given(), family("delta", unet)
    plain, before = plain_of(unet, given), {name: each.clone() for name, each in unet.state_dict().items()}
    assert one.delta is not None
    changed = UNet()
    for name in one.delta.names:
        dict(changed.named_parameters())[name].data.add_(0.5 * one.delta.of(name))
    expected = plain_of(changed, given)
    units = [ControlUnit(model=one, hint=hint(), delta_strength=0.5)] * 2  # of one file: it is changed once
    with acting(program(unet, units)) as running:
        assert (running.sample(given) - expected).abs().max() <= 1e-5 * expected.abs().max()
        assert all(each.equal(before[name]) for name, each in unet.state_dict().items())
    assert (expected - plain).abs().max() > 1e-3
    assert traces(unet) == 0 and plain_of(unet, given).equal(plain)


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("kind", [*KINDS, "all"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_failure_leaves_nothing_behind(unet: UNet, program: Any, kind: str, failure: type[BaseException]) -> None:
    given = Given()
    plain = plain_of(unet, given)
    models = [family(each, unet) for each in (KINDS if kind == "all" else [kind])]

    running = program(unet, [ControlUnit(model=each, hint=hint()) for each in models])

    def fail(*_: object) -> None:
        raise failure

    def sample_twice() -> None:
        with acting(running):
            running.sample(given)
            unet.out.register_forward_pre_hook(fail)
            running.sample(given)

    with pytest.raises(failure):
        sample_twice()
    unet.out._forward_pre_hooks.clear()
    assert traces(unet) == 0 and plain_of(unet, given).equal(plain)
    if isinstance(running, Patching):
        assert running.objects.unet is running.shared and running.shared.options == {"patches": {}}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_failure_does_not_reach_the_next_evaluation(unet: UNet, program: Any) -> None:
    """A sampler may go on after an exception in the middle of an evaluation."""
    given = Given()
    units = [ControlUnit(model=family(kind, unet), hint=hint()) for kind in ("middle", "decoder", "cross out")]
    with acting(program(unet, units)) as running:
        expected = running.sample(given)

        def fail(*_: object) -> None:
            handle.remove()
            raise KeyboardInterrupt

        handle = unet.output_blocks[0].register_forward_pre_hook(fail)
        with pytest.raises(KeyboardInterrupt):
            running.sample(given)
        assert running.sample(given).equal(expected)


@pytest.mark.parametrize("kind", ["cross-normed", "query tap", "again", "middle", "delta"])
def test_each_tile_sees_its_part(unet: UNet, kind: str) -> None:
    """Two tiles in one call equal two calls of one, whose hints are cut by hand."""
    tiles, whole = Tiles(lambda: SIZE), hint()
    given = Given(rows=4, size=(8, 4))
    model = family(kind, unet)
    with acting(Hooking(unet, [ControlUnit(model=model, hint=whole)], tiles)) as running:
        entry = tiles.control_params[0]
        entry.hint_cond = torch.cat([entry.hint_cond[:, :, :, start : start + 32] for start in (0, 0, 32, 32)])
        running.denoising.announce(2, 1, 0, 3)
        together = running.unet(given.x, given.time, context=given.context)
        assert not running.warnings
    for number, left in enumerate((0, 32)):
        rows = slice(2 * number, 2 * number + 2)
        alone = ControlUnit(model=model, hint=whole[..., left : left + 32])
        step = Given(rows=2)
        step.x, step.time, step.context = given.x[rows], given.time[rows], given.context[rows]
        with acting(Hooking(unet, [alone])) as running:
            running.denoising.announce(2, 1, 0, 3)
            answer = running.unet(step.x, step.time, context=step.context)
        assert (answer - together[rows]).abs().max() <= 1e-5 * together.abs().max()


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_refiner_gets_it_too_or_is_left_alone(unet: UNet, program: Any) -> None:
    given, network = Given(), nn.Identity()
    other, units = UNet(seed=1), [ControlUnit(model=family(kind, unet), hint=hint()) for kind in KINDS]
    with acting(program(other, units)) as running:
        expected = running.sample(given)
    with acting(program(unet, units)) as running:
        running.unet = other
        if isinstance(running, Patching):
            running.objects.unet = running.shared = Patcher(other)
        running.attachment.begin_evaluation(network)
        assert running.sample(given).equal(expected) and traces(unet) == 0
        running.unet = narrow = nn.Module()
        vars(narrow).update(channel_mult=(1,), num_res_blocks=1, model_channels=4, output_blocks=[])
        units[0].model.base = Base(blocks=(9,))
        running.attachment.begin_evaluation(network)
        assert "from here on without control" in running.warnings[-1]
        assert traces(other) == 0


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_delta_that_the_base_lacks_is_refused(unet: UNet, program: Any) -> None:
    model = family("delta", unet)
    model.delta = WeightDelta(tensors={"input_blocks.1.0.in_layers.2.weight": torch.zeros(3, 3)})
    running = program(unet, [ControlUnit(model=model, hint=hint())])
    with pytest.raises(IncompatibleModelError, match=r"input_blocks\.1\.0\.in_layers\.2\.weight"), acting(running):
        pass
    assert traces(unet) == 0


LAYERS = {
    "linear": (nn.Linear(6, 4), (3, 5, 6)),
    "convolution": (nn.Conv2d(6, 4, 3, stride=2, padding=1), (3, 6, 8, 8)),
    "seamless": (nn.Conv2d(6, 4, 3, padding=1, padding_mode="circular"), (3, 6, 8, 8)),
    "group norm": (nn.GroupNorm(2, 6), (3, 6, 8, 8)),
    "layer norm": (nn.LayerNorm(6), (3, 5, 6)),
}


@pytest.mark.parametrize("strength", [1.0, -0.3])
@pytest.mark.parametrize("kind", LAYERS)
def test_what_is_added_beside_a_weight_equals_a_changed_weight(kind: str, strength: float) -> None:
    layer, shape = LAYERS[kind]
    network, x = nn.ModuleDict({"layer": copy.deepcopy(layer)}), torch.randn(shape)
    network.requires_grad_(False)
    parameters = dict(network.named_parameters())
    tensors = {name: torch.randn(each.shape) for name, each in parameters.items()}
    model = Family("all", nn.Module(), None)
    ranks = {}
    if parameters["layer.weight"].ndim > 1:
        out, *rest = parameters["layer.weight"].shape
        ranks = {"layer.weight": (torch.randn(out, 2), torch.randn(2, *rest), 0.5)}
    model.delta = WeightDelta(tensors=tensors, low_rank=ranks)
    unit = ControlUnit(model=model, hint=hint(), delta_strength=strength)
    with Patches() as patches:
        Deltas([unit], network).attach(patches, [unit])
        answer = network["layer"](x)
    for name, each in parameters.items():
        each.data += strength * model.delta.of(name)
    assert answer.allclose(network["layer"](x), atol=1e-5, rtol=1e-4)


def test_a_layer_of_an_unknown_kind_is_refused() -> None:
    network = nn.ModuleDict({"layer": nn.Embedding(3, 4)})
    model = Family("all", nn.Module(), None)
    model.delta = WeightDelta(tensors={"layer.weight": torch.zeros(3, 4)})
    with pytest.raises(HostError, match="Embedding"):
        Deltas([ControlUnit(model=model, hint=hint())], network)


def test_differences_need_not_stay_where_they_are_used(unet: UNet) -> None:
    unit = ControlUnit(model=family("delta", unet), hint=hint())
    for keep in (True, False):
        deltas = Deltas([unit], unet, keep=keep)
        terms = [term for found in deltas._answers.values() for _, term in found]
        for term in terms:
            term._moved(torch.zeros(1, dtype=torch.float16))
        assert all(bool(term._there) is keep for term in terms)


def test_rows_of_a_call_are_parts_of_their_own() -> None:
    options = {
        "cond_or_uncond": [1, 0], "sigmas": torch.zeros(2), "cond_mark": torch.tensor([1.0, 1, 0, 0]),
        "cond_indices": [2, 3], "uncond_indices": [0, 1], "patches": {}, "other": 7,
    }  # fmt: skip
    found = options_of(options, (3, 0, 2), 4)
    assert found["cond_or_uncond"] == [0, 1, 0] and found["cond_mark"].tolist() == [0, 1, 0]
    assert (found["cond_indices"], found["uncond_indices"], found["other"]) == ([0, 2], [1], 7)
    assert options_of(options, (1, 3, 5), 8)["cond_or_uncond"] == [1, 0, 1]  # two tiles


def test_casting_is_restored_where_it_was_switched_off() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        restored = casting_of("cpu")
        with torch.autocast("cpu", enabled=False):
            assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype is torch.float32
            with restored():
                assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype is torch.bfloat16
    with casting_of("cpu")():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype is torch.float32
