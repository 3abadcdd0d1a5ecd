"""What one server keeps and does: models that are loaded once, hints, and pictures, one request at a time.

A request runs on a thread of its own and is watched through a queue, so that whoever asked for it sees each step and
can stop it; nobody else can, for the only way to stop a request is the `Stop` that was made for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...core.control import ControlModel
from ...core.errors import ControlError
from ...core.firing import Firing
from ...pipelines.attached import check_units
from ...pipelines.bases import DTYPES, Base, Offload, UnetState, load_base, native_side
from ...pipelines.drawing import generate
from ...pipelines.latent_colours import LatentColours
from ...pipelines.request import Request
from ...pipelines.shares import check_shares, parts
from ...preprocessors.networks.pool import PlainManager, Pool
from ...preprocessors.networks.store import Store, default_folder
from ...preprocessors.perform import Runtime
from ...units.ready import Ready, ready
from ..record import Digests, write_pictures
from ..units import load_model
from .library import Library
from .said import Job, UnitProblemError

Image = NDArray[np.uint8]

AT_ONCE = 4  # pictures that are drawn together
KEPT = 8  # control models that stay loaded
SHOWN_EVERY = 3  # steps between two previews


class Stopped(Exception):  # noqa: N818 - it is no error: somebody pressed Stop
    """Ends a run that was asked to stop."""


class Stop:
    """The way to stop one run, and no other."""

    def __init__(self) -> None:
        self._event = Event()

    def ask(self) -> None:
        """Ask the run to stop within its present step."""
        self._event.set()

    def check(self) -> None:
        """Raise Stopped if somebody asked."""
        if self._event.is_set():
            raise Stopped


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands; `preview` is None but every few steps."""

    step: int
    steps: int
    left: float  # seconds, by the pace up to now
    preview: Image | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What a unit cost."""

    seconds: float
    bytes: int  # of its network's weights


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """What came of a job: pictures with their seeds and files, and what each of its units did."""

    job: Job
    images: tuple[Image, ...]
    seeds: tuple[int, ...]
    files: tuple[Path, ...]
    units: tuple[Ready, ...]
    firings: tuple[Firing, ...]
    costs: tuple[Cost, ...]
    seconds: float
    stopped: bool = False


@dataclass
class _Clock:
    """Seconds that each control model's network has computed, by its identity."""

    spent: dict[int, float] = field(default_factory=dict)


class WatchedBase(Base):
    """A base model whose run can be stopped, and which knows how long each control network computed."""

    def __init__(self, base: Base, stop: Stop, clock: _Clock) -> None:
        super().__init__(base.pipeline, base.device, base.offload, source=base.source, prediction=base.prediction)
        self._stop, self._clock = stop, clock

    @property
    def computes_beside(self) -> bool:
        """Return False: each network's time is told."""
        return False

    def check_interrupt(self) -> None:
        """Raise Stopped if somebody asked for it."""
        self._stop.check()

    @contextmanager
    def ready(self, model: ControlModel) -> Iterator[None]:
        """Bring a control network to the device, and count the time that it computes there."""
        self._stop.check()
        key = id(model.network)
        with super().ready(model):
            before = time.perf_counter()
            yield
            self._clock.spent[key] = self._clock.spent.get(key, 0.0) + time.perf_counter() - before


class Studio:
    """Models, hints and pictures of one server."""

    def __init__(
        self,
        library: Library,
        folder: Path,
        *,
        device: str = "auto",
        dtype: str = "fp32",
        offload: str = "none",
        download: bool = False,
        captioner: Path | None = None,
    ) -> None:
        """folder: where pictures are written. download: whether weights of preprocessors are fetched when needed.

        captioner: the folder of a model that describes pictures, if there is one.
        """
        self.library, self.folder, self.captioner = library, folder, captioner
        self._options = {"device": device, "dtype": DTYPES[dtype], "offload": Offload(offload)}
        pool = Pool(PlainManager(None if device == "auto" else device))
        self.runtime = Runtime(store=Store(default_folder(), automatic=download), pool=pool)
        self._base: tuple[str, Base, LatentColours] | None = None
        self._models: dict[str, ControlModel] = {}
        self._digests = Digests()
        self._alone = Lock()
        self._stops: set[Stop] = set()  # of the runs that draw or wait
        self._closed = False
        self._number = 0

    def close(self) -> None:
        """Stop every run, and begin none from now on; Python itself waits for their threads before it ends.

        A thread that is still inside an operation of PyTorch when Python ends would abort the process.
        """
        self._closed = True
        for stop in tuple(self._stops):
            stop.ask()

    def warm(self) -> None:
        """Load the first base model before somebody waits for it, in the background; errors come when it is used."""

        def load() -> None:
            with self._alone, suppress(ControlError):
                self._loaded(next(iter(self.library.bases)))

        Thread(target=load, name="controlstack-warm").start()

    def side(self, base: str) -> int:
        """Return the side in pixels of the pictures that a base model was trained on."""
        return native_side(self.library.base(base))

    def run(self, work: Callable[[Callable[[Progress], None]], Any]) -> Iterator[Any]:
        """Yield what a work reports, and at last what it returns; what it raises is raised here."""
        told: SimpleQueue[tuple[str, Any]] = SimpleQueue()

        def act() -> None:
            try:
                told.put(("done", work(lambda progress: told.put(("progress", progress)))))
            except BaseException as error:  # noqa: BLE001 - it is raised where the run is watched
                told.put(("raised", error))

        Thread(target=act, name="controlstack-run").start()
        while True:
            kind, what = told.get()
            if kind == "raised":
                raise what
            yield what
            if kind == "done":
                return

    def draw(self, job: Job, stop: Stop, report: Callable[[Progress], None], folder: Path | None = None) -> Drawn:
        """Draw a job; a stop keeps the pictures that are finished. Errors of units have their number.

        folder: where its pictures are numbered on from those that are there, as in a sheet of several jobs; a new
        one without it.
        """
        with self._stoppable(stop), self._alone:
            stop.check()
            base, colours = self._loaded(job.base)
            units = self._units(job, base)
            return self._draw(job, base, colours, units, stop, report, folder or self.new_folder())

    @contextmanager
    def _stoppable(self, stop: Stop) -> Iterator[None]:
        """Let `close` stop a run; one that begins after it is stopped at once."""
        self._stops.add(stop)
        if self._closed:
            stop.ask()
        try:
            yield
        finally:
            self._stops.discard(stop)

    def _draw(
        self,
        job: Job,
        base: Base,
        colours: LatentColours,
        units: Sequence[Ready],
        stop: Stop,
        report: Callable[[Progress], None],
        folder: Path,
    ) -> Drawn:
        clock, began = _Clock(), time.perf_counter()
        watched = WatchedBase(base, stop, clock)
        check_shares([each.unit for each in units], job.request.batch)
        shares = list(parts(job.request, [each.unit for each in units], AT_ONCE))
        images: list[Image] = []
        files: list[Path] = []
        firings: tuple[Firing, ...] = ()
        stopped = False
        watch = _Watch(report, stop, colours, job.request.all_steps * len(shares))
        try:
            for part, own in shares:
                result = generate(watched, part, own, watch.step, watch.latents)
                watch.part_done(part.all_steps)
                firings = result.firings
                files += write_pictures(folder, base, part, own, result, digests=self._digests)
                images += list(result.images)
        except Stopped:
            stopped = True
        seeds = tuple(job.request.seed + k for k in range(len(images)))
        costs = tuple(_cost(each, clock) for each in units)
        seconds = time.perf_counter() - began
        return Drawn(job, tuple(images), seeds, tuple(files), tuple(units), firings, costs, seconds, stopped)

    def new_folder(self) -> Path:
        """Return a new folder for the pictures of a job, or of the jobs of a sheet."""
        self._number += 1
        path = self.folder / f"{self._number:06d}"
        path.mkdir(parents=True)
        return path

    def _loaded(self, name: str) -> tuple[Base, LatentColours]:
        if self._base is None or self._base[0] != name:
            self._base = None  # frees its memory before the next one is read
            base = load_base(self.library.base(name), **self._options)
            self._base = (name, base, LatentColours(base))
        return self._base[1], self._base[2]

    def _units(self, job: Job, base: Base) -> list[Ready]:
        target = (job.request.height, job.request.width)
        found: list[Ready] = []
        for number, request in zip(job.numbers, job.units, strict=True):
            try:
                known = self.library.model(request.model)
                model = self._model(job.base, request.model, base)
                said = replace(request, model=str(known.path))
                unit = ready(said, model, target, says=known.says, seed=job.request.seed, runtime=self.runtime)
                check_units([unit.unit], base.pipeline.unet)
                found.append(unit)
            except ControlError as error:
                raise UnitProblemError(number, error) from error
        return found

    def _model(self, base_name: str, name: str, base: Base) -> ControlModel:
        """Return a control model, loaded now or before; the oldest leaves."""
        key = f"{base_name}\n{name}"  # files of differences are complete only with their base
        if key not in self._models:
            while len(self._models) >= KEPT:
                del self._models[next(iter(self._models))]
            path, state = self.library.model(name).path, UnetState(lambda: base)
            self._models[key] = load_model(str(path), self._options["dtype"], state)
        return self._models[key]


class _Watch:
    """Counts the steps of a job's parts and shows a picture every few of them."""

    def __init__(self, report: Callable[[Progress], None], stop: Stop, colours: LatentColours, steps: int) -> None:
        self._report, self._stop, self._colours, self._steps = report, stop, colours, steps
        self._before = 0
        self._began = time.perf_counter()
        self._preview: Image | None = None
        self._seen = 0

    def latents(self, latents: torch.Tensor) -> None:
        """Keep what the first picture looks like, every few steps."""
        self._stop.check()
        self._seen += 1
        self._preview = self._colours.show(latents[0]) if self._seen % SHOWN_EVERY == 0 else None

    def step(self, done: int) -> None:
        """Report a step of the present part."""
        at = self._before + done
        pace = (time.perf_counter() - self._began) / at
        self._report(Progress(at, self._steps, pace * (self._steps - at), self._preview))

    def part_done(self, steps: int) -> None:
        """Go on to the next part."""
        self._before += steps


def _cost(unit: Ready, clock: _Clock) -> Cost:
    network = unit.unit.model.network
    size = sum(each.numel() * each.element_size() for each in network.parameters())
    return Cost(clock.spent.get(id(network), 0.0), size)


def plain_firings(drawn: Drawn) -> Iterator[Mapping[str, Any]]:
    """Yield for each unit of a job what it did, as JSON can hold it."""
    for number, firing, cost in zip(drawn.job.numbers, drawn.firings, drawn.costs, strict=False):
        yield {"unit": number, **firing.plain(), "seconds": round(cost.seconds, 3)}


def variants(job: Job) -> Iterator[tuple[str, Job]]:
    """Yield the jobs of a comparison: nothing controlled, each unit alone, and all of them."""
    bare: Request = replace(job.request, batch=1)
    yield "no control", replace(job, request=bare, units=(), numbers=())
    for number, unit in zip(job.numbers, job.units, strict=True):
        yield f"unit {number} alone", replace(job, request=bare, units=(unit,), numbers=(number,))
    if len(job.units) > 1:
        yield "all units", replace(job, request=bare)
