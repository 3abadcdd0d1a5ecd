"""What makes a training fit on one card: half precision, gradients by checkpoints, encodings kept, workers, a plan."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from controlstack.core.errors import HostError, MissingDependencyError, ScheduleError
from controlstack.training import start as starting
from controlstack.training.choices import FAMILIES, SCHEDULES
from controlstack.training.data.encoding import Encoder
from controlstack.training.data.examples import Variety
from controlstack.training.loop import draw_times, loss_of, min_snr_weights, rate_of, train
from controlstack.training.report.plan import activations, memory, plan
from controlstack.training.run import Run
from controlstack.training.settings import Settings
from controlstack.training.start import start
from diffusers import DDIMScheduler
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


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


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointed_gradients_are_the_same_and_keep_less(of_family: Callable[..., Settings], family: str) -> None:
    runs = [start(of_family(family, gradient_checkpointing=on, steps=2)) for on in (False, True)]
    losses = [list(train(run)) for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    found = [{name: each.detach() for name, each in run.plain.trained()} for run in runs]
    for name, each in found[0].items():
        assert torch.allclose(found[1][name], each, atol=1e-5), name
    kept = [_kept(run) for run in runs]
    assert kept[1] < (0.8 if family == "controlnet" else 1.0) * kept[0]


def _kept(run: Run) -> int:
    """Bytes that one step keeps for its gradients."""
    total, weights = {}, {each.untyped_storage().data_ptr() for each in run.plain.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            total[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = run.examples.batch(0, 2, 0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_of(run, batch)
    run.plain.release()
    del loss
    return sum(total.values())


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
    start(replace(cached, resolution=64))
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
    own = replace(settings, resolution=64, steps=1)
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
    "change", [{"min_snr": 0.5}, {"noise_offset": 0.3}, {"empty_hints": 1.0}, {"times": "cubic"}, {"optimiser": "sgd"}]
)
def test_each_option_changes_what_is_learned(settings: Settings, change: dict[str, Any]) -> None:
    own = replace(settings, steps=3, learning_rate=0.1, warm_up=0)
    assert list(train(start(replace(own, **change)))) != list(train(start(own)))


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


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_those_of_diffusers_after_the_warm_up(settings: Settings, name: str) -> None:
    from diffusers.optimization import get_scheduler

    rate = rate_of(replace(settings, schedule=name, steps=50, warm_up=10))
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
    theirs = get_scheduler(name, optimiser, num_warmup_steps=0, num_training_steps=50)
    for step in range(50):
        assert rate(step) == pytest.approx(min(1.0, (step + 1) / 10) * theirs.get_last_lr()[0])
        optimiser.step()
        theirs.step()


def test_epochs_are_counted_in_steps(settings: Settings) -> None:
    assert start(replace(settings, epochs=4, accumulate=2)).settings.steps == 5  # of 5 examples, 4 a step
    with pytest.raises(ScheduleError, match="--epochs is -1"):
        replace(settings, epochs=-1)


@pytest.mark.parametrize(("option", "package"), [("optimiser", "bitsandbytes"), ("trackers", "wandb")])
def test_an_optional_package_that_lacks_is_named(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, option: str, package: str
) -> None:
    real = starting.import_module

    def absent(name: str) -> Any:
        if name.startswith(package):
            raise ImportError(name)
        return real(name)

    monkeypatch.setattr(starting, "import_module", absent)
    change = {"optimiser": "adamw-8bit"} if option == "optimiser" else {"trackers": ("wandb",)}
    with pytest.raises(MissingDependencyError, match=f"pip install {package}"):
        start(replace(settings, **change))


def test_a_plan_says_what_a_step_keeps(settings: Settings) -> None:
    run = start(settings)
    assert activations(run) == pytest.approx(_kept(run), rel=0.15)
    checkpointed = start(replace(settings, gradient_checkpointing=True))
    assert activations(checkpointed) == pytest.approx(_kept(checkpointed), rel=0.15)
    twice = activations(start(replace(settings, batch=4)))
    assert twice == pytest.approx(2 * activations(run), rel=0.1)
    parts = memory(run)
    trained = sum(each.numel() for _, each in run.plain.trained())
    assert parts["trained weights"] == parts["their gradients"] == 4 * trained
    assert parts["optimiser"] == 8 * trained
    said = "\n".join(plan(run))
    assert "memory at 128x128 and batch 2" in said
    assert all(name in said for name in parts)


class Measured(TorchDispatchMode):
    """Inside, the bytes of all tensors that come to be are counted, and the most there were at once."""

    def __init__(self, known: set[int]) -> None:
        """known: storages that are there already."""
        super().__init__()
        self._known, self._sizes = known, dict[int, int]()
        self._now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        self.most = max(self.most, self._now)
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._known and storage._cdata not in self._sizes:
            self._sizes[storage._cdata] = storage.nbytes()
            self._now += storage.nbytes()
            weakref.finalize(storage, self._freed, storage._cdata)

    def _freed(self, key: int) -> None:
        self._now -= self._sizes.pop(key)


@pytest.mark.parametrize("changes", [{}, {"gradient_checkpointing": True}, {"family": "controlnext"}])
def test_a_plan_says_what_a_run_takes(settings: Settings, changes: dict[str, Any]) -> None:
    """All memory of a second step, whose optimiser has its moments; encoders have done their work before."""
    run = start(replace(settings, **changes))
    steps = train(run)
    next(steps)
    for index in range(len(run.examples)):
        run.examples.row(index)
    moments = [each for state in run.optimiser.state.values() for each in state.values() if isinstance(each, Tensor)]
    there = {each.untyped_storage()._cdata: each.untyped_storage().nbytes() for each in run.plain.parameters()}
    there |= {each.untyped_storage()._cdata: each.untyped_storage().nbytes() for each in moments}
    with Measured(set(there)) as measured:
        next(steps)
    said = {name: size for name, size in memory(run).items() if name != "autoencoder and text encoders"}
    assert sum(said.values()) == pytest.approx(sum(there.values()) + measured.most, rel=0.15)
