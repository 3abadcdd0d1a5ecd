"""Training of a ControlNet as its paper gives it.

Half of the prompts are emptied, so that the copy learns to read meaning from the hint (paper, section 3.3; the
published code leaves this to the data set). accelerate brings mixed precision, gradient accumulation and processes:
N processes with batches of b take the steps of one process with batches of N * b, for all draw the same random numbers
and each takes its share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..core.base import LATENT
from ..core.errors import HintError, HostError, ScheduleError
from ..models.families.controlnet import ControlNet
from ..pipelines.bases import load_pipeline
from .copy import continued, settings_of, trainable_copy
from .data import Example, HintSource, read_examples
from .examples import Examples
from .progress import replace_folder
from .words import Words, emptied, read_words

if TYPE_CHECKING:
    from accelerate import Accelerator

STATE = "training.pt"  # in a checkpoint
HELD_OUT = 4  # examples that are not trained on where samples are wanted
LAST_SEED = 2**32 - 1  # of numpy's global generator, which accelerate seeds too


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the user said about a training; the defaults are the paper's where it has one."""

    base: Path  # diffusers folder or checkpoint file of SD 1.x, SD 2.x or SDXL
    data: Path
    start: Path | None = None  # go on from this ControlNet; None: from a fresh copy of the base
    hints: HintSource = field(default_factory=HintSource)
    resolution: int = 0  # pictures are cut to squares of so many pixels; 0: they stay as they are
    steps: int = 6000
    batch: int = 4
    accumulate: int = 1
    learning_rate: float = 1e-5
    warm_up: int = 100  # steps
    cosine: bool = False  # fall to zero at the end
    empty_prompts: float = 0.5
    max_grad_norm: float = 1.0
    mixed_precision: str = "no"  # no, fp16, bf16
    only_middle: bool = False
    ema: float = 0.0  # decay of a moving average of the weights, which is then the result; 0: none
    samples: int = 0  # steps between sheets of samples; 0: none, and no example is held out
    sample_steps: int = 20  # of DDIM
    sample_guidance: float = 7.5
    seed: int = 0

    def __post_init__(self) -> None:
        bounds = {  # a number that is none fails too
            "learning_rate": (0 < self.learning_rate < math.inf, "more than 0"),
            "warm_up": (self.warm_up >= 0, "0 or more"),
            "empty_prompts": (0 <= self.empty_prompts <= 1, "0 to 1"),
            "max_grad_norm": (self.max_grad_norm > 0, "more than 0"),
            "sample_guidance": (math.isfinite(self.sample_guidance), "a finite number"),
            "seed": (0 <= self.seed <= LAST_SEED, f"0 to {LAST_SEED}"),
        }
        for name, (good, expected) in bounds.items():
            if not good:
                raise ScheduleError(f"--{name.replace('_', '-')} is {getattr(self, name)}, expected {expected}")
        if self.resolution < 0 or self.resolution % LATENT:
            raise HintError(f"--resolution is {self.resolution}, expected a multiple of {LATENT} pixels")
        if not 0 <= self.ema < 1:
            raise ScheduleError(f"the decay of the moving average is {self.ema}, expected 0 (none) to less than 1")
        if self.samples < 0:
            raise ScheduleError(f"samples every {self.samples} steps: expected 1 or more, or 0 for none")
        if self.sample_steps < 1:
            raise ScheduleError(f"a sample takes {self.sample_steps} steps, expected 1 or more")


@dataclass(slots=True)
class Run:
    """One training under way: what must be saved to go on later."""

    settings: Settings
    accelerator: Accelerator
    base: Any  # a diffusers pipeline, frozen
    network: ControlNet
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    examples: Examples
    held_out: Examples
    generator: torch.Generator
    average: AveragedModel | None = None
    losses: list[float] = field(default_factory=list)  # of every step so far

    @property
    def step(self) -> int:
        """How many steps are done."""
        return len(self.losses)

    @property
    def result(self) -> ControlNet:
        """The network as it would be written now: the moving average where there is one."""
        kept = self.accelerator.unwrap_model(self.network) if self.average is None else self.average.module
        return cast(ControlNet, kept)

    def any_process(self, said: bool) -> bool:
        """Whether a process says so; all hear the same answer."""
        flags = torch.tensor([said], device=self.accelerator.device)
        return bool(cast(Tensor, self.accelerator.gather(flags)).any())

    def save(self, folder: Path) -> None:
        """Write a checkpoint from which `load` goes on, bit for bit."""
        if self.accelerator.is_main_process:
            replace_folder(folder, self._write)

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint."""
        if not (folder / STATE).is_file():
            raise HostError(f"'{folder}' is no checkpoint: leave --resume out to start from the beginning")
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        if ("average" in state) != (self.average is not None):
            was = "with" if "average" in state else "without"
            raise HostError(f"'{folder}' was trained {was} a moving average: give --ema as at its start")
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.generator.set_state(state["generator"])
        self.losses = state["losses"]

    def _write(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        torch.save({**parts, "generator": self.generator.get_state(), "losses": self.losses}, folder / STATE)

    def _parts(self) -> dict[str, Any]:
        network = self.accelerator.unwrap_model(self.network)
        parts = {"network": network, "optimiser": self.optimiser, "schedule": self.schedule}
        more = {"average": self.average, "scaler": self.accelerator.scaler}  # fp16's factor of the loss
        return parts | {name: part for name, part in more.items() if part is not None}


def start(settings: Settings) -> Run:
    """Read base and data, check them, and make the untrained copy."""
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, set_seed

    examples, held_out = _split(read_examples(settings.data, settings.hints), settings)
    read = settings.hints.reader(settings.resolution)
    accelerator = Accelerator(
        mixed_precision=settings.mixed_precision,
        gradient_accumulation_steps=settings.accumulate,
        # With the middle alone, the zero convolutions of the skips get no gradient, which processes must know of.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=settings.only_middle)],
    )
    set_seed(settings.seed)
    base = load_frozen(settings.base, accelerator.device)
    network = trainable_copy(base.unet) if settings.start is None else continued(settings.start, base.unet)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(settings.ema)) if settings.ema else None
    optimiser = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, settings))
    network, optimiser = accelerator.prepare(network, optimiser)  # not the schedule, which would run N times as fast
    return Run(
        settings=settings,
        accelerator=accelerator,
        base=base,
        network=network,
        optimiser=optimiser,
        schedule=schedule,
        examples=Examples(examples, read, base, accelerator.device),
        held_out=Examples(held_out, read, base, accelerator.device),
        generator=torch.Generator().manual_seed(settings.seed),
        average=None if average is None else average.to(accelerator.device),
    )


def _split(examples: list[Example], settings: Settings) -> tuple[list[Example], list[Example]]:
    """(to train on, held out): the last ones are held out where samples are wanted."""
    if not settings.samples:
        return examples, []
    if len(examples) <= HELD_OUT:
        raise HintError(
            f"'{settings.data}' has {len(examples)} examples, and samples hold out {HELD_OUT} of them: give more "
            "examples, or leave --samples out"
        )
    return examples[:-HELD_OUT], examples[-HELD_OUT:]


def load_frozen(path: Path, device: torch.device) -> Any:
    """Return a base's diffusers pipeline in fp32, without gradients, with the noise schedule that it was trained on."""
    from diffusers import DDIMScheduler

    base = load_pipeline(path, torch.float32)
    channels, latents = base.unet.config["in_channels"], base.vae.config["latent_channels"]
    if channels != latents:
        raise HostError(
            f"'{path}' reads {channels} latent channels, expected {latents}: it is an inpainting model; train over the "
            "plain one, since its control models act on the inpainting model too"
        )
    base.to(device)
    for part in base.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False).eval()
    # A base may come with a sampler's scheduler, such as Euler's, whose noise has other scales.
    base.scheduler = DDIMScheduler.from_config({**base.scheduler.config, "clip_sample": False})
    return base


def train(run: Run) -> Iterator[float]:
    """Take the remaining steps; yields the loss of each."""
    settings, accelerator = run.settings, run.accelerator
    while run.step < settings.steps:
        losses: list[Tensor] = []
        for part in range(settings.accumulate):
            with accelerator.accumulate(run.network):
                loss = loss_of(run, _batch(run, part))
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(run.network.parameters(), settings.max_grad_norm)
                run.optimiser.step()
                run.optimiser.zero_grad()
                losses.append(loss.detach())
        run.schedule.step()
        if run.average is not None:
            run.average.update_parameters(accelerator.unwrap_model(run.network))
        run.losses.append(float(cast(Tensor, accelerator.gather(torch.stack(losses))).mean()))
        yield run.losses[-1]


def loss_of(run: Run, batch: dict[str, Tensor]) -> Tensor:
    """Mean squared error of the controlled base against the noise, or v, at random times."""
    base, device = run.base, run.accelerator.device
    latents = batch["latents"].to(device)
    noise = _share(run, lambda rows: torch.randn((rows, *latents.shape[1:]), generator=run.generator)).to(device)
    count = base.scheduler.config["num_train_timesteps"]
    time = _share(run, lambda rows: torch.randint(count, (rows,), generator=run.generator)).to(device)
    noisy = base.scheduler.add_noise(latents, noise, time)
    hint = batch["hint"].to(device, torch.float32) / 255
    tokens = emptied(batch["tokens"], base, dropped(run))
    words = read_words(base, tokens, (hint.shape[2], hint.shape[3]))
    predicted = controlled(base.unet, run.network, noisy, time, hint, words, run.settings)
    return F.mse_loss(predicted.float(), target_of(base.scheduler, latents, noise, time).float())


def controlled(
    unet: Any, network: nn.Module, noisy: Tensor, time: Tensor, hint: Tensor, words: Words, settings: Settings
) -> Tensor:
    """The base network with the residuals of the copy: [B, 4, h, w]."""
    *skips, middle = network(noisy, time, hint, words.context, words.vector(unet))
    if settings.only_middle:
        skips = [torch.zeros_like(skip) for skip in skips]
    more: Mapping[str, Any] = {} if words.added is None else {"added_cond_kwargs": words.added}
    return unet(
        noisy,
        time,
        words.context,
        down_block_additional_residuals=skips,
        mid_block_additional_residual=middle,
        **more,
    ).sample


def target_of(scheduler: Any, latents: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """What the base predicts: the noise, or v (Salimans and Ho 2022)."""
    kind = scheduler.config["prediction_type"]
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return scheduler.get_velocity(latents, noise, time)
    raise HostError(f"the base predicts '{kind}', expected epsilon or v_prediction: choose another base")


def metadata(run: Run) -> dict[str, str]:
    """What a trained file says of itself; what the shapes do not tell is read from here again."""
    unet = run.base.unet
    settings = {f"controlstack.{key}": value for key, value in settings_of(unet).items()}
    return {
        **settings,
        "controlstack.family": "controlnet",
        "controlstack.base": run.settings.base.name,
        "controlstack.hint": str(run.settings.hints),
        "controlstack.hint_range": "RGB in 0..1",
        "controlstack.only_middle": str(run.settings.only_middle).lower(),
        "controlstack.steps": str(run.step),
        **({"controlstack.ema": str(run.settings.ema)} if run.settings.ema else {}),
        **({"controlstack.start": run.settings.start.name} if run.settings.start else {}),
    }


def _rate(step: int, settings: Settings) -> float:
    """The factor of the learning rate."""
    warm = min(1.0, (step + 1) / max(1, settings.warm_up))
    if not settings.cosine:
        return warm
    return warm * (1 + float(np.cos(np.pi * min(1.0, step / settings.steps)))) / 2


def dropped(run: Run) -> Tensor:
    """Which rows [B] of the next batch lose their prompt."""
    return _share(run, lambda rows: torch.rand(rows, generator=run.generator)) < run.settings.empty_prompts


def _share(run: Run, draw: Callable[[int], Tensor]) -> Tensor:
    """This process's rows [B, ...] of random numbers that all processes draw alike."""
    count = run.settings.batch
    return draw(count * run.accelerator.num_processes)[count * run.accelerator.process_index :][:count]


def _batch(run: Run, part: int) -> dict[str, Tensor]:
    """This process's share of the part-th batch of the current step."""
    settings, accelerator = run.settings, run.accelerator
    index = (run.step * settings.accumulate + part) * accelerator.num_processes + accelerator.process_index
    return run.examples.batch(index * settings.batch, settings.batch, settings.seed)
