"""What makes a training fit on one card: half precision, encodings kept, workers, and what else one may choose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from controlstack.core.errors import HostError, MissingDependencyError, ScheduleError
from controlstack.training import optimisers
from controlstack.training import start as starting
from controlstack.training.choices import SCHEDULES
from controlstack.training.data.encoding import Encoder
from controlstack.training.data.examples import Variety
from controlstack.training.data.hints import HintSource
from controlstack.training.loop import draw_times, loss_of, min_snr_weights, rate_of, train
from controlstack.training.settings import Settings
from controlstack.training.start import start
from diffusers import DDIMScheduler
from torch import Tensor, nn


@pytest.fixture
def half(settings: Settings) -> Iterator[Settings]:
    """Settings in bf16; accelerate keeps one precision for a process."""
    AcceleratorState._reset_state(True)
    yield replace(settings, mixed_precision="bf16")
    AcceleratorState._reset_state(True)


def test_frozen_parts_compute_in_half_precision(half: Settings) -> None:
    run = start(half)
    seen: dict[str, set[torch.dtype]] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            kinds = {each.dtype for each in (module.weight, output) if isinstance(each, Tensor)}
            seen.setdefault(name, set()).update(kinds)

        return hook

    parts = {"unet": run.base.unet, "vae": run.base.vae, "text": run.base.text_encoder}
    handles = [
        module.register_forward_hook(watch(name))
        for name, part in parts.items()
        for module in part.modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    ]
    next(train(run))
    for handle in handles:
        handle.remove()
    assert seen == {name: {torch.bfloat16} for name in parts}
    assert {each.dtype for _, each in run.plain.trained()} == {torch.float32}
    assert run.examples.row(0)["latents"].dtype == torch.float32


def test_unlocked_parts_stay_wide(half: Settings) -> None:
    run = start(replace(half, unlock="decoder", steps=2))
    kinds = {name.split(".")[0]: each.dtype for name, each in run.base.unet.named_parameters()}
    assert kinds["up_blocks"] == kinds["conv_out"] == torch.float32
    assert kinds["down_blocks"] == kinds["mid_block"] == torch.bfloat16
    assert all(np.isfinite(list(train(run))))
    assert run.base_delta()


def test_fp16_without_a_gpu_is_a_sentence(half: Settings) -> None:
    with pytest.raises(HostError, match="--mixed-precision fp16 needs a GPU"):
        start(replace(half, mixed_precision="fp16"))


def test_encodings_are_made_once_and_kept(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, row = [], Encoder.row

    def counted(encoder: Encoder, *given: Any) -> Any:
        made.append(given)
        return row(encoder, *given)

    monkeypatch.setattr(Encoder, "row", counted)
    plain = list(train(start(settings)))
    made.clear()
    cached = replace(settings, cache=tmp_path / "cache")
    assert list(train(start(cached))) == plain
    assert len(made) == 5
    assert list(train(start(cached))) == plain
    assert len(made) == 5  # all of them were on the disk
    (file, *_) = (tmp_path / "cache").rglob("*.safetensors")
    start(replace(cached, resolution=32))
    assert len(made) == 10  # other pictures have other encodings
    file.write_bytes(file.read_bytes()[:100])
    start(cached)
    assert len(made) == 11  # a damaged one is made again


def test_workers_read_what_comes_next_and_change_nothing(settings: Settings) -> None:
    run = start(replace(settings, workers=2, mirror=True))
    losses = list(train(run))
    run.examples.close()
    assert losses == list(train(start(replace(settings, mirror=True))))


def test_views_depend_on_seed_and_number_alone() -> None:
    variety = Variety(mirror=True, crop=True)
    views = [variety.view(1, index) for index in range(200)]
    assert views == [variety.view(1, index) for index in range(200)]
    assert views != [variety.view(2, index) for index in range(200)]
    assert 70 < sum(view.mirrored for view in views) < 130
    assert len({view.across for view in views}) == 200
    assert {Variety().view(1, index) for index in range(9)} == {Variety().view(0, 0)}


def test_crops_and_mirrors_change_what_is_learned(settings: Settings) -> None:
    own = replace(settings, steps=1)
    losses = [list(train(start(each))) for each in (own, replace(own, random_crop=True), replace(own, mirror=True))]
    assert len({loss for (loss,) in losses}) >= 2


def test_min_snr_follows_its_formula() -> None:
    times = torch.tensor([0, 400, 999])
    for kind in ("epsilon", "v_prediction"):
        scheduler = DDIMScheduler(prediction_type=kind, steps_offset=1)
        signal = scheduler.alphas_cumprod[times]
        ratio = signal / (1 - signal)
        capped = torch.minimum(ratio, torch.tensor(5.0))
        expected = capped / ratio if kind == "epsilon" else capped / (ratio + 1)
        assert torch.allclose(min_snr_weights(scheduler, times, 5.0), expected)


def test_min_snr_without_any_signal_is_finite() -> None:
    scheduler = DDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True, steps_offset=1)
    assert min_snr_weights(scheduler, torch.tensor([999]), 5.0).item() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        {"min_snr": 0.5},
        {"noise_offset": 0.3},
        {"empty_hints": 1.0},
        {"times": "cubic"},
        {"optimiser": "sgd"},
        {"optimiser": "adafactor"},
        {"weight_decay": 1.0},
    ],
)
def test_each_option_changes_what_is_learned(quick: Settings, losses: list[float], change: dict[str, Any]) -> None:
    assert list(train(start(replace(quick, **change)))) != losses


@pytest.fixture(scope="module")
def quick(world: Path) -> Settings:
    hints = HintSource(preprocessor="canny")
    small: dict[str, Any] = {"steps": 2, "batch": 2, "resolution": 64, "warm_up": 0}
    return Settings(base=world / "base", data=world / "data", hints=hints, learning_rate=0.1, **small)


@pytest.fixture(scope="module")
def losses(quick: Settings) -> list[float]:
    """What is lost where no option is given."""
    return list(train(start(quick)))


def test_an_empty_hint_is_black(settings: Settings) -> None:
    black = start(replace(settings, empty_hints=1.0))
    batch = black.examples.batch(0, 2, 0)
    assert batch["hint"].any()
    expected = loss_of(black, {**batch, "hint": torch.zeros_like(batch["hint"])})
    again = start(replace(settings, empty_hints=1.0))
    assert loss_of(again, batch).item() == expected.item()


def test_cubic_times_favour_the_noisy_ones() -> None:
    times = draw_times(20_000, 1000, "cubic", torch.Generator().manual_seed(0)).float()
    assert times.mean().item() == pytest.approx(750, abs=10)  # of 1 - u^3
    assert times.min() >= 0
    assert times.max() <= 999


OF_DIFFUSERS = {  # ours, and how diffusers calls it
    "cosine_with_restarts": ({"cycles": 3}, {"num_cycles": 3}),
    "polynomial": ({"power": 2.0}, {"power": 2.0}),
    "piecewise_constant": ({"pieces": "1:20,0.1:40,0.01"}, {"step_rules": "1:20,0.1:40,0.01"}),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_those_of_diffusers_after_the_warm_up(settings: Settings, name: str) -> None:
    from diffusers.optimization import get_scheduler

    ours, their = OF_DIFFUSERS.get(name, ({}, {}))
    rate = rate_of(replace(settings, schedule=name, steps=50, warm_up=10, **ours))
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
    theirs = get_scheduler(name, optimiser, num_warmup_steps=0, num_training_steps=50, **their)
    for step in range(50):
        assert rate(step) == pytest.approx(min(1.0, (step + 1) / 10) * theirs.get_last_lr()[0])
        optimiser.step()
        theirs.step()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cycles": 2}, "--cycles is of --schedule cosine_with_restarts alone"),
        ({"schedule": "cosine", "power": 2.0}, "--power is of --schedule polynomial alone"),
        ({"pieces": "1:10,0.1"}, "--pieces is of --schedule piecewise_constant alone"),
        ({"schedule": "piecewise_constant"}, "--pieces is '', expected factors of the rate"),
        ({"schedule": "piecewise_constant", "pieces": "1:ten,0.1"}, "--pieces is '1:ten,0.1'"),
        ({"schedule": "piecewise_constant", "pieces": "0.1"}, "--pieces is '0.1'"),
        ({"schedule": "polynomial", "power": 0.0}, "--power is 0.0, expected more than 0"),
        ({"schedule": "cosine_with_restarts", "cycles": 0}, "--cycles is 0, expected 1 or more"),
        ({"weight_decay": -0.1}, "--weight-decay is -0.1, expected 0"),
    ],
)
def test_what_fits_no_schedule_is_refused(settings: Settings, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ScheduleError, match=said):
        replace(settings, **change)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the packages themselves
@pytest.mark.parametrize(("name", "package"), [("prodigy", "prodigyopt"), ("adamw-8bit", "bitsandbytes")])
def test_an_optimiser_of_a_package_goes_on(quick: Settings, tmp_path: Path, name: str, package: str) -> None:
    pytest.importorskip(package)
    own = replace(quick, optimiser=name, learning_rate=None, steps=4)
    whole, first, second = start(own), start(own), start(own)
    steps = train(first)
    next(steps), next(steps)
    first.save(tmp_path / "a.state")
    second.load(tmp_path / "a.state")
    assert list(train(whole)) == [*first.losses, *train(second)]
    for (_, one), (_, other) in zip(whole.plain.trained(), second.plain.trained(), strict=True):
        assert one.equal(other)


def test_prodigy_finds_its_rate() -> None:
    pytest.importorskip("prodigyopt")
    weight = nn.Parameter(torch.ones(10))
    optimiser = optimisers.make_optimiser("prodigy", [{"params": [weight], "lr": 1.0, "full": 1.0}])
    rates = [optimisers.rate_now(optimiser)]
    for _ in range(100):
        optimiser.zero_grad()
        weight.square().sum().backward()
        optimiser.step()
        rates.append(optimisers.rate_now(optimiser))
    assert rates[0] == pytest.approx(1e-6)
    assert rates[-1] > 1e-3
    assert weight.abs().max() < 0.5


class Prodigy(torch.optim.SGD):
    """Stands for the package's, which refuses several rates at the first step only."""

    def __init__(self, groups: Any, use_bias_correction: bool, safeguard_warmup: bool) -> None:
        super().__init__(groups)


def test_prodigy_is_for_one_rate(of_family: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    package = SimpleNamespace(Prodigy=Prodigy)
    monkeypatch.setattr(optimisers, "import_module", lambda _name: package)
    own = of_family("controlnext", optimiser="prodigy", learning_rate=None)
    with pytest.raises(ScheduleError, match=r"finds one learning rate .* at 1 and 0\.1: give --unlock-rate 1, or"):
        start(own)
    groups = start(replace(own, unlock_rate=1.0)).optimiser.param_groups
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(1.0, optimisers.DECAY)] * 2


def test_epochs_are_counted_in_steps(settings: Settings) -> None:
    assert start(replace(settings, epochs=4, accumulate=2)).settings.steps == 5  # of 5 examples, 4 a step
    with pytest.raises(ScheduleError, match="--epochs is -1"):
        replace(settings, epochs=-1)


@pytest.mark.parametrize(
    ("option", "package"), [("adamw-8bit", "bitsandbytes"), ("prodigy", "prodigyopt"), ("", "wandb")]
)
def test_an_optional_package_that_lacks_is_named(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, option: str, package: str
) -> None:
    real = starting.import_module

    def absent(name: str) -> Any:
        if name.startswith(package):
            raise ImportError(name)
        return real(name)

    for module in (starting, optimisers):
        monkeypatch.setattr(module, "import_module", absent)
    change = {"optimiser": option} if option else {"trackers": ("wandb",)}
    with pytest.raises(MissingDependencyError, match=f"pip install {package}"):
        start(replace(settings, **change))
