"""Small data sets: trainings that differ in nothing but how many examples they have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....models.registry import load_control_model
from ....pipelines.sheets import sheet
from ..experiment import MARGIN, Experiment, Found, Say, Told, Verdict, table
from ..trainings import trained
from ..world import COLOR, World
from .asked import NONE, prompts_of

SHOWN, SIDE = 2, 96
WITHOUT = "no control"


def _run(world: World, say: Say) -> Found:
    measured: dict[str, Any] = {WITHOUT: world.measure(world.draw([], *prompts_of(world, NONE)))}
    columns: dict[str, Any] = {"scene": world.trial.images, "hint": world.trial.hints[COLOR]}
    for count in world.sizes.examples:
        usual = count == world.sizes.examples[-1]
        training = trained(world, "controlnet" if usual else f"examples-{count}", say, examples=count)
        unit = world.unit(load_control_model(training.path), COLOR)
        images = world.draw([unit], *prompts_of(world, NONE))
        measured[str(count)] = world.measure(images)
        columns[f"{count} examples"] = images
    rows = [[(name, images[k]) for name, images in columns.items()] for k in range(min(SHOWN, world.trial.size))]
    return Found(measured, {"pictures": sheet(rows, side=SIDE)})


def _tell(measured: Mapping[str, Any]) -> Told:
    colours = {name: row["colour_accuracy"] for name, row in measured.items() if name != WITHOUT}
    without = measured[WITHOUT]["colour_accuracy"]
    counts = list(colours)
    said = f"colour accuracy {', '.join(f'{colours[n]:.3f} with {n} examples' for n in counts)}, {without:.3f} without"
    return Told(
        table("examples", measured),
        [
            Verdict(
                f"the training does not collapse with {counts[0]} examples", colours[counts[0]] > without + MARGIN, said
            ),
            Verdict("more examples are better", colours[counts[-1]] > colours[counts[0]] + MARGIN, said),
        ],
    )


EXPERIMENT = Experiment(
    name="data-size",
    title="Small data sets",
    says=(
        "ControlNet, section 4.2 and figure 10: the training does not collapse when it is limited to 1000 pictures, "
        "and it gets better with 50 000 and with 3 million."
    ),
    tried="Trainings on colour grids with the same steps, of different numbers of examples; scenes that none has seen.",
    run=_run,
    tell=_tell,
)
