"""The commands that make the tiny world again: `dataset`, `autoencoder`, `base`."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from ..progress import replace_folder, watch, write_curve


def add_parsers(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Mount the commands."""
    for name, run, count, what in (
        ("dataset", _dataset, 6000, "draw scenes with captions and depth maps into an image folder"),
        ("autoencoder", _autoencoder, 1500, "train the autoencoder"),
        ("base", _base, 6000, "train the base model around a trained autoencoder"),
    ):
        parser = subparsers.add_parser(name, help=what, description=what)
        parser.add_argument("--out", type=Path, required=True, help="folder to write")
        parser.add_argument("--seed", type=int, default=0)
        label = "--count" if name == "dataset" else "--steps"
        parser.add_argument(label, dest="count", type=int, default=count)
        if name == "base":
            parser.add_argument("--vae", type=Path, required=True, help="folder that `autoencoder` wrote")
        parser.set_defaults(run=run)


def _dataset(args: argparse.Namespace) -> int:
    from .scenes import write_dataset

    write_dataset(args.out, args.count, args.seed)
    return 0


def _autoencoder(args: argparse.Namespace) -> int:
    import torch

    from .autoencoder import new_autoencoder, train_autoencoder

    torch.manual_seed(args.seed)
    vae = new_autoencoder()
    losses = watch(train_autoencoder(vae, args.count, args.seed), args.count)
    replace_folder(args.out, vae.save_pretrained)
    write_curve(losses, args.out.with_suffix(".png"))
    return 0


def _base(args: argparse.Namespace) -> int:
    import torch
    from diffusers import AutoencoderTiny

    from .base import new_base, train_base

    torch.manual_seed(args.seed)
    base = new_base(AutoencoderTiny.from_pretrained(args.vae), args.out.with_suffix(".work"))
    losses = watch(train_base(base, args.count, args.seed), args.count)
    replace_folder(args.out, base.save)
    shutil.rmtree(args.out.with_suffix(".work"))
    write_curve(losses, args.out.with_suffix(".png"))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m controlstack.training.tiny.commands ...`"""
    parser = argparse.ArgumentParser(prog="controlstack tiny", description=__doc__)
    add_parsers(parser.add_subparsers(required=True))
    args = parser.parse_args(argv)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
