"""ControlNet against its ablations: ordinary convolutions in place of zero ones, and a light network for the copy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....models.registry import load_control_model
from ....pipelines.sheets import sheet
from ..experiment import MARGIN, Experiment, Found, Say, Told, Verdict, table
from ..trainings import trained
from ..world import COLOR, World
from .asked import FULL, INSUFFICIENT, NONE, prompts_of

CONTROLNET, GAUSSIAN, LITE = "ControlNet", "Gaussian start", "ControlNet-Lite"
SETTINGS: Mapping[str, tuple[str, dict[str, Any]]] = {
    CONTROLNET: ("controlnet", {}),
    LITE: ("controlnet-lite", {"family": "controlnet-lite"}),
    GAUSSIAN: ("gaussian", {"start": "gaussian"}),
}
ASKED = (NONE, INSUFFICIENT, FULL)
BRIEF = {LITE: "Lite", GAUSSIAN: "Gaussian", NONE: "none", INSUFFICIENT: "some", FULL: "full"}  # above the pictures
SHOWN, SIDE = 2, 96  # scenes on the picture, and pixels of theirs


def _run(world: World, say: Say) -> Found:
    measured: dict[str, Any] = {}
    columns: dict[str, Any] = {"scene": world.trial.images, "hint": world.trial.hints[COLOR]}
    for name, (folder, settings) in SETTINGS.items():
        model = load_control_model(trained(world, folder, say, **settings).path)
        for kind in ASKED:
            images = world.draw([world.unit(model, COLOR)], *prompts_of(world, kind))
            measured.setdefault(name, {})[kind] = world.measure(images)
            columns[f"{BRIEF.get(name, name)}, {BRIEF[kind]}"] = images
    rows = [[(name, images[k]) for name, images in columns.items()] for k in range(min(SHOWN, world.trial.size))]
    return Found(measured, {"pictures": sheet(rows, side=SIDE)})


def _tell(measured: Mapping[str, Any]) -> Told:
    rows = {f"{name}, {kind}": values for name, kinds in measured.items() for kind, values in kinds.items()}

    def colours(name: str, kind: str) -> float:
        return measured[name][kind]["colour_accuracy"]

    def said(kind: str) -> str:
        return "colour accuracy " + ", ".join(f"{name} {colours(name, kind):.3f}" for name in measured)

    ahead_of_lite = colours(CONTROLNET, NONE) - colours(LITE, NONE)
    ahead_of_gaussian = colours(CONTROLNET, NONE) - colours(GAUSSIAN, NONE)
    insufficient = colours(CONTROLNET, INSUFFICIENT) - colours(LITE, INSUFFICIENT)
    return Told(
        table("trained as, asked with", rows),
        [
            Verdict("ControlNet-Lite fails without a prompt, ControlNet does not", ahead_of_lite > MARGIN, said(NONE)),
            Verdict(
                "ControlNet-Lite fails with an insufficient prompt, ControlNet does not",
                insufficient > MARGIN,
                said(INSUFFICIENT),
            ),
            Verdict(
                "with Gaussian convolutions in place of zero ones ControlNet gets about as bad as ControlNet-Lite",
                ahead_of_gaussian > MARGIN and abs(ahead_of_gaussian - ahead_of_lite) < MARGIN,
                said(NONE),
            ),
        ],
    )


EXPERIMENT = Experiment(
    name="ablation",
    title="ControlNet, Gaussian start, ControlNet-Lite",
    says=(
        "ControlNet, section 4.2 and figure 8: a light network in place of the trainable copy is not strong enough to "
        "understand the hint, and fails without a prompt or with an insufficient one; ordinary convolutions with "
        "Gaussian weights in place of the zero convolutions bring ControlNet down to about the same, since the copy's "
        "backbone is destroyed while it is trained."
    ),
    tried=(
        "Three trainings on colour grids with the same data, seed, rate and steps; then the same scenes, from the same "
        "noise, without a prompt, with one that names the ground alone, and with the whole caption."
    ),
    run=_run,
    tell=_tell,
)
