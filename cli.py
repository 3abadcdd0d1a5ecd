"""The command `controlstack`: the one front door of the standalone edge and of training, which do not know each other.

Errors of ours are one line and exit code 2; an interrupt is exit code 130.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

BAD_INPUT, INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    from .core.errors import ControlError

    try:
        args = _parse(sys.argv[1:] if argv is None else argv)
        return args.run(args)
    except ControlError as error:
        print(f"controlstack: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("controlstack: interrupted", file=sys.stderr)
        return INTERRUPTED


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return what a command line says, with the settings of a file where it names one."""
    parser = _parser()
    args = parser.parse_args(argv)
    if getattr(args, "settings", None) is None:
        return args
    from .standalone.terminal.settings import with_settings

    return parser.parse_args(with_settings(argv, args))


def _parser() -> argparse.ArgumentParser:
    from . import __version__
    from .standalone.terminal import commands as standalone
    from .training import commands as training

    parser = argparse.ArgumentParser(prog="controlstack", description="Stacked control units for Stable Diffusion.")
    parser.add_argument("--version", action="version", version=f"controlstack {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    standalone.add_parsers(commands)
    training.add_parsers(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
