"""The command `evaluate`: pictures of one's own, or a model that draws them; without either, the tiny world."""

from __future__ import annotations

import argparse

from .own.options import add_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    add_options(parser)
    parser.set_defaults(run=_evaluate)


def _evaluate(args: argparse.Namespace) -> int:
    if args.pictures is None and args.base is None:
        from .tiny_command import evaluate_tiny

        return evaluate_tiny(args)
    from .own.options import asked
    from .own.run import evaluate

    return evaluate(asked(args), resume=args.resume, also=args.json)
