"""What the buttons of the page do: draw, stop, compare, draw a grid; a run is watched and stopped by its own page."""

# pyright: reportMissingImports=false
# gradio is an extra of its own, which not every environment has.

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr

from ...core.errors import ControlError
from ...units.saying import Say
from ..studio.comparing import Cell, compared, gridded, sheet_of
from ..studio.running import Drawn, Progress, Stop, Stopped, Studio
from ..studio.said import Job, UnitProblemError, make_job
from . import results
from .cards import Card, read_card
from .words import language_of, speaker

ONE_AT_A_TIME: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "draw", "api_visibility": "private"}


@dataclass(kw_only=True)
class Form:
    """Everything on a page that says something: the fields of the picture, and the cards."""

    outer: Mapping[str, Any]
    cards: Sequence[Card]

    @property
    def inputs(self) -> list[Any]:
        """Return all widgets, in the order in which `read` takes their values."""
        return [*self.outer.values(), *(each for card in self.cards for each in card.fields.values())]

    def read(self, values: Sequence[Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return what was said of the picture, and of each unit."""
        said = dict(zip(self.outer, values, strict=False))
        rest = values[len(self.outer) :]
        units: list[dict[str, Any]] = []
        for card in self.cards:
            count = len(card.fields)
            units.append(read_card(list(card.fields), rest[:count]))
            rest = rest[count:]
        return from_editor(said), units


@dataclass
class Sessions:
    """The run of each open page: a page can stop its own, and no other."""

    _stops: dict[str, Stop] = field(default_factory=dict)

    def begin(self, session: str) -> Stop:
        """Return the way to stop the run that a page begins now."""
        self._stops[session] = Stop()
        return self._stops[session]

    def stop(self, session: str) -> None:
        """Stop the run of a page, if it has one."""
        if session in self._stops:
            self._stops[session].ask()

    def end(self, session: str, stop: Stop) -> None:
        """Forget a run that has ended."""
        if self._stops.get(session) is stop:
            del self._stops[session]


@dataclass(kw_only=True)
class Outputs:
    """Where a run shows what it does."""

    progress: Any
    preview: Any
    gallery: Any
    report: Any
    files: Any
    last: Any  # the state that keeps the paths of the last pictures
    say: Say = str.format
    wrong: Any  # the state that keeps the number of the card that something is wrong with, and the sentence

    @property
    def all(self) -> list[Any]:
        """Return every widget that a run may change; none of a card, since cards may be drawn anew while it runs."""
        return [self.progress, self.preview, self.gallery, self.report, self.files, self.last, self.wrong]

    def begun(self) -> dict[Any, Any]:
        """Return what a page shows when its turn comes."""
        told = self.say("loading models and making hints")
        waiting = f"<progress aria-label='{told}'></progress><p>{told}</p>"
        return {self.progress: waiting, self.wrong: None}

    def step(self, progress: Progress) -> dict[Any, Any]:
        """Return what a page shows after a step."""
        shown: dict[Any, Any] = {self.progress: results.progress_bar(progress, self.say)}
        if progress.preview is not None:
            shown[self.preview] = gr.update(value=progress.preview, visible=True)
        return shown

    def trouble(self, error: ControlError) -> dict[Any, Any]:
        """Return an error as a sentence: beside the unit that caused it, else where the progress stood."""
        ended = {self.preview: gr.update(visible=False)}
        if isinstance(error, UnitProblemError):
            sentence = results.trouble(f"{self.say('Unit')} {error.number}: {error}")
            return {**ended, self.progress: sentence, self.wrong: (error.number, sentence)}
        return {**ended, self.progress: results.trouble(str(error))}

    def ended(self, **shown: Any) -> dict[Any, Any]:
        """Return what a page shows at the end. shown: values of gallery, report, files, last."""
        return {
            self.progress: "",
            self.preview: gr.update(visible=False),
            **{getattr(self, name): value for name, value in shown.items()},
        }


def connect(studio: Studio, sessions: Sessions, form: Form, outputs: Outputs, buttons: Mapping[str, Any]) -> None:
    """Connect the buttons `generate`, `compare`, `grid`. buttons: those, and the axes of the grid."""

    def draw(request: gr.Request, *values: Any) -> Iterator[dict[Any, Any]]:
        yield from _watched(sessions, request, outputs, lambda told, stop: _one(studio, form, told, stop, values))

    def compare(request: gr.Request, *values: Any) -> Iterator[dict[Any, Any]]:
        cells = lambda job, *_: compared(job)  # noqa: E731
        yield from _watched(
            sessions, request, outputs, lambda told, stop: _several(studio, form, told, stop, values, cells)
        )

    def grid(request: gr.Request, *given: Any) -> Iterator[dict[Any, Any]]:
        axes, values = given[:4], given[4:]
        cells = lambda _job, said, units: gridded(studio.library, said, units, axes)  # noqa: E731
        yield from _watched(
            sessions, request, outputs, lambda told, stop: _several(studio, form, told, stop, values, cells)
        )

    # With keys: a run goes on while cards are drawn anew.
    hidden: dict[str, Any] = {"show_progress": "hidden", **ONE_AT_A_TIME}
    buttons["generate"].click(draw, form.inputs, outputs.all, key="draw", **hidden)
    buttons["compare"].click(compare, form.inputs, outputs.all, key="compare", **hidden)
    axes = [buttons[name] for name in ("x", "x_values", "y", "y_values")]
    buttons["grid"].click(grid, [*axes, *form.inputs], outputs.all, key="grid", **hidden)


def _watched(
    sessions: Sessions,
    request: gr.Request,
    shown: Outputs,
    work: Callable[[Outputs, Stop], Iterator[dict[Any, Any]]],
) -> Iterator[dict[Any, Any]]:
    """Yield what a run shows, in the visitor's language, with its errors as sentences; whoever leaves stops it."""
    outputs = replace(shown, say=speaker(language_of(request)))
    session = request.session_hash or ""
    stop = sessions.begin(session)
    try:
        yield outputs.begun()
        yield from work(outputs, stop)
    except ControlError as error:
        yield outputs.trouble(error)
    except Stopped:
        yield outputs.ended(report=f"<p>{outputs.say('Stopped.')}</p>")
    finally:
        stop.ask()
        sessions.end(session, stop)


def _one(studio: Studio, form: Form, outputs: Outputs, stop: Stop, values: Sequence[Any]) -> Iterator[dict[Any, Any]]:
    job = make_job(studio.library, *form.read(values))
    for each in studio.run(lambda report: studio.draw(job, stop, report)):
        if isinstance(each, Progress):
            yield outputs.step(each)
        else:
            yield _finished(outputs, each)


def _finished(outputs: Outputs, drawn: Drawn) -> dict[Any, Any]:
    files = [str(path) for path in drawn.files]
    shown = gr.update(value=results.gallery(drawn, outputs.say), selected_index=0 if files else None)
    return outputs.ended(
        gallery=shown,
        report=results.report(drawn, outputs.say),
        files=gr.update(value=files, visible=bool(files)),
        last=files,
    )


def _several(
    studio: Studio,
    form: Form,
    outputs: Outputs,
    stop: Stop,
    values: Sequence[Any],
    cells_of: Callable[..., Sequence[Sequence[Cell]]],
) -> Iterator[dict[Any, Any]]:
    """Yield what a sheet of several jobs shows while it is drawn, and then the sheet."""
    said, units = form.read(values)
    rows = cells_of(make_job(studio.library, said, units), said, units)
    jobs = [cell.job for row in rows for cell in row]
    steps = sum(job.request.all_steps for job in jobs)
    drawn: list[Drawn] = []
    folder = studio.new_folder()
    for job in jobs:
        for each in studio.run(lambda report, job=job: studio.draw(job, stop, report, folder)):
            if isinstance(each, Progress):
                done = sum(before.job.request.all_steps for before in drawn) + each.step
                left = each.left + (steps - done - (each.steps - each.step)) * each.left / max(
                    1, each.steps - each.step
                )
                yield outputs.step(Progress(done, steps, left, each.preview))
            else:
                drawn.append(each)
        stop.check()
    pictures = [(str(one.files[0]), cell.label) for one, cell in zip(drawn, _flat(rows), strict=True)]
    sheet, last = sheet_of(rows, drawn), drawn[-1]
    yield outputs.ended(
        gallery=gr.update(
            value=[(sheet, outputs.say("all together")), *pictures, *results.inputs_and_hints(last, outputs.say)],
            selected_index=0,
        ),
        report=results.report(last, outputs.say, drawn[:-1]),
        files=gr.update(value=[str(one.files[0]) for one in drawn], visible=True),
        last=[str(last.files[0])],
    )


def _flat(rows: Sequence[Sequence[Cell]]) -> list[Cell]:
    return [cell for row in rows for cell in row]


def from_editor(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was said with the editor's value as the picture to start from and the mask of what is redrawn."""
    from .card_events import painted

    found = dict(said)
    value = found.pop("start_from", None)
    background = None if value is None else value["background"]
    found["image"] = None if background is None else background[..., :3].copy()
    found["mask"] = None if background is None else painted(value)
    return found


def pictured(said: Mapping[str, Any], units: Sequence[Mapping[str, Any]]) -> Any:
    """Return the picture that a run is about: the one that it starts from, else the first unit's; None for neither."""
    own = (each["image"] for each in units if each["enabled"])
    return next((each for each in (said["image"], *own) if each is not None), None)


def the_job(studio: Studio, form: Form, values: Sequence[Any]) -> Job:
    """Return the job that a page says now."""
    return make_job(studio.library, *form.read(values))
