"""The command `controlstack`: the one front door of the standalone edge and of training, which do not know each other.

Errors of ours are one line and exit code 2; an interrupt is exit code 130.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

BAD_INPUT, INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    from .core.errors import ControlError

    args = _parser().parse_args(argv)
    try:
        return args.run(args)
    except ControlError as error:
        print(f"controlstack: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("controlstack: interrupted", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    from .standalone import commands as standalone
    from .training import commands as training

    parser = argparse.ArgumentParser(prog="controlstack", description="Stacked control units for Stable Diffusion.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    standalone.add_parsers(commands)
    training.add_parsers(commands)
    measure = commands.add_parser("evaluate", help="measure how well the tiny world obeys its controls")
    measure.add_argument("--scenes", type=int, default=8)
    measure.add_argument("--json", type=Path, help="write the numbers here")
    measure.set_defaults(run=_evaluate)
    return parser


def _evaluate(args: argparse.Namespace) -> int:
    """The scenes and scores are training's, the pictures the standalone edge's: only here do they meet."""
    import torch

    from .models.registry import load_control_model
    from .standalone.demo import BASE, CONTROLS, SIDE, STEPS
    from .standalone.pipeline import Request, generate, load_base
    from .training.evaluate import evaluate, make_trial, table

    base, trial = load_base(BASE), make_trial(args.scenes)
    files = sorted(CONTROLS.glob("*.safetensors"))
    controls = {file.stem: load_control_model(file, dtype=torch.float32) for file in files}
    request = Request(steps=STEPS, guidance=1.0, width=SIDE, height=SIDE, batch=args.scenes, scheduler="ddim")
    scores, _ = evaluate(trial, controls, lambda units: generate(base, request, units).images)
    print(table(scores))
    if args.json:
        args.json.write_text(json.dumps(scores, indent=2), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
