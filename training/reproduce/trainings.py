"""Trainings of the experiments: each is made once, looked at while it runs, and goes on where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.unit import ControlUnit
from ...pipelines.bases import Base, Offload
from ...pipelines.tiny_world import CELL
from ...preprocessors.images import write_image
from ..data.hints import HintSource
from ..loop import train
from ..results.files import write_text
from ..results.model import write_model
from ..run import Run, names_of_base, names_of_control
from ..settings import Settings
from ..start import start
from .world import COLOR, Image, World

MEASURED = "edge_f1"  # of what a look measures: what curves show
WARM_UP = 10  # steps in which the learning rate rises
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Training:
    """A training that is done: its file, and what was seen of it every so often."""

    path: Path
    steps: list[int]  # at which it was looked at
    looks: list[dict[str, float]]  # what was measured then, without a prompt
    losses: list[float]  # of every step
    learnable: int  # parameters that were trained
    of_base: int  # how many of them are the base's own
    pictures: list[Path]  # the first scene, drawn at each look from the same noise


def trained(world: World, name: str, say: Say, *, examples: int | None = None, **settings: Any) -> Training:
    """Return a training on colour grids; it is made, or finished, where it is not there. settings: of `Settings`."""
    sizes = world.sizes
    folder = world.folder / "trainings" / name
    path, notes = folder / "control.safetensors", folder / "looks.json"
    if not path.is_file():
        given: dict[str, Any] = {
            "base": world.base_path,
            "data": world.data(examples or sizes.examples[-1]),
            "hints": HintSource(preprocessor="color_grid", parameters={"cell": CELL}),
            "steps": sizes.steps,
            "batch": sizes.batches[0],
            "learning_rate": sizes.rate,
            "warm_up": WARM_UP,
            "schedule": "cosine",
            **settings,
        }
        _train(world, start(Settings(**given)), folder, lambda text: say(f"{name}: {text}"))
    kept = json.loads(notes.read_text(encoding="utf-8"))
    pictures = [folder / f"{step:06d}.png" for step in kept["steps"]]
    return Training(path, kept["steps"], kept["looks"], kept["losses"], kept["learnable"], kept["of_base"], pictures)


def _train(world: World, run: Run, folder: Path, say: Say) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state, notes = folder / "control.state", folder / "looks.json"
    steps: list[int] = []
    looks: list[dict[str, float]] = []
    if state.is_file():
        run.load(state)
        kept = json.loads(notes.read_text(encoding="utf-8"))
        steps = [step for step in kept["steps"] if step <= run.step]
        looks = kept["looks"][: len(steps)]
    else:
        _look(world, run, folder, steps, looks)
    for _ in train(run):
        if run.step % world.sizes.probe_every and run.step != run.settings.steps:
            continue
        _look(world, run, folder, steps, looks)
        say(f"step {run.step} of {run.settings.steps}: {looks[-1]}")
        of_base = sum(each.numel() for each in names_of_base(run.plain).values())
        learnable = of_base + sum(each.numel() for each in names_of_control(run.plain).values())
        noted = {
            "steps": steps,
            "looks": looks,
            "losses": run.losses,
            "learnable": learnable,
            "of_base": of_base,
        }
        write_text(notes, json.dumps(noted))
        run.save(state)
    write_model(run, folder / "control.safetensors")
    state.unlink(missing_ok=True)


def _look(world: World, run: Run, folder: Path, steps: list[int], looks: list[dict[str, float]]) -> None:
    """Draw the first scenes with the network as it is now, without a prompt, and note how well they obey."""
    images = _drawn(world, run)
    steps.append(run.step)
    looks.append(world.obedience(images))
    write_image(folder / f"{run.step:06d}.png", images[0])


def _drawn(world: World, run: Run) -> Image:
    """Draw with the base and the network that learn, as they are."""
    count = world.sizes.probes
    run.network.eval()
    model = run.recipe.model(run.network, run.base.unet, run.settings)
    unit: ControlUnit = world.unit(model, COLOR, count)
    base = Base(run.base, run.accelerator.device, Offload.NONE)
    images = world.draw([unit], ("",) * count, 1.0, base)
    run.network.train()
    return images
