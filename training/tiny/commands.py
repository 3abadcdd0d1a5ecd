"""The commands that make the tiny world again: `dataset`, `autoencoder`, `base`."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

WINDOW = 100  # steps over which the shown loss is averaged


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
    losses = _watch(train_autoencoder(vae, args.count, args.seed), args.count)
    _replace(args.out, vae.save_pretrained)
    _curve(losses, args.out.with_suffix(".png"))
    return 0


def _base(args: argparse.Namespace) -> int:
    import torch
    from diffusers import AutoencoderTiny

    from .base import new_base, train_base

    torch.manual_seed(args.seed)
    base = new_base(AutoencoderTiny.from_pretrained(args.vae), args.out.with_suffix(".work"))
    losses = _watch(train_base(base, args.count, args.seed), args.count)
    _replace(args.out, base.save)
    shutil.rmtree(args.out.with_suffix(".work"))
    _curve(losses, args.out.with_suffix(".png"))
    return 0


def _watch(losses: Iterable[float], count: int) -> list[float]:
    """Run a training and show its progress."""
    seen: list[float] = []
    for loss in losses:
        seen.append(loss)
        if len(seen) % WINDOW == 0 or len(seen) == count:
            recent = seen[-WINDOW:]
            print(f"step {len(seen)} of {count}: loss {sum(recent) / len(recent):.4f}", flush=True)
    return seen


def _replace(folder: Path, save: object) -> None:
    """Save beside the folder, then swap, so that nobody finds it half-written."""
    fresh = folder.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    save(fresh)  # type: ignore[operator]
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(fresh, folder)  # noqa: PTH105 - Path.replace does not say that it is atomic


def _curve(losses: Sequence[float], path: Path) -> None:
    """The loss, averaged over WINDOW steps, as a picture; the vertical axis is logarithmic."""
    import cv2
    import numpy as np

    kernel = np.ones(min(WINDOW, len(losses))) / min(WINDOW, len(losses))
    values = np.log(np.convolve(losses, kernel, mode="valid"))
    height, width = 240, 480
    span = max(float(np.ptp(values)), 1e-6)
    x = np.linspace(10, width - 10, len(values))
    y = (height - 10) - (values - values.min()) / span * (height - 20)
    canvas = np.full((height, width, 3), 255, np.uint8)
    cv2.polylines(canvas, [np.stack([x, y], 1).astype(np.int32)], False, (200, 80, 30), 1, cv2.LINE_AA)
    cv2.putText(canvas, f"{losses[0]:.3f} to {np.exp(values[-1]):.4f}", (150, 20), 0, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.imwrite(str(path), canvas)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m controlstack.training.tiny.commands ...`"""
    parser = argparse.ArgumentParser(prog="controlstack tiny", description=__doc__)
    add_parsers(parser.add_subparsers(required=True))
    args = parser.parse_args(argv)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
