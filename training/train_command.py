"""The command `train`: one training from its first check to the file that it leaves, whatever happens in between."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import ControlError, DivergedError, ModelError
from ..core.wording import print_line
from .options import add_options, check_changes, settings_of

if TYPE_CHECKING:
    from .report.reporter import Reporter
    from .run import Run

INTERRUPTED = 130  # exit code after Ctrl-C

FOLDERS = (".snapshots", ".samples", ".logs")  # beside the model, each with its name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    add_options(parser)
    parser.set_defaults(run=_train)


def _train(args: argparse.Namespace) -> int:
    from ..preprocessors.images import check_folder
    from .report.bars import bar
    from .report.opening import asked_processes, launcher, opening, too_few_processes
    from .results.alone import alone
    from .results.export import check_export
    from .start import start

    if args.out.suffix != ".safetensors" or args.out.is_dir():
        raise ModelError(f"--out is '{args.out}', expected the name of a .safetensors file")
    for folder in (args.out.parent, *(args.out.with_suffix(end) for end in FOLDERS)):
        check_folder(folder)
    check_changes(args.change, resumed=args.resume)
    if not (args.resume or args.plan):
        _check_results(args.out)
    if args.diffusers:
        check_export(args.family)
    run = start(settings_of(args), bar)
    run.recipe.check_out(run.network, args.out)
    if args.plan:
        return _plan(run)
    try:
        with alone(args.out) if run.is_main else nullcontext():
            if run.is_main and not args.resume:
                _check_results(args.out)  # which another training may have written since
            taken = _resumed(run, args) if args.resume else []
            if run.is_main:
                warning = too_few_processes(asked_processes(launcher()), run.accelerator.num_processes)
                _tell([*([warning] if warning else []), *opening(run), *taken])
            return _trained(run, args.out)
    finally:
        run.examples.close()


def _check_results(out: Path) -> None:
    """Raise where a model or a checkpoint is there already."""
    from .results.files import check_new

    state = out.with_suffix(".state")
    for result in (out, state):
        check_new(result, "go on with it by --resume" if state.is_file() else f"begin with it by --start {out}")


def _resumed(run: Run, args: argparse.Namespace) -> list[str]:
    """Go on from the checkpoint; return what is said of it."""
    state = args.out.with_suffix(".state")
    changed = run.load(state, {name.lstrip("-").replace("-", "_") for name in args.change})
    return [f"goes on after step {run.step}, from '{state}'", *(f"changed: {each}" for each in changed)]


def _plan(run: Run) -> int:
    from .report.opening import opening
    from .report.plan import plan

    if run.is_main:
        _tell([*opening(run), *plan(run)])
    return 0


def _tell(lines: Sequence[str]) -> None:
    for line in lines:
        print_line(line)


def _trained(run: Run, out: Path) -> int:
    """Take the steps, and write what is there at their end, at an interrupt, and every so often."""
    from .interrupts import interrupts_wait
    from .loop import train
    from .report.reporter import Reporter

    with _ended(run), _saved(run, out), Reporter(run, out) as reporter, interrupts_wait() as interrupted:
        _catch_up(run, out)
        for loss in train(run):
            reporter.add(loss)
            if run.any_process(interrupted()):
                return _stopped(run, out, reporter)
            if run.step % run.settings.save_every == 0:
                _snapshot(run, out)
        _finished(run, out, reporter)
    return 0


def _stopped(run: Run, out: Path, reporter: Reporter) -> int:
    """End after Ctrl-C: the weights of the last step are usable, and the training can go on."""
    run.save(out.with_suffix(".state"))
    if run.is_main:
        _write(run, out)
        reporter.curve()
        print_line(f"stopped after step {run.step}: wrote {out}; go on with --resume", error=True)
    return INTERRUPTED


def _finished(run: Run, out: Path, reporter: Reporter) -> None:
    if run.is_main:
        _write(run, out)
        reporter.curve()
        print_line(f"wrote {out}")
        if run.settings.diffusers:
            from .results.export import write_folder
            from .results.model import companion_path

            alone = f", the control alone: load '{companion_path(out).name}' into the base too" if run.before else ""
            print_line(f"wrote {write_folder(run, out)}{alone}")


def _snapshot(run: Run, out: Path) -> None:
    """Write a checkpoint to go on from, and the weights as they are now; neither where they are not finite."""
    if not run.is_finite():
        raise DivergedError(
            f"after step {run.step} weights are not finite any more: lower --learning-rate, and go on from the last "
            "checkpoint with --resume --change learning-rate, if there is one"
        )
    run.save(out.with_suffix(".state"))
    _write_snapshot(run, out)


def _catch_up(run: Run, out: Path) -> None:
    """Write the snapshot of the step that a training goes on after, where it ended between checkpoint and snapshot."""
    from .results.checkpoints import snapshot_path

    due = run.step > 0 and run.step % run.settings.save_every == 0
    if due and not snapshot_path(out, run.step).exists():
        _write_snapshot(run, out)


def _write_snapshot(run: Run, out: Path) -> None:
    """Write the weights as they are now beside the model, and remove the oldest snapshots."""
    from .results.checkpoints import keep_last, snapshot_path

    if run.is_main:
        _write(run, snapshot_path(out, run.step))
        keep_last(out, run.settings.keep)


def _write(run: Run, path: Path) -> None:
    from .results.model import write_model

    write_model(run, path)


@contextmanager
def _ended(run: Run) -> Iterator[None]:
    """Let trackers write what they have heard, and other processes go, whatever ends the training."""
    try:
        yield
    finally:
        run.accelerator.end_training()


@contextmanager
def _saved(run: Run, out: Path) -> Iterator[None]:
    """Save a checkpoint of the last whole step where an error ends the training, and say so.

    Not where it diverged: then the last good state is the one on the disk.
    """
    state = out.with_suffix(".state")
    try:
        yield
    except DivergedError as error:
        kept = f"the last checkpoint is '{state}'" if state.exists() else "there is no checkpoint yet"
        raise DivergedError(f"{error}; {kept}, and '{out.name}' is as it was before") from error
    except Exception as error:
        if run.step and run.whole and run.is_main:
            _save_after(error, run, state)
        raise


def _save_after(error: Exception, run: Run, state: Path) -> None:
    """Save a checkpoint after an error, which is what is told in the end, whatever becomes of the saving."""
    saved = False
    with suppress(ControlError):
        run.save(state)
        saved = True
    what = f"{'an error' if isinstance(error, ControlError) else type(error).__name__} after step {run.step}"
    if saved:
        print_line(f"{what}: saved '{state}'; go on with --resume", error=True)
    elif state.exists():
        print_line(f"{what}: the last checkpoint, '{state}', is whole; go on from it with --resume", error=True)
