"""A trained ControlNet with every kind of prompt: none, an insufficient one, a conflicting one, a full one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....pipelines.sheets import sheet
from ..experiment import MARGIN, Experiment, Found, Say, Told, Verdict, table
from ..world import CANNY, World
from .asked import CONFLICTING, FULL, KINDS, NONE, prompts_of

SHOWN, SIDE = 2, 96


def _run(world: World, say: Say) -> Found:
    measured: dict[str, Any] = {}
    columns: dict[str, Any] = {"scene": world.trial.images, "hint": world.trial.hints[CANNY]}
    for kind in KINDS:
        images = world.draw([world.unit(world.controls[CANNY], CANNY)], *prompts_of(world, kind))
        measured[kind] = world.measure(images)
        columns[kind] = images
        say(f"{kind}: {measured[kind]}")
    measured["full, no control"] = world.measure(world.draw([], *prompts_of(world, FULL)))
    rows = [[(name, images[k]) for name, images in columns.items()] for k in range(min(SHOWN, world.trial.size))]
    return Found(measured, {"pictures": sheet(rows, side=SIDE)})


def _tell(measured: Mapping[str, Any]) -> Told:
    edges = {kind: measured[kind]["edge_f1"] for kind in measured}
    alone = edges["full, no control"]
    said = "edge F1 " + ", ".join(f"{kind} {value:.3f}" for kind, value in edges.items())
    worst = min(edges[kind] for kind in KINDS)
    colours = {kind: measured[kind]["colour_accuracy"] for kind in (NONE, CONFLICTING, FULL)}
    return Told(
        table("prompt", measured),
        [
            Verdict("the hint is obeyed with every kind of prompt", worst > alone + MARGIN, said),
            Verdict(
                "a full prompt settles what the hint leaves open",
                colours[FULL] > max(colours[NONE], colours[CONFLICTING]) + MARGIN,
                "colour accuracy " + ", ".join(f"{kind} {value:.3f}" for kind, value in colours.items()),
            ),
        ],
    )


EXPERIMENT = Experiment(
    name="prompts",
    title="Four kinds of prompts",
    says=(
        "ControlNet, section 4.2: users behave in four ways, and the method is tried with all: no prompt, an "
        "insufficient prompt that does not cover what the hint shows, a conflicting prompt, and a perfect one."
    ),
    tried="The shipped canny ControlNet: edges say where shapes are, and nothing of their colours.",
    run=_run,
    tell=_tell,
)
