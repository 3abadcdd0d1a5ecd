"""The page of the experiments, made from what they measured: no number in it is written by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .experiment import Experiment, Told, Verdict

HEAD = """\
# The papers on the tiny world

What ControlNet (Zhang et al. 2023) and ControlNeXt (Peng et al. 2024) say of their methods, tried where it can be
measured exactly: on the [tiny world](fidelity.md), whose scenes have known edges, depths and colours.

- *Colour accuracy* is the share of pixels with the right one of eight colours.
- *Edge F1* compares the edges of the picture with those of the scene, two pixels off allowed.
- *Depth error* is the root mean square over depths of 0 to 1.
- *FID* compares the pictures with real scenes by the autoencoder's latents, averaged over quarters of the picture (16
  numbers). It tells whether colours lie where they do in scenes, and cannot be compared with the papers' numbers.

One command makes this page, all its numbers and verdicts included, from what it measures (`papers.json` beside it):

    controlstack reproduce --out reproduced --page docs/papers.md

It goes on where it was stopped. An idle core takes some five hours; `--size medium` takes some two, `--size quick` half
an hour; `--only NAME` runs one experiment.
"""
HOLDS, DIFFERS = "as the papers say", "**differs**"


def page(results: Mapping[str, Any], experiments: Sequence[Experiment], images: str) -> str:
    """Return the page in Markdown. results: what `papers.json` holds. images: the folder of the pictures."""
    done = [each for each in experiments if each.name in results["experiments"]]
    told = {each.name: each.tell(results["experiments"][each.name]["measured"]) for each in done}
    parts = [HEAD, _sizes(results["sizes"]), "## What holds\n", _summary(done, told)]
    for each in done:
        pictures = results["experiments"][each.name]["pictures"]
        parts += [_section(each, told[each.name], pictures, images)]
    if missing := [each.title for each in experiments if each not in done]:
        parts.append(f"## Not run yet\n\n{'; '.join(missing)}.\n")
    return "\n".join(parts)


def _sizes(sizes: Mapping[str, Any]) -> str:
    small, large = sizes["batches"]
    return (
        f"This page was made at the sizes *{sizes['name']}*: trainings of {sizes['steps']:,} steps with batches of "
        f"{small} (and {large}), on {sizes['examples'][-1]:,} examples unless others are named, at a learning rate of "
        f"{sizes['rate']:g} that falls along a cosine; {sizes['scenes']} scenes that no training has seen, "
        f"{sizes['draw_steps']} steps of DDIM; FID against {sizes['reference']:,} scenes. Each training ran once, with "
        "one seed: small differences mean nothing.\n"
    )


def _summary(done: Sequence[Experiment], told: Mapping[str, Told]) -> str:
    lines = ["| the papers say | here |", "|---|---|"]
    lines += [f"| {each.claim} | {_word(each)} |" for one in done for each in told[one.name].verdicts]
    return "\n".join(lines) + "\n"


def _section(experiment: Experiment, told: Told, pictures: Sequence[str], images: str) -> str:
    verdicts = "\n".join(f"- {each.claim}: {_word(each)} ({each.seen})." for each in told.verdicts)
    shown = "\n\n".join(f"![{experiment.title}: {name}]({images}/{name})" for name in pictures)
    return (
        f"## {experiment.title}\n\n*The papers say.* {experiment.says}\n\n*What is done.* {experiment.tried}\n\n"
        f"{told.table}\n\n{shown}\n\n*Seen here.*\n\n{verdicts}\n"
    )


def _word(verdict: Verdict) -> str:
    return HOLDS if verdict.holds else DIFFERS
