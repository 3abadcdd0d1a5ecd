"""ControlNeXt beside ControlNet: what is learnable, and how soon each obeys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..curves import draw_curves, half_of, half_way, reaching
from ..experiment import Experiment, Found, Say, Told, Verdict, table
from ..trainings import MEASURED, trained
from ..world import World

CONTROLNET, CONTROLNEXT = "ControlNet", "ControlNeXt"
FAMILIES: Mapping[str, tuple[str, dict[str, Any]]] = {
    CONTROLNET: ("controlnet", {}),
    CONTROLNEXT: ("controlnext", {"family": "controlnext"}),
}


def _run(world: World, say: Say) -> Found:
    trainings = {name: trained(world, folder, say, **given) for name, (folder, given) in FAMILIES.items()}
    measured: dict[str, Any] = {
        name: {
            "steps": each.steps,
            "obedience": [look[MEASURED] for look in each.looks],
            "learnable": each.learnable,
            "of_base": each.of_base,
        }
        for name, each in trainings.items()
    }
    measured["base"] = sum(each.numel() for each in world.base.pipeline.unet.parameters())
    curves = {name: (each.steps, [look[MEASURED] for look in each.looks]) for name, each in trainings.items()}
    return Found(measured, {"curve": draw_curves(curves, "steps: edge F1 without a prompt")})


def _tell(measured: Mapping[str, Any]) -> Told:
    rows: dict[str, dict[str, float]] = {}
    for name in FAMILIES:
        each = measured[name]
        rows[name] = {
            "learnable parameters": each["learnable"],
            "of them the base's own": each["of_base"],
            "share of the base": each["learnable"] / measured["base"],
            "half-way at step": half_way((each["steps"], each["obedience"])),
            "edge F1 in the end": each["obedience"][-1],
        }
    learnable = [rows[name]["learnable parameters"] for name in FAMILIES]
    curves = [(measured[name]["steps"], measured[name]["obedience"]) for name in FAMILIES]
    steps = [reaching(curve, half_of(curves[0])) for curve in curves]
    sooner = "does not come" if steps[1] is None else f"comes at step {steps[1]}"
    return Told(
        table("family", rows),
        [
            Verdict(
                "ControlNeXt learns a small share of what ControlNet learns",
                learnable[1] < learnable[0] / 2,
                f"{learnable[1]:,} parameters against {learnable[0]:,}, {learnable[1] / learnable[0]:.0%}",
            ),
            Verdict(
                "ControlNeXt obeys sooner",
                steps[0] is not None and steps[1] is not None and steps[1] < steps[0],
                f"half-way to where ControlNet ends it {sooner}, ControlNet at step {steps[0]}",
            ),
        ],
    )


EXPERIMENT = Experiment(
    name="controlnext",
    title="ControlNeXt: learnable share, and convergence",
    says=(
        "ControlNeXt, sections 3.2 and 4: a light network and a selection of the base's own weights are trained, 30 "
        "million parameters of SD 1.5 where ControlNet has 361 million (table 1); with cross normalisation in place of "
        "zero convolutions the training converges sooner, without the sudden convergence."
    ),
    tried=(
        "Both families with the same data, steps and rate (ControlNeXt's weights of the base at a tenth of it). The "
        "network of ControlNeXt has a quarter of the widths of the one for SD 1.5, much for a base as small as this, "
        "and enters behind the first halving, where the latents of these pictures are 8 x 8."
    ),
    run=_run,
    tell=_tell,
)
