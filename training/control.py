"""Training of a ControlNet as its paper gives it.

Half of the prompts are emptied, so that the copy learns to read meaning from the hint (paper, section 3.3; the
published code leaves this to the data set). accelerate brings mixed precision, gradient accumulation and processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import HintError, HostError
from ..models.families.controlnet import ControlNet
from .copy import settings_of, trainable_copy
from .data import Example, HintSource, read_examples
from .progress import replace_folder

if TYPE_CHECKING:
    from accelerate import Accelerator

LATENT_SCALE = 8  # pixels per latent pixel
STATE = "training.pt"  # in a checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the user said about a training; the defaults are the paper's where it has one."""

    base: Path  # diffusers folder
    data: Path
    hints: HintSource = field(default_factory=HintSource)
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
    seed: int = 0


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
    generator: torch.Generator
    step: int = 0

    def save(self, folder: Path) -> None:
        """Write a checkpoint from which `load` goes on, bit for bit."""
        if self.accelerator.is_main_process:
            replace_folder(folder, self._write)

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint."""
        if not (folder / STATE).is_file():
            raise HostError(f"'{folder}' is no checkpoint: leave --resume out to start from the beginning")
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        self.accelerator.unwrap_model(self.network).load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.generator.set_state(state["generator"])
        self.step = state["step"]

    def _write(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        state = {
            "network": self.accelerator.unwrap_model(self.network).state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
        }
        torch.save(state, folder / STATE)


class Examples:
    """Latents, hints and token ids; each picture is read and encoded once, at its first use."""

    def __init__(self, examples: Sequence[Example], source: HintSource, base: Any, device: torch.device) -> None:
        self._examples, self._read, self._base, self._device = examples, source.reader(), base, device
        self._kept: dict[int, dict[str, Tensor]] = {}
        self._epoch, self._order = -1, [0]

    def batch(self, start: int, count: int, seed: int) -> dict[str, Tensor]:
        """The examples `start` to `start + count` of an endless, shuffled walk; it depends on the seed alone."""
        rows = [self._get(self._pick(index, seed)) for index in range(start, start + count)]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def _pick(self, index: int, seed: int) -> int:
        epoch, place = divmod(index, len(self._examples))
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(seed + epoch)
            self._epoch, self._order = epoch, torch.randperm(len(self._examples), generator=generator).tolist()
        return self._order[place]

    def _get(self, index: int) -> dict[str, Tensor]:
        if index not in self._kept:
            self._kept[index] = self._load(self._examples[index])
        return self._kept[index]

    def _load(self, example: Example) -> dict[str, Tensor]:
        picture, hint = self._read(example)
        height, width = picture.shape[:2]
        if height % LATENT_SCALE or width % LATENT_SCALE:
            raise HintError(f"'{example.picture}' is {width}x{height}: both sides must be multiples of {LATENT_SCALE}")
        return {
            "latents": self._encode(picture),
            "hint": torch.from_numpy(np.ascontiguousarray(hint)).permute(2, 0, 1),  # uint8 until it is used
            "tokens": tokenise(self._base, [example.prompt])[0],
        }

    @torch.no_grad()
    def _encode(self, picture: np.ndarray) -> Tensor:
        vae = self._base.vae
        pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].to(self._device, torch.float32) / 127.5 - 1
        output = vae.encode(pixels.to(vae.dtype))
        latents = output.latent_dist.mode() if hasattr(output, "latent_dist") else output.latents
        return (latents[0] * vae.config.scaling_factor).float().cpu()


def start(settings: Settings) -> Run:
    """Read base and data, check them, and make the untrained copy."""
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    examples = read_examples(settings.data, settings.hints)
    accelerator = Accelerator(mixed_precision=settings.mixed_precision, gradient_accumulation_steps=settings.accumulate)
    set_seed(settings.seed)
    base = load_frozen(settings.base, accelerator.device)
    network = trainable_copy(base.unet)
    optimiser = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, settings))
    network, optimiser, schedule = accelerator.prepare(network, optimiser, schedule)
    generator = torch.Generator().manual_seed(settings.seed + accelerator.process_index)
    material = Examples(examples, settings.hints, base, accelerator.device)
    return Run(settings, accelerator, base, network, optimiser, schedule, material, generator)


def load_frozen(folder: Path, device: torch.device) -> Any:
    """The base as a diffusers pipeline in fp32, without gradients."""
    from diffusers import StableDiffusionPipeline

    if not (folder / "model_index.json").is_file():
        raise HostError(f"'{folder}' is no diffusers folder (it has no model_index.json): give one with --base")
    base = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True).to(device)
    for part in (base.unet, base.vae, base.text_encoder):
        part.requires_grad_(False).eval()
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
                run.schedule.step()
                run.optimiser.zero_grad()
                losses.append(loss.detach())
        run.step += 1
        yield float(torch.stack(losses).mean())


def loss_of(run: Run, batch: dict[str, Tensor]) -> Tensor:
    """Mean squared error of the controlled base against the noise, or v, at random times."""
    base, device = run.base, run.accelerator.device
    latents = batch["latents"].to(device)
    noise = torch.randn(latents.shape, generator=run.generator).to(device)
    count = base.scheduler.config["num_train_timesteps"]
    time = torch.randint(count, (len(latents),), generator=run.generator).to(device)
    noisy = base.scheduler.add_noise(latents, noise, time)
    context = encode_prompts(base, emptied(batch["tokens"], base, run.settings.empty_prompts, run.generator))
    hint = batch["hint"].to(device, torch.float32) / 255
    predicted = controlled(base.unet, run.network, noisy, time, hint, context, run.settings.only_middle)
    return F.mse_loss(predicted.float(), target_of(base.scheduler, latents, noise, time).float())


def controlled(
    unet: nn.Module, network: nn.Module, noisy: Tensor, time: Tensor, hint: Tensor, context: Tensor, only_middle: bool
) -> Tensor:
    """The base network with the residuals of the copy: [B, 4, h, w]."""
    *skips, middle = network(noisy, time, hint, context)
    if only_middle:
        skips = [torch.zeros_like(skip) for skip in skips]
    return unet(
        noisy,
        time,
        context,
        down_block_additional_residuals=skips,
        mid_block_additional_residual=middle,
    ).sample


def target_of(scheduler: Any, latents: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """What the base predicts: the noise, or v (Salimans and Ho 2022)."""
    kind = scheduler.config["prediction_type"]
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return scheduler.get_velocity(latents, noise, time)
    raise HostError(f"the base predicts '{kind}', expected epsilon or v_prediction: choose another base")


def emptied(tokens: Tensor, base: Any, share: float, generator: torch.Generator) -> Tensor:
    """Token ids [B, T] with about `share` of the rows replaced by the empty prompt."""
    drop = torch.rand(len(tokens), 1, generator=generator).to(tokens.device) < share
    return torch.where(drop, tokenise(base, [""]).to(tokens.device), tokens)


def tokenise(base: Any, prompts: Sequence[str]) -> Tensor:
    """Token ids [N, T]."""
    length = base.tokenizer.model_max_length
    ids = base.tokenizer(list(prompts), padding="max_length", truncation=True, max_length=length)["input_ids"]
    return torch.from_numpy(np.array(ids))


@torch.no_grad()
def encode_prompts(base: Any, tokens: Tensor) -> Tensor:
    """Context [B, T, D] of token ids."""
    return base.text_encoder(tokens.to(base.text_encoder.device))[0]


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
    }


def _rate(step: int, settings: Settings) -> float:
    """The factor of the learning rate."""
    warm = min(1.0, (step + 1) / max(1, settings.warm_up))
    if not settings.cosine:
        return warm
    return warm * (1 + float(np.cos(np.pi * min(1.0, step / settings.steps)))) / 2


def _batch(run: Run, part: int) -> dict[str, Tensor]:
    """This process's share of the part-th batch of the current step."""
    settings, accelerator = run.settings, run.accelerator
    index = (run.step * settings.accumulate + part) * accelerator.num_processes + accelerator.process_index
    return run.examples.batch(index * settings.batch, settings.batch, settings.seed)
