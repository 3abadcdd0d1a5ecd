"""The command `transfer`: a ControlNet for another base model, without training."""

from __future__ import annotations

import argparse

from ..core.files import path_of
from ..core.wording import print_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    add = parser.add_argument
    add("control", type=path_of, help="the ControlNet")
    add("--from", dest="old", type=path_of, required=True, metavar="BASE", help="the base that it was trained over")
    add("--to", dest="new", type=path_of, required=True, metavar="BASE", help="the base that it is for")
    add("--out", type=path_of, required=True, help="the .safetensors file to write")
    add("--dtype", choices=("fp32", "fp16", "bf16"), default="fp16", help="of the written file (default: %(default)s)")
    parser.set_defaults(run=_transfer)


def _transfer(args: argparse.Namespace) -> int:
    from ..core.errors import ModelError
    from ..preprocessors.images import check_folder
    from .results.files import check_new
    from .results.transfer import transfer

    if args.out.suffix != ".safetensors" or args.out.is_dir():
        raise ModelError(f"--out is '{args.out}', expected the name of a .safetensors file")
    check_folder(args.out.parent)
    check_new(args.out)
    for name, base in (("--from", args.old), ("--to", args.new)):
        if not base.exists():
            raise ModelError(f"there is no base model '{base}': give a diffusers folder or a checkpoint as {name}")
    count = transfer(args.control, args.old, args.new, args.out, args.dtype)
    print_line(f"wrote {args.out}: {count} weights carried over from {args.old.name} to {args.new.name}")
    return 0
