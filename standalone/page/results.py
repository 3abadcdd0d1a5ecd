"""What came of a run, as the page shows it: pictures with captions, and a report of what each unit did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.resize import ResizeMode, fit
from ...units.hint import hint_tensor, visible
from ...units.saying import Say, why_idle
from ..studio.running import Drawn, Progress

Image = NDArray[np.uint8]

MEGA = 10**6


def gallery(drawn: Drawn, say: Say) -> list[tuple[Any, str]]:
    """Return the pictures of a run with captions: results as their files, so that a download holds the record."""
    results = [(str(file), say("seed {seed}", seed=seed)) for file, seed in zip(drawn.files, drawn.seeds, strict=True)]
    return [*results, *inputs_and_hints(drawn, say)]


def inputs_and_hints(drawn: Drawn, say: Say) -> Iterator[tuple[Image, str]]:
    """Yield the hint and the picture of each unit, with captions."""
    for number, unit in zip(drawn.job.numbers, drawn.units, strict=True):
        yield visible(unit.hint), say("hint of unit {number}", number=number)
        yield unit.image, say("picture of unit {number}", number=number)


def report(drawn: Drawn, say: Say, before: Sequence[Drawn] = ()) -> str:
    """Return what happened as HTML: seed and time, and a line for each unit.

    before: the other jobs of a sheet, whose pictures and seconds count too.
    """
    every = (*before, drawn)
    count = sum(len(each.images) for each in every)
    seconds = f"{sum(each.seconds for each in every):.1f}"
    if count == 1:
        made = say("1 picture in {seconds} s", seconds=seconds)
    else:
        made = say("{count} pictures in {seconds} s", count=count, seconds=seconds)
    first = {each.seeds[0] for each in every if each.seeds}
    seed = f", {say('seed {seed}', seed=first.pop())}" if len(first) == 1 else ""
    stopped = f"{say('Stopped.')} " if drawn.stopped else ""
    return f"<p>{stopped}{made}{seed}.</p>{_table(drawn, say)}{''.join(map(trouble, warnings(drawn, say)))}"


def progress_bar(progress: Progress, say: Say) -> str:
    """Return a bar of steps with the time that is left."""
    left = f", {say('about {seconds} s left', seconds=round(progress.left))}" if progress.left >= 1 else ""
    text = say("step {step} of {steps}", step=progress.step, steps=progress.steps) + left
    return f'<progress max="{progress.steps}" value="{progress.step}" aria-label="{text}"></progress><p>{text}</p>'


def trouble(sentence: str) -> str:
    """Return an error as HTML that screen readers say at once."""
    return f'<p role="alert" class="cs-trouble">{escape(sentence[:1].upper() + sentence[1:])}</p>'


def fitted(hint: Image, size: tuple[int, int], mode: ResizeMode) -> Image:
    """Return a hint as the model will read it at a size (height, width), to look at."""
    pixels = fit(hint_tensor(visible(hint)), size, mode)[0]
    return np.ascontiguousarray((pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def _table(drawn: Drawn, say: Say) -> str:
    if not drawn.firings:
        return ""
    rows = "".join(
        f"<tr><td>{number}</td><td>{escape(unit.unit.model.name)}</td>"
        f"<td>{say('{fired} of {steps}', fired=firing.fired, steps=firing.steps)}{escape(firing.remark)}</td>"
        f"<td>{cost.seconds:.2f} s</td><td>{cost.bytes / MEGA:,.0f} MB</td></tr>"
        for number, unit, firing, cost in zip(drawn.job.numbers, drawn.units, drawn.firings, drawn.costs, strict=True)
    )
    titles = (say("Unit"), say("Model"), say("Acted on"), say("Time"), say("Weights"))
    head = "".join(f"<th scope=col>{each}</th>" for each in titles)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def warnings(drawn: Drawn, say: Say) -> Iterator[str]:
    """Yield a sentence for each unit that never acted, whose hint looks wrong, or that says what changes nothing."""
    for number, unit, firing in zip(drawn.job.numbers, drawn.units, drawn.firings, strict=False):
        if not firing.fired:
            why = why_idle(unit.unit, enabled=unit.request.enabled, say=say)
            yield say("unit {number} never acted: {why}", number=number, why=why)
        if unit.warning:
            yield f"unit {number}: {unit.warning}"
