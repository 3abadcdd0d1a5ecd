"""The commands of training: train, measure, ask people, try what the papers say, make the tiny world again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import train_command, transfer_command
from .evaluation import command as evaluation
from .reproduce import command as reproduction
from .study import command as study
from .tiny import commands as tiny

TRAIN = "Train a control network over a base model, from a folder of pictures; docs/training.md."


def add_parsers(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Mount `train`, `evaluate`, `study`, `reproduce`, `transfer` and `tiny`."""
    train_command.add_arguments(subparsers.add_parser("train", help="train a control network", description=TRAIN))
    judge = "measure pictures, and how well they obey their hints"
    evaluation.add_arguments(subparsers.add_parser("evaluate", help=judge, description=f"{judge}; docs/evaluation.md"))
    study.add_arguments(subparsers.add_parser("study", help=study.DOES, description=study.DOES))
    reproduction.add_arguments(
        subparsers.add_parser("reproduce", help=reproduction.DOES, description=reproduction.DOES)
    )
    carry = "carry a ControlNet over to another base model"
    transfer_command.add_arguments(subparsers.add_parser("transfer", help=carry, description=carry))
    world = subparsers.add_parser("tiny", help="make the tiny world again", description=tiny.__doc__)
    tiny.add_parsers(world.add_subparsers(required=True, metavar="COMMAND"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m controlstack.training.commands ...`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="controlstack", description=__doc__)
    add_parsers(parser.add_subparsers(required=True, metavar="COMMAND"))
    args = parser.parse_args(argv)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
