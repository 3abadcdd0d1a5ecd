"""The command `controlstack`: the one front door of the standalone edge and of training, which do not know each other.

Errors of ours are one line and exit code 2, and so is what the system refuses (a full disk, a folder that is gone); an
interrupt is exit code 130, a reader of the output that has gone away 141, as of a command that its signal ends.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

BAD_INPUT, INTERRUPTED, NOBODY_READS = 2, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    from .core.errors import ControlError
    from .core.wording import print_line

    _take_any_name()
    try:
        args = _parse(sys.argv[1:] if argv is None else argv)
        code: int = args.run(args)
        if sys.stdout is not None:  # a program without a terminal
            sys.stdout.flush()
        return code
    except ControlError as error:
        print_line(f"controlstack: {error}", error=True)
        return BAD_INPUT
    except KeyboardInterrupt:
        print_line("controlstack: interrupted", error=True)
        return INTERRUPTED
    except BrokenPipeError:  # such as of `controlstack units | head`
        _give_up_output()
        return NOBODY_READS
    except OSError as error:
        _give_up_output()
        print_line(f"controlstack: {_sentence(error)}", error=True)
        return BAD_INPUT


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line too."""

    def error(self, message: str) -> NoReturn:
        """End the command with a sentence; argparse would print the usage before it."""
        from .core.wording import printable

        self.exit(BAD_INPUT, f"controlstack: {printable(message)}: see '{self.prog} --help'\n")


def _take_any_name() -> None:
    """Let the terminal escape characters that its encoding has not; a file may be called by any of them."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _give_up_output() -> None:
    """Print what is left to print; send it to nobody where that fails, or Python would fail once more when it ends."""
    stream = sys.stdout
    if not isinstance(stream, io.TextIOWrapper) or stream is not sys.__stdout__:
        return
    try:
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _sentence(error: OSError) -> str:
    """Return what the system refused, to which file, and what to look at."""
    what = error.strerror or str(error) or type(error).__name__
    return f"{what}{f': {error.filename}' if error.filename else ''}: look at the folder, its rights and the free space"


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return what a command line says, with the settings of a file where it names one."""
    parser = _parser()
    args = parser.parse_args(argv)
    if getattr(args, "settings", None) is None:
        return args
    from .standalone.terminal.settings import with_settings

    return parser.parse_args(with_settings(argv, args))


def _empty_parser() -> argparse.ArgumentParser:
    return _Parser(prog="controlstack", description="Stacked control units for Stable Diffusion.")


def _parser() -> argparse.ArgumentParser:
    from . import __version__
    from .standalone.terminal import commands as standalone
    from .training import commands as training

    parser = _empty_parser()
    parser.add_argument("--version", action="version", version=f"controlstack {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    standalone.add_parsers(commands)
    training.add_parsers(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
