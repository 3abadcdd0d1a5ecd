"""What a training says before its first step: on what, with what, and what differs from what was asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...core.wording import counted, plural
from ..data.checking import SHOWN, Depth
from ..run import Run, names_of_base, names_of_control

NAMES = {"no": "fp32", "fp16": "fp16", "bf16": "bf16"}


def opening(run: Run) -> list[str]:
    """Return the lines: examples, steps, processes, device, precision, parameters, and what was left out."""
    settings, accelerator = run.settings, run.accelerator
    count, processes = len(run.examples), accelerator.num_processes
    a_step = processes * settings.batch * settings.accumulate
    epochs = settings.steps * a_step / max(1, run.examples.epoch)
    trained, total = sizes(run)
    held = f", {len(run.held_out)} more held out for samples" if len(run.held_out) else ""
    lines = [
        f"training a {run.recipe.family.title} over {settings.base.name} on {counted(count, 'example')}{held}",
        f"{counted(settings.steps, 'step')} of {counted(processes, 'process')} x batch {settings.batch} x accumulate "
        f"{settings.accumulate} = {counted(a_step, 'example')}, {epochs:.1f} epochs",
        f"on {accelerator.device}, precision {NAMES[settings.mixed_precision]}, {millions(trained)} parameters trained "
        f"of {millions(total)}, learning rate {settings.learning_rate:g}",
    ]
    if run.checked.bad:
        lines.append(f"{counted(len(run.checked.bad), 'bad example')} left out:")
        lines += [f"  {bad}" for bad in run.checked.bad[:SHOWN]]
    if run.checked.depth is Depth.HEADERS:
        lines.append("the pictures are many, and only their headers were read so far: --check reads them whole")
    return lines


def sizes(run: Run) -> tuple[int, int]:
    """Return (parameters that are trained, parameters of U-Net and control)."""
    trained = {
        **names_of_control(run.plain),
        **{f"base {name}": each for name, each in names_of_base(run.plain).items()},
    }
    return sum(each.numel() for each in trained.values()), sum(each.numel() for each in run.plain.parameters())


def millions(count: int) -> str:
    """Return a count of parameters in millions."""
    return f"{count / 1e6:.1f} M" if count >= 1e5 else f"{count / 1e6:.3f} M"


def asked_processes(command: Sequence[str]) -> int | None:
    """Return how many processes a command line of `accelerate launch` asks for; None for another command.

    The launcher starts a single one on a CPU, and does not tell it how many were asked for.
    """
    if not any(re.search(r"accelerate", word) for word in command[:3]):
        return None
    for word, following in zip(command, [*command[1:], ""], strict=True):
        name, _, value = word.partition("=")
        if name in ("--num_processes", "--num-processes"):
            number = value or following
            return int(number) if number.isdigit() else None
    return None


def too_few_processes(asked: int | None, started: int) -> str | None:
    """Return a warning where fewer or more processes run than were asked for."""
    if asked is None or asked == started:
        return None
    return (
        f"warning: {asked} processes were asked for, and {started} {plural('process', started)} trains: each batch is "
        f"that of {started}; on a CPU accelerate needs --num_machines or torchrun --nproc_per_node {asked}"
    )


def launcher() -> Sequence[str]:
    """Return the command line of the program that has started this one; empty where it cannot be seen."""
    import psutil  # of accelerate

    try:
        parent = psutil.Process().parent()
        return parent.cmdline() if parent is not None else ()
    except psutil.Error:
        return ()
