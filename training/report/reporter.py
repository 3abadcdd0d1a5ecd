"""What a training tells while it runs: bar, numbers, curve, sheets of samples, trackers; the first process speaks."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from ...preprocessors.images import make_folder
from ..optimisers import rate_now
from ..run import Run
from .bars import Steps, steps_bar
from .curve import WINDOW, Numbers, recent, write_curve
from .samples import write_samples
from .trackers import begin, show_sheet


class Reporter:
    """Follows one run; to be used as a context."""

    def __init__(self, run: Run, out: Path) -> None:
        """out: the file that is trained; what is told lies beside it."""
        self._run, self._out = run, out
        self._stack = ExitStack()
        self._steps: Steps | None = None
        self._numbers: Numbers | None = None

    def __enter__(self) -> Reporter:
        run = self._run
        self._steps = self._stack.enter_context(steps_bar(run.settings.steps, run.step, speaks=run.is_main))
        if run.settings.trackers:
            begin(run, self._out)
        if run.is_main:
            make_folder(self._out.parent)
            self._numbers = Numbers(self._out.with_suffix(".csv"), run.step)
            if run.settings.samples and run.step == 0:
                self.sheet()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, loss: float) -> None:
        """Tell of the step that was just taken."""
        run = self._run
        if not run.is_main or self._steps is None or self._numbers is None:
            return
        rate = rate_now(run.optimiser)
        self._numbers.add(run.step, loss, rate)
        self._steps.show(recent(run.losses), rate)
        if run.settings.trackers:
            run.accelerator.log({"loss": loss, "learning_rate": rate}, step=run.step)
        if run.step % WINDOW == 0:
            self.curve()
        if run.settings.samples and run.step % run.settings.samples == 0:
            self.sheet()

    def curve(self) -> None:
        """Draw the loss curve as far as it goes."""
        if self._run.losses:
            write_curve(self._run.losses, self._out.with_suffix(".png"))

    def sheet(self) -> None:
        """Draw a sheet of samples of the network as it is now."""
        show_sheet(self._run, write_samples(self._run, self._out.with_suffix(".samples")))
