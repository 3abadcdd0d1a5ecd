"""The one training loop of all families.

N processes with batches of b take the steps of one process with batches of N * b, for all draw the same random numbers
and each takes its share. accelerate brings mixed precision, gradient accumulation and processes. Weights are changed
only when loss and gradients are finite: what comes out of a training that diverged is its last good state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import DivergedError, HostError
from ..pipelines.bases import damaged_weight
from .data.encoding import Row, hint_of, size_of
from .run import Run
from .settings import Settings
from .words import emptied, words_of


def train(run: Run) -> Iterator[float]:
    """Take the remaining steps; yields the loss of each. DivergedError leaves the weights as the last step did."""
    rate = rate_of(run.settings)
    run.trainee.train()
    run.base.unet.eval()
    while run.step < run.settings.steps:
        for group in run.optimiser.param_groups:
            group["lr"] = group["full"] * rate(run.step)
        loss = _step(run)
        if run.average is not None:
            run.average.update(run.plain)
        run.random_state = run.generator.get_state()
        run.losses.append(loss)
        yield loss


def rate_of(settings: Settings) -> Callable[[int], float]:
    """Return the factor of the learning rates at each step: it rises while warming up, then follows the schedule."""
    from diffusers.optimization import get_scheduler

    parameters = [torch.nn.Parameter(torch.zeros(()))]
    made = get_scheduler(
        settings.schedule,
        torch.optim.SGD(parameters, lr=1.0),
        num_warmup_steps=0,
        num_training_steps=settings.steps,
        num_cycles=settings.cycles,
        power=settings.power,
        step_rules=settings.pieces,
    )
    curve = cast(Any, made).lr_lambdas[0]
    return lambda step: min(1.0, (step + 1) / max(1, settings.warm_up)) * float(curve(step))


def loss_of(run: Run, batch: Row, number: int = 0) -> Tensor:
    """Return the mean squared error of the controlled base against the noise, or v, at random times.

    number: of the batch, from the training's begin.
    """
    base, settings, device = run.base, run.settings, run.accelerator.device
    latents = batch["latents"].to(device)
    noise = _share(run, lambda rows: torch.randn((rows, *latents.shape[1:]), generator=run.generator)).to(device)
    count = base.scheduler.config["num_train_timesteps"]
    time = _share(run, lambda rows: draw_times(rows, count, settings.times, run.generator)).to(device)
    if settings.noise_offset:  # Guttenberg 2023: noise that is the same all over the picture
        offset = _share(run, lambda rows: torch.randn((rows, latents.shape[1], 1, 1), generator=run.generator))
        noise = noise + settings.noise_offset * offset.to(device)
    noisy = base.scheduler.add_noise(latents, noise, time)
    words = emptied(batch, run.encoder.words(""), dropped(run, settings.empty_prompts or 0.0))
    hint = hint_of(batch, device)
    if settings.empty_hints:
        empty = dropped(run, settings.empty_hints).to(device).view(-1, *(1,) * (hint.ndim - 1))
        hint = torch.where(empty, run.recipe.without_hint(run.network, hint), hint)
    told = run.recipe.told(settings, number)
    predicted = run.trainee(noisy, time, hint, words_of(words, size_of(batch), device), told)
    errors = F.mse_loss(predicted.float(), target_of(base.scheduler, latents, noise, time).float(), reduction="none")
    if not settings.min_snr:
        return errors.mean()
    weights = min_snr_weights(base.scheduler, time, settings.min_snr)
    return (errors.mean(dim=(1, 2, 3)) * weights).mean()


def draw_times(rows: int, count: int, density: str | None, generator: torch.Generator) -> Tensor:
    """Return times [rows] of 0 to count - 1.

    cubic: (1 - u^3) * count for a uniform u, which favours noisy ones (Mou et al. 2024, section 3.3).
    """
    if density != "cubic":
        return torch.randint(count, (rows,), generator=generator)
    return ((1 - torch.rand(rows, generator=generator) ** 3) * count).long().clamp(max=count - 1)


def target_of(scheduler: Any, latents: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """Return what the base predicts: the noise, or v (Salimans and Ho 2022)."""
    kind = scheduler.config["prediction_type"]
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return scheduler.get_velocity(latents, noise, time)
    raise HostError(f"the base predicts '{kind}', expected epsilon or v_prediction: choose another base")


def min_snr_weights(scheduler: Any, time: Tensor, gamma: float) -> Tensor:
    """Return the weight [B] of each error: min(SNR, gamma) / SNR, for v / (SNR + 1) (Hang et al. 2023, section 3.4)."""
    signal = scheduler.alphas_cumprod.to(time.device)[time]
    ratio = signal / (1 - signal)
    if scheduler.config["prediction_type"] == "v_prediction":
        return ratio.clamp(max=gamma) / (ratio + 1)
    return torch.where(ratio < gamma, 1.0, gamma / ratio)


def dropped(run: Run, share: float) -> Tensor:
    """Return which rows [B] of the next batch lose their prompt or hint."""
    return _share(run, lambda rows: torch.rand(rows, generator=run.generator)) < share


def _step(run: Run) -> float:
    """Take one step of the optimiser, and return its loss."""
    settings, accelerator = run.settings, run.accelerator
    losses: list[Tensor] = []
    for part in range(settings.accumulate):
        with accelerator.accumulate(run.trainee):
            number = run.step * settings.accumulate + part
            loss = loss_of(run, _batch(run, number), number)
            accelerator.backward(loss)
            losses.append(loss.detach())
            if accelerator.sync_gradients:
                mean = float(cast(Tensor, accelerator.gather(torch.stack(losses))).mean())
                norm = accelerator.clip_grad_norm_([each for _, each in run.plain.trained()], settings.max_grad_norm)
                _check_finite(run, mean, norm)
                run.whole = False
            run.optimiser.step()
            run.optimiser.zero_grad()
    run.whole = True
    run.plain.release()
    return mean


def _check_finite(run: Run, loss: float, norm: Tensor | float | None) -> None:
    """Raise DivergedError for a loss or a gradient that is no finite number; fp16's scaler skips such gradients."""
    if math.isfinite(loss) and (run.accelerator.scaler is not None or norm is None or math.isfinite(float(norm))):
        return
    what = f"the loss is {loss}" if not math.isfinite(loss) else "the gradients are not finite"
    rate = f"{run.settings.learning_rate:g}"
    advice = f"lower --learning-rate (now {rate}), raise --warm-up, or use bf16 or no mixed precision"
    if weight := damaged_weight(run.base):
        advice = f"{weight} holds NaN or infinite values, so get the base model again"
    raise DivergedError(f"step {run.step + 1} of {run.settings.steps}: {what}, so the training stops: {advice}")


def _share(run: Run, draw: Callable[[int], Tensor]) -> Tensor:
    """Return this process's rows [B, ...] of random numbers that all processes draw alike."""
    count = run.settings.batch
    return draw(count * run.accelerator.num_processes)[count * run.accelerator.process_index :][:count]


def _batch(run: Run, number: int) -> Row:
    """Return this process's share of the number-th batch, and let the next one be read; sources take turns."""
    settings, accelerator = run.settings, run.accelerator
    first = (number * accelerator.num_processes + accelerator.process_index) * settings.batch
    later = first + accelerator.num_processes * settings.batch
    source, following = (each % len(settings.hint_sources) for each in (number, number + 1))
    run.examples.expect(first, settings.batch, settings.seed, source)
    run.examples.expect(later, settings.batch, settings.seed, following)
    return run.examples.batch(first, settings.batch, settings.seed, source)
