"""The sudden convergence: a ControlNet ignores its hint for many steps, and then obeys within a few."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....pipelines.sheets import sheet
from ....preprocessors.images import read_image
from ..curves import draw_curves, half_way, largest_jump
from ..experiment import Experiment, Found, Say, Told, Verdict, table
from ..trainings import MEASURED, Training, trained
from ..world import World

SHOWN, SIDE = 9, 72  # looks on the strip, and pixels of a picture
HALF = 0.5  # of the whole rise, between two looks: what counts as sudden


def _run(world: World, say: Say) -> Found:
    small, large = world.sizes.batches
    trainings = {
        f"batch {small}": trained(world, "controlnet", say),
        f"batch {large}": trained(world, f"batch-{large}", say, batch=large),
    }
    measured = {
        name: {"steps": each.steps, "obedience": [look[MEASURED] for look in each.looks], "batch": batch}
        for (name, each), batch in zip(trainings.items(), world.sizes.batches, strict=True)
    }
    curves = {name: (each.steps, [look[MEASURED] for look in each.looks]) for name, each in trainings.items()}
    strip = sheet([_strip(each) for each in trainings.values()], side=SIDE)
    return Found(measured, {"curve": draw_curves(curves, "steps: edge F1 without a prompt"), "strip": strip})


def _strip(training: Training) -> list[tuple[str, Any]]:
    """Return the first scene at some of the looks."""
    count = len(training.steps)
    picks = sorted({round(k * (count - 1) / max(1, SHOWN - 1)) for k in range(SHOWN)})
    return [(f"{training.steps[k]}", read_image(training.pictures[k])) for k in picks]


def _tell(measured: Mapping[str, Any]) -> Told:
    rows: dict[str, dict[str, float]] = {}
    verdicts: list[Verdict] = []
    for name, each in measured.items():
        curve = each["steps"], each["obedience"]
        first, last, share = largest_jump(curve)
        rows[name] = {
            "edge F1 at the start": each["obedience"][0],
            "in the end": each["obedience"][-1],
            "half-way at step": half_way(curve),
            "examples seen by then": half_way(curve) * each["batch"],
            "largest rise between two looks (share)": share,
        }
        verdicts.append(
            Verdict(
                f"a ControlNet trained with {name} starts to obey suddenly",
                share > HALF,
                f"{share:.0%} of the whole rise lies between the steps {first} and {last} of {each['steps'][-1]}",
            )
        )
    (small, one), (large, other) = measured.items()
    steps = [half_way((each["steps"], each["obedience"])) for each in (one, other)]
    verdicts.append(
        Verdict(
            "a larger batch obeys after fewer steps",
            steps[1] < steps[0],
            f"half-way at step {steps[0]} with {small}, at step {steps[1]} with {large}",
        )
    )
    return Told(table("training", rows), verdicts)


EXPERIMENT = Experiment(
    name="sudden",
    title="Sudden convergence, at two batch sizes",
    says=(
        "ControlNet, section 3.3 and figure 4: the model does not learn the hint gradually but abruptly starts to "
        "follow it, usually in less than 10 000 steps (step 6133 in the figure); its repository advises larger batches "
        "rather than more steps after that."
    ),
    tried="A training at each batch size; every few steps the same scenes are drawn without a prompt, from one noise.",
    run=_run,
    tell=_tell,
)
