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


EXAMPLES = {
    "evaluate": """
  controlstack evaluate --out judged --pictures drawn --data photos --hint canny --clip clip-vit-large-patch14
  controlstack evaluate --out judged --data photos --hint canny --base sd15.safetensors --control canny.safetensors
""",
    "study": """
  controlstack study ours=drawn theirs=other --hints hints --out study.html
  controlstack study --read answers-1.json answers-2.json --key study.key.json
""",
    "reproduce": """
  controlstack reproduce --out reproduced --size quick
  controlstack reproduce --out reproduced --only prompts --page papers.md
""",
    "transfer": """
  controlstack transfer canny.safetensors --from sd15.safetensors --to anime.safetensors --out moved.safetensors
  controlstack transfer canny.safetensors --from sd15-folder --to anime-folder --out moved.safetensors --dtype fp32
""",
    "tiny": """
  controlstack tiny dataset --out tiny/data
  controlstack tiny autoencoder --out tiny/vae
""",
}


def add_parsers(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Mount `train`, `evaluate`, `study`, `reproduce`, `transfer` and `tiny`."""

    def add(name: str, told: str, description: str) -> argparse.ArgumentParser:
        epilog = f"examples:{EXAMPLES[name]}" if name in EXAMPLES else None
        form = argparse.RawDescriptionHelpFormatter
        return subparsers.add_parser(name, help=told, description=description, epilog=epilog, formatter_class=form)

    train_command.add_arguments(add("train", "train a control network", TRAIN))
    judge = "measure pictures, and how well they obey their hints"
    evaluation.add_arguments(add("evaluate", judge, f"{judge}; docs/evaluation.md"))
    study.add_arguments(add("study", study.DOES, study.DOES))
    reproduction.add_arguments(add("reproduce", reproduction.DOES, reproduction.DOES))
    carry = "carry a ControlNet over to another base model"
    transfer_command.add_arguments(add("transfer", carry, carry))
    world = add("tiny", "make the tiny world again", tiny.__doc__ or "")
    tiny.add_parsers(world.add_subparsers(required=True, metavar="COMMAND"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m controlstack.training.commands ...`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="controlstack", description=__doc__)
    add_parsers(parser.add_subparsers(required=True, metavar="COMMAND"))
    args = parser.parse_args(argv)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
