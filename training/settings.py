"""What the user says about a training, checked, and what of it a resumed training must share with its beginning."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..core.errors import HintError, ScheduleError
from ..core.network.base import LATENT
from . import choices
from .choices import OPTIMISERS, PIECES, POLYNOMIAL, RESTARTS, SCHEDULES, TIMES, UNENDING, UNLOCKS
from .data.hints import HintSource, Kind

LAST_SEED = 2**32 - 1  # of numpy's global generator, which accelerate seeds too
FROM_ONE = ("steps", "batch", "accumulate", "save_every", "keep", "sample_steps", "cycles")  # whole numbers
OF_SCHEDULE = {"cycles": RESTARTS, "power": POLYNOMIAL, "pieces": PIECES}  # settings of one schedule alone
NUMBER = r"\d*\.?\d+(?:e-?\d+)?"
RULES = re.compile(rf"(?:{NUMBER}:\d+,)+{NUMBER}")  # factors of the rate, each but the last with the step that ends it
# What another value of changes nothing that is learned, or what the checkpoint itself decides.
FREE = frozenset({
    "epochs", "save_every", "keep", "sample_steps", "sample_guidance", "workers", "cache", "trackers",
    "gradient_checkpointing", "dtype", "diffusers", "skip_bad", "check",
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the user said about a training; the defaults are the papers' where they have one."""

    base: Path  # diffusers folder or checkpoint file of SD 1.x, SD 2.x or SDXL
    data: Path  # folder or listing
    family: str = choices.FAMILIES[0]
    start: Path | str | None = None  # choices.COPY, GAUSSIAN, or a file to go on from; None: the family's
    hints: HintSource = field(default_factory=HintSource)
    kinds: tuple[Kind, ...] = ()  # of a union, in place of `hints`
    picture_column: str | None = None
    caption_column: str | None = None
    check: bool = False  # read every example whole before the first step, however many there are
    skip_bad: bool = False  # leave bad examples out
    resolution: int = 0  # pictures are cut to squares of so many pixels; 0: they stay as they are
    buckets: bool = False  # cut to sizes near their own shapes, of no more area than the square
    random_crop: bool = False  # any square of the picture, not its middle
    mirror: bool = False  # half of the examples, left to right
    workers: int = 0  # threads that read pictures ahead
    cache: Path | None = None  # folder that keeps encodings
    steps: int = choices.STEPS
    epochs: float = 0.0  # passes over the data instead of steps; 0: `steps` count
    batch: int = choices.BATCH
    accumulate: int = 1
    optimiser: str = OPTIMISERS[0]
    learning_rate: float | None = None  # None: the family's, or the optimiser's
    weight_decay: float | None = None  # None: the optimiser's
    rank: int | None = None  # of a CtrLoRA's factors; None: the family's
    unlock: str | None = None  # part of the base that is trained too: "decoder", "all"
    unlock_rate: float | None = None  # its learning rate; None: the family's, for unlocked parts the learning rate
    schedule: str = SCHEDULES[0]
    cycles: int = 1  # of cosines, each from the full rate to none
    power: float = 1.0  # of the polynomial
    pieces: str | None = None  # of the piecewise constant, such as "1:1000,0.1:3000,0.01"
    warm_up: int = choices.WARM_UP  # steps
    empty_prompts: float | None = None  # share; None: the family's
    empty_hints: float | None = None
    times: str | None = None  # how times of the noise are drawn; None: as the family's paper does
    min_snr: float = 0.0  # gamma of Hang et al. 2023; 0: none
    noise_offset: float = 0.0
    max_grad_norm: float = 1.0
    mixed_precision: str = "no"  # no, fp16, bf16
    gradient_checkpointing: bool = False
    only_middle: bool = False
    size_ratio: float | None = None  # of a ControlNet-XS: its widths by the base's; None: the family's
    ema: float = 0.0  # decay of a moving average of the weights, which is then the result; 0: none
    samples: int = 0  # steps between sheets of samples; 0: none
    sample_prompts: tuple[str, ...] = ()  # with `sample_hints`: what is drawn; none: some examples are held out for it
    sample_hints: tuple[Path, ...] = ()
    sample_steps: int = choices.SAMPLE_STEPS  # of DDIM
    sample_guidance: float = choices.SAMPLE_GUIDANCE
    save_every: int = choices.SAVE_EVERY  # steps between checkpoints
    keep: int = choices.KEEP  # snapshots that stay
    dtype: str = "fp32"  # of the written file
    diffusers: bool = False  # write a folder for diffusers too
    trackers: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        _check_numbers(self)
        _check_words(self)
        _check_schedule(self)
        if self.kinds:
            _check_kinds(self)
        if self.resolution < 0 or self.resolution % LATENT:
            raise HintError(f"--resolution is {self.resolution}, expected a multiple of {LATENT} pixels")
        for name in ("random_crop", "buckets"):
            if getattr(self, name) and not self.resolution:
                raise HintError(f"{option(name)} needs the size of the squares: give --resolution, such as 512")
        if len(self.sample_prompts) != len(self.sample_hints):
            raise HintError(
                f"there are {len(self.sample_prompts)} --sample-prompt and {len(self.sample_hints)} --sample-hint, "
                "expected as many of each"
            )

    @property
    def hint_sources(self) -> tuple[HintSource, ...]:
        """Return where hints come from: one source, or one for each kind of hint."""
        return tuple(each.hints for each in self.kinds) or (self.hints,)

    @property
    def holds_out(self) -> bool:
        """Return whether some examples are not trained on, but drawn as samples."""
        return bool(self.samples) and not self.sample_prompts


def _check_numbers(settings: Settings) -> None:
    """Raise ScheduleError for a number out of its bounds; one that is no number fails too."""
    rates = (settings.learning_rate, settings.unlock_rate)
    bounds = {
        **{name: (getattr(settings, name) >= 1, "1 or more") for name in FROM_ONE},
        **{name: (getattr(settings, name) >= 0, "0 or more") for name in ("warm_up", "workers", "samples")},
        "learning_rate": (rates[0] is None or 0 < rates[0] < math.inf, "more than 0"),
        "unlock_rate": (rates[1] is None or 0 < rates[1] < math.inf, "more than 0"),
        "rank": (settings.rank is None or settings.rank >= 1, "1 or more"),
        "size_ratio": (settings.size_ratio is None or 0 < settings.size_ratio <= 1, "more than 0, 1 at most"),
        "weight_decay": (settings.weight_decay is None or 0 <= settings.weight_decay < math.inf, "0 (none) or more"),
        "power": (0 < settings.power < math.inf, "more than 0"),
        "epochs": (0 <= settings.epochs < math.inf, "0 or more"),
        "empty_prompts": (settings.empty_prompts is None or 0 <= settings.empty_prompts <= 1, "0 to 1"),
        "empty_hints": (settings.empty_hints is None or 0 <= settings.empty_hints <= 1, "0 to 1"),
        "min_snr": (0 <= settings.min_snr < math.inf, "0 (none) or more"),
        "noise_offset": (0 <= settings.noise_offset < math.inf, "0 (none) or more"),
        "max_grad_norm": (settings.max_grad_norm > 0, "more than 0"),
        "ema": (0 <= settings.ema < 1, "0 (no moving average) to less than 1"),
        "sample_guidance": (math.isfinite(settings.sample_guidance), "a finite number"),
        "seed": (0 <= settings.seed <= LAST_SEED, f"0 to {LAST_SEED}"),
    }
    for name, (good, expected) in bounds.items():
        if not good:
            raise ScheduleError(f"{option(name)} is {getattr(settings, name)}, expected {expected}")


def _check_kinds(settings: Settings) -> None:
    """Raise HintError for kinds of hints that cannot be told apart, or that one example cannot have."""
    names = [each.kind for each in settings.kinds]
    if len(set(names)) < len(names):
        raise HintError(f"--kind names {', '.join(names)}: expected each kind once")
    if (settings.hints.column, settings.hints.preprocessor) != (None, None):
        raise HintError("--kind says where hints come from, and so do --hint or --hint-column: leave those out")
    if sum(each.hints.preprocessor is None for each in settings.kinds) > 1:
        raise HintError("--kind reads hints from two columns, expected one: an example has one hint beside its picture")


def _check_words(settings: Settings) -> None:
    """Raise ScheduleError for a word that is none of those known."""
    known = {"optimiser": OPTIMISERS, "schedule": SCHEDULES, "times": (None, *TIMES), "unlock": (None, *UNLOCKS)}
    for name, words in known.items():
        if getattr(settings, name) not in words:
            raise ScheduleError(
                f"{option(name)} is '{getattr(settings, name)}', expected one of {', '.join(filter(None, words))}"
            )


def _check_schedule(settings: Settings) -> None:
    """Raise ScheduleError for a setting of another schedule than the chosen one, or for pieces that are none."""
    said = {"cycles": settings.cycles != 1, "power": settings.power != 1, "pieces": settings.pieces is not None}
    for name, schedule in OF_SCHEDULE.items():
        if said[name] and settings.schedule != schedule:
            raise ScheduleError(f"{option(name)} is of --schedule {schedule} alone: give that, or leave it out")
    if settings.schedule == PIECES and not RULES.fullmatch(settings.pieces or ""):
        raise ScheduleError(
            f"--pieces is '{settings.pieces or ''}', expected factors of the rate, each but the last with the step "
            "that ends it, such as 1:1000,0.1:3000,0.01"
        )


def option(name: str) -> str:
    """Return how a setting is called on the command line."""
    return f"--{name.replace('_', '-')}"


def record(settings: Settings, digests: Mapping[str, str]) -> dict[str, str]:
    """Return, as text by name, all that a resumed training must share with its beginning.

    digests: of what paths lead to, such as `base` and `data`, which may have been moved.
    """
    fields = {name: getattr(settings, name) for name in settings.__slots__ if name not in FREE}
    fields["samples"] = settings.holds_out  # what counts is which examples are held out
    for name in ("sample_prompts", "sample_hints"):
        del fields[name]
    fields["kinds"] = " ".join(map(str, settings.kinds))
    if settings.schedule in UNENDING:
        del fields["steps"]  # nothing but the end depends on it
    return {**{name: str(value) for name, value in fields.items()}, **digests}


def differences(now: Mapping[str, str], then: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return name -> (value then, value now) of all settings that differ; those that only one knows are left out."""
    both = [name for name in now if name in then]
    return {name: (then[name], now[name]) for name in both if now[name] != then[name]}
