"""Every way of acting on a base network in every WebUI: its files, its start, and how a drawing is judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import forge_world
import pytest
import torch
import webui_host
from controlstack.core.schedule import RangeBasis
from family_units import write_families
from safetensors.torch import save_file
from webui_host import Drawing, Host
from webui_oracle import Oracle, Place, Wanted

TOLERANCE = 1e-5  # of the answer's range
FAMILIES = ("cross-normed", "query tap", "cross out", "delta", "again")
POINTS = (
    "stream", "skip", "onward", "middle", "decoder", "prompt keys", "decoder query", "heads", "middle heads",
)  # fmt: skip
STEPS = 3
HIRES = {"enable_hr": True, "hr_scale": 1, "hr_upscaler": "Latent", "denoising_strength": 0.7}
PACKS = ("webui_effects_pack.py",)
A1111 = "WEBUI"
PROGRAMS = (A1111, *webui_host.FAMILY)


def write_models(webui_path: Path, models: Path) -> None:
    """A small world with a file for each family, whose ControlNets fit every program."""
    webui_host.make_world(webui_path, models)
    write_families(models / "ControlNet", models / "ControlNetPreprocessor")
    for kind in (*FAMILIES, *POINTS, "latents"):
        save_file({f"effects.{kind}": torch.zeros(1)}, models / "ControlNet" / f"{kind}.safetensors")


def started(name: str, base: Path, models: Path, *flags: str, **more: Any) -> Any:
    """Start one of the WebUIs with our extension and the test families; skip if it is not here."""
    if name == A1111:
        path = webui_host.find()
        assert path is not None
        return webui_host.started(path, base, models, packs=PACKS, flags=flags, **more)
    path = webui_host.find_forge(name)
    if path is None:
        pytest.skip(f"no {name.title()}: set {name}_PATH to its folder (and {name}_PYTHON to its Python)")
    forge_world.prepare(path, base, models, built_in=False)
    return webui_host.started(path, base, models, flags=(*forge_world.FLAGS, *flags), packs=PACKS)


def basis_of(name: str) -> RangeBasis:
    """What a range means in a program, where a unit does not say so."""
    return RangeBasis.WEBUI if name == A1111 else RangeBasis.NOISE


def draws_latents(name: str) -> bool:
    """Whether a program draws latents of a picture from the autoencoder's distribution. reForge takes its mean."""
    return name != "REFORGE"


def draw(host: Host, *units: Wanted, **settings: Any) -> Drawing:
    """A picture with these units, each evaluation recorded."""
    more = {"hr_additional_modules": ["Use same choices"]} if "enable_hr" in settings and host.forge else {}
    return host.draw(*(each.request for each in units), record=True, **more, **settings)


def same(one: Drawing, other: Drawing) -> bool:
    """Whether every evaluation is the same, to the bit."""
    pairs = zip(one.evaluations, other.evaluations, strict=True)
    return all(torch.equal(a.out, b.out) and torch.equal(a.x, b.x) for a, b in pairs)


def check(drawing: Drawing, oracle: Oracle, *units: Wanted, steps: int = STEPS, tolerance: float = TOLERANCE) -> None:
    """Compare every evaluation, and see that the units matter."""
    assert drawing.evaluations
    counts = dict.fromkeys((False, True), 0)
    for seen in drawing.evaluations:
        step = counts[seen.hires]
        counts[seen.hires] += 1
        answer = oracle.answer(seen, units, Place(step, 0, steps))
        assert (seen.out - answer).abs().max() <= tolerance * answer.abs().max(), (seen.hires, step)
    seen = drawing.evaluations[-1]
    without = [replace(each, settings={**each.settings, "weight": 0.0}) for each in units]
    alone = oracle.answer(seen, without, Place(0, 0, steps))
    assert (seen.out - alone).abs().max() > 20 * tolerance * alone.abs().max()
