"""Several conditions at once: the outputs of two ControlNets are added, without weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....pipelines.sheets import sheet
from ..experiment import MARGIN, Experiment, Found, Say, Told, Verdict, table
from ..world import CANNY, COLOR, World
from .asked import NONE, prompts_of

BOTH = f"{CANNY} + {COLOR}"
SHOWN, SIDE = 2, 96


def _run(world: World, say: Say) -> Found:
    canny, color = (world.unit(world.controls[name], name) for name in (CANNY, COLOR))
    measured: dict[str, Any] = {}
    columns: dict[str, Any] = {"scene": world.trial.images}
    for name, units in {"none": [], CANNY: [canny], COLOR: [color], BOTH: [canny, color]}.items():
        images = world.draw(units, *prompts_of(world, NONE))
        measured[name] = world.measure(images)
        columns[name] = images
        say(f"{name}: {measured[name]}")
    rows = [[(name, images[k]) for name, images in columns.items()] for k in range(min(SHOWN, world.trial.size))]
    return Found(measured, {"pictures": sheet(rows, side=SIDE)})


def _tell(measured: Mapping[str, Any]) -> Told:
    edges, colours = ({name: row[what] for name, row in measured.items()} for what in ("edge_f1", "colour_accuracy"))
    kept = edges[BOTH] > edges[CANNY] - MARGIN and colours[BOTH] > colours[COLOR] - MARGIN
    more = edges[BOTH] > edges["none"] + MARGIN and colours[BOTH] > colours["none"] + MARGIN
    seen = (
        f"edge F1 {edges[CANNY]:.3f} under canny and {edges[BOTH]:.3f} under both; colour accuracy "
        f"{colours[COLOR]:.3f} under color and {colours[BOTH]:.3f} under both"
    )
    return Told(table("units, each with weight 1", measured), [Verdict("both are obeyed at once", kept and more, seen)])


EXPERIMENT = Experiment(
    name="conditions",
    title="Several conditions, added without weights",
    says=(
        "ControlNet, section 3.4 and figure 6: to apply several hints, the outputs of their ControlNets are added to "
        "Stable Diffusion; no extra weighting or interpolation is needed."
    ),
    tried="The shipped canny and color ControlNets without a prompt: each alone, and both.",
    run=_run,
    tell=_tell,
)
