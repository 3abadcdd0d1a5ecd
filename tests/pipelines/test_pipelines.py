"""Our stack in a stock pipeline against diffusers' own control pipelines, and what a run leaves behind."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from controlstack.core.errors import HostError, IncompatibleModelError
from controlstack.core.schedule import Schedule
from controlstack.core.stack import ControlStack
from controlstack.core.unit import ControlMode, ControlUnit
from controlstack.pipelines.attached import Injection, base_of
from controlstack.pipelines.bases import Base, Offload, load_base
from controlstack.pipelines.drawing import generate
from controlstack.pipelines.request import Request
from controlstack.pipelines.schedulers import NAMES, make_scheduler, scheduler_name
from controlstack.pipelines.tiny_world import BASE
from diffusers import (
    MultiAdapter,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLAdapterPipeline,
    StableDiffusionXLControlNetPipeline,
    T2IAdapter,
)
from torch import Tensor

TOLERANCE = 1e-4  # of the largest latent
SIDE, STEPS = 64, 3
COUNTS = {"pndm": "3 of 5"}  # it evaluates its second step twice
Build = Callable[[Base, int], tuple[Any, Any]]
COMMON: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": 3.0, "output_type": "latent"}
PROMPT = {"prompt": "a red star on blue", "negative_prompt": "green"}


def _noise() -> Tensor:
    return torch.randn(1, 4, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(0))


def _hint(seed: int = 1) -> Tensor:
    return torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def _ours(pipeline: Any, units: list[ControlUnit], **arguments: Any) -> Tensor:
    with Injection(pipeline, ControlStack(units), pictures=1):
        return pipeline(**PROMPT, **COMMON, **arguments).images


def _theirs(kind: Any, base: Base, **parts: Any) -> Any:
    pipeline = kind(**{**base.pipeline.components, **parts})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _assert_same(ours: Tensor, theirs: Tensor, plain: Tensor) -> None:
    assert (theirs - plain).abs().max() > 20 * TOLERANCE * plain.abs().max()  # the control matters
    assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max()


def _size() -> dict[str, Any]:
    return {"latents": _noise(), "height": SIDE, "width": SIDE}


@pytest.mark.parametrize("weight", [1.0, 0.6])
def test_one_controlnet_equals_diffusers(tiny: Base, build: Build, weight: float) -> None:
    control, model = build(tiny, 1)
    theirs = _theirs(StableDiffusionControlNetPipeline, tiny, controlnet=control)
    expected = theirs(**PROMPT, **COMMON, **_size(), image=_hint(), controlnet_conditioning_scale=weight).images
    got = _ours(tiny.pipeline, [ControlUnit(model=model, hint=_hint(), weight=weight)], **_size())
    _assert_same(got, expected, _ours(tiny.pipeline, [], **_size()))


@pytest.mark.parametrize("pictures", [1, 2])
def test_a_picture_is_one_row_until_its_prompts_set_it_apart(tiny: Base, build: Build, pictures: int) -> None:
    seen: set[int] = set()
    _, model = build(tiny, 1)
    begin, end = (model.network.get_submodule(name) for name in ("input_blocks.0.0", "middle_block_out.0"))
    for layer in (begin, end):
        layer.register_forward_pre_hook(lambda _layer, args: seen.add(len(args[0])))
    with Injection(tiny.pipeline, ControlStack([ControlUnit(model=model, hint=_hint())]), pictures=pictures):
        tiny.pipeline(**PROMPT, **COMMON, num_images_per_prompt=pictures, height=SIDE, width=SIDE)
    assert seen == {pictures, 2 * pictures}


def test_two_controlnets_and_a_range_equal_diffusers(tiny: Base, build: Build) -> None:
    (first, one), (second, two) = build(tiny, 1), build(tiny, 2)
    theirs = _theirs(StableDiffusionControlNetPipeline, tiny, controlnet=[first, second])
    expected = theirs(
        **PROMPT,
        **COMMON,
        **_size(),
        image=[_hint(), _hint(2)],
        controlnet_conditioning_scale=[1.0, 0.5],
        control_guidance_start=[0.0, 0.3],
        control_guidance_end=[2 / 3, 1.0],
    ).images
    units = [
        ControlUnit(model=one, hint=_hint(), schedule=Schedule(end=2 / 3)),
        ControlUnit(model=two, hint=_hint(2), weight=0.5, schedule=Schedule(start=0.3)),
    ]
    _assert_same(_ours(tiny.pipeline, units, **_size()), expected, _ours(tiny.pipeline, [], **_size()))


def test_sdxl_equals_diffusers(xl: Base, build: Build) -> None:
    control, model = build(xl, 3)
    theirs = _theirs(StableDiffusionXLControlNetPipeline, xl, controlnet=control)
    expected = theirs(**PROMPT, **COMMON, **_size(), image=_hint()).images
    got = _ours(xl.pipeline, [ControlUnit(model=model, hint=_hint())], **_size())
    _assert_same(got, expected, _ours(xl.pipeline, [], **_size()))


def test_two_sdxl_controlnets_and_a_range_equal_diffusers(xl: Base, build: Build) -> None:
    (first, one), (second, two) = build(xl, 3), build(xl, 4)
    theirs = _theirs(StableDiffusionXLControlNetPipeline, xl, controlnet=[first, second])
    scales = {"controlnet_conditioning_scale": [1.0, 0.5], "control_guidance_end": [2 / 3, 1.0]}
    expected = theirs(**PROMPT, **COMMON, **_size(), image=[_hint(), _hint(2)], **scales).images
    units = [
        ControlUnit(model=one, hint=_hint(), schedule=Schedule(end=2 / 3)),
        ControlUnit(model=two, hint=_hint(2), weight=0.5),
    ]
    _assert_same(_ours(xl.pipeline, units, **_size()), expected, _ours(xl.pipeline, units[1:], **_size()))


def test_a_t2i_adapter_equals_diffusers(tiny: Base, adapter: T2IAdapter, as_ours: Callable[[Any, str], Any]) -> None:
    parts = {name: part for name, part in tiny.pipeline.components.items() if name != "image_encoder"}
    theirs = StableDiffusionAdapterPipeline(**parts, adapter=adapter, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    expected = theirs(**PROMPT, **COMMON, **_size(), image=_hint()).images
    got = _ours(tiny.pipeline, [ControlUnit(model=as_ours(adapter, "t2i"), hint=_hint())], **_size())
    _assert_same(got, expected, _ours(tiny.pipeline, [], **_size()))


def test_two_adapters_equal_diffusers(tiny: Base, adapter: T2IAdapter, as_ours: Callable[[Any, str], Any]) -> None:
    other = T2IAdapter(3, [32, 64, 64, 64], num_res_blocks=2, downscale_factor=8)
    for parameter in other.parameters():
        parameter.data.normal_(0, 0.05, generator=torch.Generator().manual_seed(parameter.numel()))
    parts = {name: part for name, part in tiny.pipeline.components.items() if name != "image_encoder"}
    both = MultiAdapter([adapter, other.eval()])
    theirs = StableDiffusionAdapterPipeline(**parts, adapter=both, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    scales = {"adapter_conditioning_scale": [0.5, 1.0]}
    expected = theirs(**PROMPT, **COMMON, **_size(), image=[_hint(), _hint(2)], **scales).images
    units = [
        ControlUnit(model=as_ours(adapter, "one"), hint=_hint(), weight=0.5),
        ControlUnit(model=as_ours(other, "two"), hint=_hint(2)),
    ]
    _assert_same(_ours(tiny.pipeline, units, **_size()), expected, _ours(tiny.pipeline, units[:1], **_size()))


def test_an_sdxl_adapter_equals_diffusers(xl: Base, as_ours: Callable[[Any, str], Any]) -> None:
    made = T2IAdapter(3, [32, 64, 64, 64], num_res_blocks=2, downscale_factor=16, adapter_type="full_adapter_xl")
    for parameter in made.parameters():
        parameter.data.normal_(0, 0.05, generator=torch.Generator().manual_seed(parameter.numel()))
    parts = {name: part for name, part in xl.pipeline.components.items() if name != "image_encoder"}
    theirs = StableDiffusionXLAdapterPipeline(**parts, adapter=made.eval())
    theirs.set_progress_bar_config(disable=True)
    expected = theirs(**PROMPT, **COMMON, **_size(), image=_hint()).images
    got = _ours(xl.pipeline, [ControlUnit(model=as_ours(made, "t2i-xl"), hint=_hint())], **_size())
    _assert_same(got, expected, _ours(xl.pipeline, [], **_size()))


@pytest.mark.parametrize(("world", "weight"), [("tiny", 20.0), ("xl", 20.0)])
def test_guess_mode_equals_diffusers(request: pytest.FixtureRequest, build: Build, world: str, weight: float) -> None:
    """Their guess mode is control on the cond rows, with weights that rise tenfold towards the middle."""
    base = request.getfixturevalue(world)
    control, model = build(base, 1)
    kind = StableDiffusionControlNetPipeline if world == "tiny" else StableDiffusionXLControlNetPipeline
    theirs = _theirs(kind, base, controlnet=control)
    expected = theirs(
        **PROMPT, **COMMON, **_size(), image=_hint(), guess_mode=True, controlnet_conditioning_scale=weight
    ).images
    weights = tuple(torch.logspace(-1, 0, len(model.points)).tolist())
    unit = ControlUnit(model=model, hint=_hint(), weight=weight, mode=ControlMode.CONTROL, block_weights=weights)
    got = _ours(base.pipeline, [unit], **_size())
    _assert_same(got, expected, _ours(base.pipeline, [], **_size()))
    other = _ours(base.pipeline, [replace(unit, block_weights=None)], **_size())
    assert (other - expected).abs().max() > 2 * TOLERANCE * expected.abs().max()  # another list would be noticed


def test_img2img_equals_diffusers(tiny: Base, build: Build) -> None:
    from diffusers import StableDiffusionImg2ImgPipeline

    control, model = build(tiny, 1)
    start = {"strength": 0.7, "num_inference_steps": 6, "guidance_scale": 3.0, "output_type": "latent"}
    picture = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))

    def arguments() -> dict[str, Any]:
        return {**PROMPT, **start, "image": picture, "generator": torch.Generator().manual_seed(0)}

    theirs = _theirs(StableDiffusionControlNetImg2ImgPipeline, tiny, controlnet=control)
    expected = theirs(**arguments(), control_image=_hint(), controlnet_conditioning_scale=1.0).images
    plain = _theirs(StableDiffusionImg2ImgPipeline, tiny)
    with Injection(plain, ControlStack([ControlUnit(model=model, hint=_hint())]), pictures=1):
        got = plain(**arguments()).images
    _assert_same(got, expected, plain(**arguments()).images)


def _request(**settings: Any) -> Request:
    return Request(**{"steps": STEPS, "guidance": 3.0, "width": SIDE, "height": SIDE, "scheduler": "ddim", **settings})


def test_weight_0_is_no_control_bit_for_bit(tiny: Base, build: Build) -> None:
    _, model = build(tiny, 1)
    idle = ControlUnit(model=model, hint=_hint(), weight=0.0)
    plain, got = generate(tiny, _request()), generate(tiny, _request(), [idle])
    assert (got.images == plain.images).all()
    assert str(got.firings[0]) == "0 of 3"
    assert (generate(tiny, _request(), [replace(idle, weight=1.0)]).images != plain.images).any()


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_no_trace(tiny: Base, build: Build, failure: type[BaseException]) -> None:
    _, model = build(tiny, 1)
    before, scheduler = generate(tiny, _request()).images, tiny.pipeline.scheduler

    def fail(step: int) -> None:
        raise failure

    with pytest.raises(failure):
        generate(tiny, _request(), [ControlUnit(model=model, hint=_hint())], fail)
    assert not tiny.pipeline.unet._forward_pre_hooks
    assert tiny.pipeline.scheduler is scheduler
    assert (generate(tiny, _request()).images == before).all()


@pytest.fixture(scope="module")
def early(tiny: Base, build: Build) -> ControlUnit:
    """A unit that acts in the first half."""
    return ControlUnit(model=build(tiny, 1)[1], hint=_hint(), schedule=Schedule(end=0.5))


@pytest.mark.parametrize("name", NAMES)
def test_every_scheduler_draws_and_counts_its_steps(tiny: Base, early: ControlUnit, name: str) -> None:
    request = _request(steps=4, scheduler=name)
    result = generate(tiny, request, [early])
    assert result.images.std() > 1
    assert not np.array_equal(result.images, generate(tiny, request).images)
    assert str(result.firings[0]) == COUNTS.get(name, "2 of 4")


def test_an_unknown_scheduler_names_its_neighbours(tiny: Base) -> None:
    with pytest.raises(HostError, match="euler"):
        make_scheduler("eulr", tiny.pipeline.scheduler.config)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("UniPC", "unipc"), ("DPM++", "dpm++ 2m"), ("dpmpp_2m_sde", "dpm++ 2m sde"), ("Euler-Ancestral", "euler a")],
)
def test_schedulers_go_by_their_usual_names(name: str, meant: str) -> None:
    assert scheduler_name(name) == meant


def test_eta_is_the_noise_of_ddim(tiny: Base) -> None:
    """Other pictures, the same ones for the same seed; also at 1 on a schedule that ends without signal."""
    assert tiny.pipeline.scheduler.config.rescale_betas_zero_snr
    drawn = [generate(tiny, _request(scheduler="ddim", eta=eta, seed=3)).images for eta in (0.0, 0.0, 1.0, 1.0)]
    assert np.array_equal(drawn[0], drawn[1])
    assert np.array_equal(drawn[2], drawn[3])
    assert not np.array_equal(drawn[0], drawn[2])


def test_pictures_that_are_not_finite_name_the_damaged_weight(tiny: Base) -> None:
    weight = tiny.pipeline.vae.decoder.layers[0].bias
    before = weight.detach().clone()
    try:
        weight.data.fill_(float("nan"))
        with pytest.raises(
            HostError, match=r"'decoder\.layers\.0\.bias' of the base model's vae: get the base model again"
        ):
            generate(tiny, _request())
    finally:
        weight.data.copy_(before)


@pytest.mark.parametrize(
    ("dtype", "advice"),
    [
        (torch.float32, "lower --guidance and the units' weights"),
        (torch.bfloat16, "computes in torch.bfloat16, .*: give --dtype fp32$"),
        (torch.float16, "computes in torch.float16, .*: give --dtype fp32 or bf16$"),
    ],
    ids=str,
)
def test_pictures_that_are_not_finite_advise_a_dtype_that_is_another(dtype: torch.dtype, advice: str) -> None:
    base = load_base(BASE, dtype=dtype)
    base.pipeline.unet.conv_out.weight.data.fill_(torch.finfo(dtype).max)
    with pytest.raises(HostError, match=advice):
        generate(base, _request())


def test_picture_k_of_a_batch_is_the_single_picture_of_seed_k(tiny: Base) -> None:
    batch = generate(tiny, _request(batch=2, seed=5))
    single = generate(tiny, _request(seed=6))
    assert batch.seeds == (5, 6)
    assert np.abs(batch.images[1].astype(int) - single.images[0]).max() <= 1


def test_img2img_counts_the_steps_it_really_runs(tiny: Base, build: Build) -> None:
    _, model = build(tiny, 1)
    start = np.full((SIDE, SIDE, 3), 128, np.uint8)
    request = _request(steps=8, image=start, strength=0.5)
    result = generate(tiny, request, [ControlUnit(model=model, hint=_hint(), schedule=Schedule(end=0.5))])
    assert str(result.firings[0]) == "2 of 4"


def test_the_wrong_base_is_refused_before_any_step(tiny: Base, xl: Base, build: Build) -> None:
    _, model = build(xl, 3)
    with pytest.raises(IncompatibleModelError, match="control-3"):
        generate(tiny, _request(), [ControlUnit(model=model, hint=_hint())])


def test_the_widths_of_a_base_are_those_of_its_controls(tiny: Base, xl: Base, build: Build) -> None:
    for base in (tiny, xl):
        assert build(base, 1)[1].base == base_of(base.pipeline.unet)


@pytest.mark.parametrize(
    "settings",
    [
        {"width": 511},
        {"height": 0},
        {"width": 80_000, "height": 8_000},
        {"steps": 0},
        {"batch": 0},
        {"strength": 0.0},
        {"strength": 1.5},
        {"strength": 0.04, "image": np.zeros((8, 8, 3), np.uint8)},
        {"guidance": math.nan},
        {"seed": -1},
        {"seed": 2**63},
        {"scheduler": "ddim", "eta": math.nan},
        {"scheduler": "ddim", "eta": 1.1},
        {"eta": 0.5},
    ],
)
def test_senseless_requests_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(HostError, match="expected"):
        Request(**settings)


def test_a_folder_or_file_that_is_no_base_is_refused(tmp_path: Any) -> None:
    with pytest.raises(HostError, match="model_index"):
        load_base(tmp_path)
    with pytest.raises(HostError, match="no checkpoint"):
        load_base(tmp_path / "missing.safetensors")


def _devices(model: Any) -> set[str]:
    return {parameter.device.type for parameter in model.network.parameters()}


def test_a_host_brings_networks_to_its_device(tiny: Base, build: Build) -> None:
    _, model = build(tiny, 1)
    with Base(tiny.pipeline, torch.device("meta"), Offload.NONE).ready(model):
        assert _devices(model) == {"meta"}


def test_a_sequential_host_keeps_no_weights_with_the_network(tiny: Base, build: Build) -> None:
    _, model = build(tiny, 1)
    before = {name: weight.clone() for name, weight in model.network.state_dict().items()}
    with Base(tiny.pipeline, torch.device("cpu"), Offload.SEQUENTIAL).ready(model):
        assert _devices(model) == {"meta"}  # each layer brings its own when it is called
    assert all(model.network.state_dict()[name].equal(weight) for name, weight in before.items())


@pytest.mark.parametrize("offload", [Offload.MODEL, Offload.SEQUENTIAL])
def test_offloading_changes_no_picture(
    tiny: Base, offloaded: Any, build: Build, adapter: T2IAdapter, as_ours: Any, offload: Offload
) -> None:
    units = [
        ControlUnit(model=build(tiny, 1)[1], hint=_hint()),
        ControlUnit(model=as_ours(adapter, "t2i"), hint=_hint(), weight=0.5),
    ]
    plain, expected = generate(tiny, _request()).images, generate(tiny, _request(), units).images
    base = offloaded(offload)
    got = generate(base, _request(), units).images
    assert (got == expected).all()
    assert (got != plain).any()
    assert not base.pipeline.unet._forward_pre_hooks
    assert all(_devices(unit.model) == {"cpu"} for unit in units)
    resting = {parameter.device.type for parameter in base.pipeline.unet.parameters()}
    assert resting == ({"meta"} if offload is Offload.SEQUENTIAL else {"cpu"})


@pytest.mark.parametrize("offload", [Offload.MODEL, Offload.SEQUENTIAL])
def test_offloading_from_the_cpu_to_the_cpu_is_refused(offload: Offload) -> None:
    with pytest.raises(HostError, match="--device"):
        load_base(BASE, offload=offload)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.parametrize("offload", [Offload.NONE, Offload.MODEL, Offload.SEQUENTIAL])
def test_an_accelerator_draws_the_same_with_every_offload(tiny: Base, build: Build, offload: Offload) -> None:
    unit = ControlUnit(model=build(tiny, 1)[1], hint=_hint())
    expected = generate(tiny, _request(), [unit]).images.astype(int)
    got = generate(load_base(BASE, device="cuda", offload=offload), _request(), [unit]).images
    assert np.abs(got - expected).mean() < 1  # of 255: another device rounds otherwise


@pytest.mark.parametrize("offload", [Offload.MODEL, Offload.SEQUENTIAL])
def test_an_exception_while_offloading_leaves_networks_whole(tiny: Base, build: Build, offload: Offload) -> None:
    _, model = build(tiny, 1)
    host = Base(tiny.pipeline, torch.device("cpu"), offload)
    with pytest.raises(KeyboardInterrupt), host.ready(model):
        raise KeyboardInterrupt
    assert _devices(model) == {"cpu"}


def test_each_picture_may_have_its_prompt() -> None:
    with pytest.raises(HostError, match="1 prompts for 2 pictures"):
        Request(prompt=("a",), batch=2)
    assert Request(prompt=("a", "b"), batch=2).prompts == ("a", "b")
    assert Request(prompt="a", batch=2).prompts == ("a", "a")


def test_the_page_names_every_scheduler() -> None:
    page = (Path(__file__).parents[2] / "docs" / "standalone.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in NAMES)
