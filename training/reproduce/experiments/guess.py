"""Guess mode: no prompt, guidance all the same, and the control on the cond rows alone, softened in shallow blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....core.modes import ControlMode
from ....pipelines.sheets import sheet
from ..experiment import MARGIN, Experiment, Found, Say, Told, Verdict, table
from ..world import CANNY, World

GUIDED = 3.0  # the scale that ControlNet's guess mode proposes is 3 to 5
NONE, PLAIN, BALANCED, GUESS = "no control", "guidance 1", "guidance 3", "guess mode, guidance 3"
SHOWN, SIDE = 2, 96


def _run(world: World, say: Say) -> Found:
    model = world.controls[CANNY]
    cases: dict[str, tuple[list[Any], float]] = {
        NONE: ([], 1.0),
        PLAIN: ([world.unit(model, CANNY)], 1.0),
        BALANCED: ([world.unit(model, CANNY)], GUIDED),
        GUESS: ([world.unit(model, CANNY, mode=ControlMode.CONTROL)], GUIDED),
    }
    measured: dict[str, Any] = {}
    columns: dict[str, Any] = {"scene": world.trial.images, "hint": world.trial.hints[CANNY]}
    for name, (units, guidance) in cases.items():
        images = world.draw(units, [""] * world.trial.size, guidance)
        measured[name] = world.measure(images)
        columns[name] = images
        say(f"{name}: {measured[name]}")
    rows = [[(name, images[k]) for name, images in columns.items()] for k in range(min(SHOWN, world.trial.size))]
    return Found(measured, {"pictures": sheet(rows, side=SIDE)})


def _tell(measured: Mapping[str, Any]) -> Told:
    edges = {name: row["edge_f1"] for name, row in measured.items()}
    said = "edge F1 " + ", ".join(f"{name} {value:.3f}" for name, value in edges.items())
    return Told(
        table("without a prompt", measured),
        [
            Verdict(
                "without a prompt the hint alone leads to a picture of it", edges[PLAIN] > edges[NONE] + MARGIN, said
            ),
            Verdict(
                "guess mode keeps the hint's word while guidance is on", edges[GUESS] > edges[BALANCED] - MARGIN, said
            ),
        ],
    )


EXPERIMENT = Experiment(
    name="guess",
    title="Guess mode",
    says=(
        "ControlNet, section 3.4 and figure 5, and its repository: without any prompt, a control on both rows of "
        "guidance cancels guidance out, and on the cond row alone it is too strong; weighting each residual by the "
        "size of its block (guess mode) lets the encoder guess what the hint shows."
    ),
    tried="The shipped canny ControlNet without a prompt, with and without guidance, balanced and in guess mode.",
    run=_run,
    tell=_tell,
)
