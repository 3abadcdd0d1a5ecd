"""The start of a training: data and base are read and checked, and the network that learns is made."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import HintError, HostError, MissingDependencyError
from ..pipelines.bases import load_pipeline
from ..pipelines.quiet import quiet
from .data.buckets import Buckets
from .data.checking import Checked, check, depth_for, refuse
from .data.encoding import Encoder, Store, add_weights
from .data.example import Example, shape_of
from .data.examples import Examples, Variety
from .data.hints import Reader
from .data.listings import read_listing
from .optimisers import make_optimiser, usual_rate
from .recipes.checkpointing import recompute
from .recipes.recipe import Recipe
from .recipes.registry import find_recipe
from .recipes.trainee import Trainee
from .run import Average, Run, names_of_base, names_of_control
from .settings import Settings, record

HELD_OUT = 4  # examples that are not trained on where samples are wanted
HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}

Bar = Callable[[Sequence[Any], str], Iterable[Any]]  # items, what they are -> the items, counted as they pass


def no_bar(items: Sequence[Any], _what: str) -> Iterable[Any]:
    """Return the items, and show nothing."""
    return items


def start(settings: Settings, bar: Bar = no_bar) -> Run:
    """Read data and base, check them, and make the network that learns."""
    recipe = find_recipe(settings.family)
    recipe.check(settings)
    settings = with_rates(settings, recipe)
    accelerator = _accelerator(settings)
    checked = _checked(settings, accelerator, bar)
    examples, held_out = _split(checked.examples, settings)
    reader = Reader(settings.hint_sources, settings.resolution, settings.buckets)
    buckets = _buckets(examples, reader, settings.batch * accelerator.num_processes)
    settings = _with_steps(settings, len(examples) if buckets is None else buckets.epoch(), accelerator.num_processes)
    base = load_frozen(settings.base, accelerator.device, HALF.get(settings.mixed_precision, torch.float32))
    encoder = Encoder(base, accelerator.device)
    digests = {"base": _digest_of(base), "data": _digest(checked.examples)}
    trainee, before = _trainee(recipe, base, settings, encoder)
    generator = torch.Generator().manual_seed(settings.seed)
    average = Average(settings.ema) if settings.ema else None
    prepared, optimiser = accelerator.prepare(trainee.to(accelerator.device), _optimiser(trainee, settings, recipe))
    shown: dict[str, Any] = {"reader": reader, "encoder": encoder}
    run = Run(
        settings=settings,
        record=record(settings, digests),
        recipe=recipe,
        accelerator=accelerator,
        base=base,
        encoder=encoder,
        trainee=prepared,
        before=before,
        optimiser=optimiser,
        checked=checked,
        examples=Examples(
            examples,
            **shown,
            variety=Variety(settings.mirror, settings.random_crop),
            store=_store(settings, encoder, reader),
            workers=settings.workers,
            buckets=buckets,
        ),
        held_out=Examples(held_out, **shown),
        generator=generator,
        average=average,
        random_state=generator.get_state(),
    )
    if settings.cache is not None and not settings.random_crop:
        _encode_all(run, bar)
    return run


def with_rates(settings: Settings, recipe: Recipe) -> Settings:
    """Return the settings with the optimiser's or the family's own values where the user gave none."""
    rate = settings.learning_rate or usual_rate(settings.optimiser) or recipe.rate
    return replace(
        settings,
        learning_rate=rate,
        times=settings.times or recipe.times,
        empty_prompts=recipe.empty_prompts if settings.empty_prompts is None else settings.empty_prompts,
        empty_hints=recipe.empty_hints if settings.empty_hints is None else settings.empty_hints,
    )


def load_frozen(path: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> Any:
    """Return a base's diffusers pipeline without gradients, with the noise schedule that it was trained on.

    In half precision SDXL's autoencoder stays as wide as it is: its activations leave the range of fp16.
    """
    from diffusers import DDIMScheduler

    base = load_pipeline(path, torch.float32)
    channels, latents = base.unet.config["in_channels"], base.vae.config["latent_channels"]
    if channels != latents:
        raise HostError(
            f"'{path}' reads {channels} latent channels, expected {latents}: it is an inpainting model; train over the "
            "plain one, since its control models act on the inpainting model too"
        )
    wide = base.vae if dtype == torch.float16 and hasattr(base, "text_encoder_2") else None
    with quiet():
        for part in base.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False).eval().to(device, torch.float32 if part is wide else dtype)
    # A base may come with a sampler's scheduler, such as Euler's, whose noise has other scales.
    base.scheduler = DDIMScheduler.from_config({**base.scheduler.config, "clip_sample": False})
    return base


def _accelerator(settings: Settings) -> Any:
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, set_seed

    _check_trackers(settings.trackers)
    try:
        accelerator = Accelerator(
            mixed_precision=settings.mixed_precision,
            gradient_accumulation_steps=settings.accumulate,
            log_with=list(settings.trackers) or None,
            project_dir=".",
            # With the middle alone, the zero convolutions of the skips get no gradient, which processes must know of.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=settings.only_middle)],
        )
    except ValueError as error:  # a device that lacks the precision
        raise HostError(f"--mixed-precision {settings.mixed_precision} cannot be used here: {error}") from error
    if settings.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise HostError("--mixed-precision fp16 needs a GPU: give bf16 or none on a CPU")
    set_seed(settings.seed)
    return accelerator


def _check_trackers(names: Sequence[str]) -> None:
    """Raise MissingDependencyError for a tracker whose package is not installed; accelerate would leave it out."""
    for name in names:
        try:
            import_module(name)
        except ImportError as error:
            raise MissingDependencyError(f"--tracker {name} needs the package '{name}': pip install {name}") from error


def _checked(settings: Settings, accelerator: Any, bar: Bar) -> Checked:
    """Return the examples that can be used; the first process reads them, the others hear what it found."""
    from accelerate.utils import broadcast_object_list

    sources = settings.hint_sources
    of_files = next((each for each in sources if each.preprocessor is None), sources[0])
    columns = of_files.columns(settings.picture_column, settings.caption_column)
    listing = read_listing(settings.data, columns)
    found: list[Any] = [None]
    if accelerator.is_main_process:
        depth = depth_for(listing.examples, settings.check)
        alike = settings.batch > 1 and not settings.resolution
        reader = Reader(sources, settings.resolution, settings.buckets)
        found = [check(bar(listing.examples, "examples checked"), reader, depth, alike=alike)]
    broadcast_object_list(found)
    checked: Checked = found[0]
    bad = [*listing.bad, *checked.bad]
    if not settings.skip_bad:
        refuse(bad, len(listing.examples) + len(listing.bad))
    if not checked.examples:
        raise HintError(f"'{listing.name}' holds no example that can be used: {bad[0]}")
    return replace(checked, bad=bad)


def _split(examples: Sequence[Example], settings: Settings) -> tuple[Sequence[Example], Sequence[Example]]:
    """Return (to train on, held out): the last ones are held out where samples are wanted."""
    if not settings.holds_out:
        return examples, []
    if len(examples) <= HELD_OUT:
        raise HintError(
            f"'{settings.data}' has {len(examples)} examples, and samples hold out {HELD_OUT} of them: give more "
            "examples, give --sample-prompt and --sample-hint, or leave --samples out"
        )
    return examples[:-HELD_OUT], examples[-HELD_OUT:]


def _buckets(examples: Sequence[Example], reader: Reader, together: int) -> Buckets | None:
    """Return the size of each example, by the headers of the pictures; None where all are cut alike."""
    if not reader.buckets:
        return None
    return Buckets([reader.size(shape_of(each.picture)) for each in examples], together)


def _with_steps(settings: Settings, examples: int, processes: int) -> Settings:
    """Return the settings with as many steps as the epochs have."""
    if not settings.epochs:
        return settings
    a_step = settings.batch * settings.accumulate * processes
    return replace(settings, steps=max(1, math.ceil(settings.epochs * examples / a_step)))


def _trainee(recipe: Recipe, base: Any, settings: Settings, encoder: Encoder) -> tuple[Trainee, dict[str, Tensor]]:
    """Return base and control, and the weights of the base that are trained along, in fp32, as the base has them.

    A file to go on from may have changed them already.
    """
    unet = base.unet
    unlocked = frozenset(recipe.unlocked(unet, settings))
    before: dict[str, Tensor] = {}
    for name, weight in unet.named_parameters():
        if name in unlocked:
            weight.data = weight.data.float()
            before[name] = weight.detach().cpu().clone()
    network = recipe.network(unet, settings)
    model, given = recipe.model(network, unet, settings), {"frozen": recipe.frozen(network), "encode": encoder.latents}
    trainee = Trainee(unet, network, model, unlocked, **given)
    if settings.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
        recompute(network, recipe.blocks)
    return trainee, before


def _optimiser(trainee: Trainee, settings: Settings, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the optimiser; each group of parameters knows its own full learning rate as `full`."""
    rate = settings.learning_rate or recipe.rate
    rates = (
        (names_of_control(trainee), rate),
        (names_of_base(trainee), settings.unlock_rate or rate * recipe.base_share),
    )
    groups = [{"params": list(some.values()), "lr": rate, "full": rate} for some, rate in rates if some]
    return make_optimiser(settings.optimiser, groups, settings.weight_decay)


def _store(settings: Settings, encoder: Encoder, reader: Reader) -> Store | None:
    return (
        None
        if settings.cache is None
        else Store(settings.cache, f"{encoder.fingerprint()} {settings.mixed_precision} {reader}")
    )


def _encode_all(run: Run, bar: Bar) -> None:
    """Encode every example before the first step; then the text encoders make room on the device."""
    for index in bar(range(len(run.examples)), "examples encoded"):
        run.examples.row(index)
    for name in ("text_encoder", "text_encoder_2"):
        if getattr(run.base, name, None) is not None:
            getattr(run.base, name).to("cpu")


def _digest_of(base: Any) -> str:
    digest = hashlib.sha256()
    add_weights(digest, base.unet)
    return digest.hexdigest()[:16]


def _digest(examples: Sequence[Example]) -> str:
    """Return a digest of which examples there are, in their order; the folder they lie in may have been moved."""
    digest = hashlib.sha256()
    for each in examples:
        digest.update("\0".join((*(source.name for source in each.sources), each.prompt, "\n")).encode())
    return digest.hexdigest()[:16]
