"""The options of the standalone commands, in groups, each with its default, its choices and two examples."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...core.files import path_of
from ...pipelines.schedulers import NAMES as SCHEDULERS
from ...units.once import Once

DTYPES = ("fp32", "fp16", "bf16")
AUTO = "auto"  # of --device
PACKAGES = "preprocessors"  # what `get` brings beside weights
DEVICE = "such as cuda or cpu; auto is the GPU if PyTorch has one"

DEMO = """examples:
  controlstack demo
  controlstack demo --output pictures --seed 7
"""
GENERATE = """examples:
  controlstack generate --base sd15.safetensors --prompt "a house" \\
      --unit image=photo.png,preprocessor=canny,model=canny.safetensors,weight=0.8,end=0.6
  controlstack generate --base sd15 --unit "image=clip.mp4,preprocessor=depth_anything_v2,model=depth.safetensors" \\
      --output drawn --resume

What a --unit may say: controlstack units. Preprocessors: controlstack preprocess --list.
"""
AGAIN = """examples:
  controlstack again output/00001.png
  controlstack again output/00001.png --base /models/sd15.safetensors --output again
"""
PREPROCESS = """examples:
  controlstack preprocess canny photo.png --set low=80
  controlstack preprocess dw_openpose_full photos/ clip.mp4 --resolution 512 --poses --frames --resume --download
"""
GET = """examples:
  controlstack get sd15 controlnet-canny
  controlstack get preprocessors dw_openpose_full depth_anything_v2
"""
INSPECT = """examples:
  controlstack inspect control_v11p_sd15_canny.safetensors
  controlstack inspect models/ControlNet models/controlnet-depth --json
"""
UNITS = """examples:
  controlstack units --options
  controlstack generate --base sd15 --unit "image=a.png,preprocessor=canny,model=canny.safetensors,curve=0: 1; 1: 0.2"
"""


class Help(argparse.RawDescriptionHelpFormatter):
    """Help that keeps the lines of examples, and says the default of every option that has one to say."""

    def _get_help_string(self, action: argparse.Action) -> str:
        said = action.help or ""
        silent = any(action.default is each for each in (None, False, argparse.SUPPRESS)) or action.default in ("", [])
        return said if silent or "default" in said else f"{said} (default: %(default)s)"


def add_demo(parser: argparse.ArgumentParser) -> None:
    """Add the options of `demo`."""
    parser.epilog = DEMO
    parser.add_argument("--output", type=path_of, default=Path(), metavar="FOLDER", help="where the sheet goes")
    parser.add_argument("--seed", type=int, default=0, help="of the first row, the next one's is one more")


def add_generate(parser: argparse.ArgumentParser) -> None:
    """Add the options of `generate`."""
    parser.epilog = GENERATE
    _add_base(parser)
    group = parser.add_argument_group("control", "each may name a folder, a pattern or a video as its image or mask")
    group.add_argument("--unit", action="append", default=[], metavar="NAME=VALUE,...", help="repeat it to stack")
    _add_prompts(parser)
    _add_size(parser)
    _add_sampling(parser)
    _add_start(parser)
    _add_hires(parser)
    _add_machine(parser)
    group = parser.add_argument_group("output")
    group.add_argument("--output", type=path_of, default=Path("output"), metavar="FOLDER", help="where pictures go")
    group.add_argument(
        "--settings",
        type=path_of,
        metavar="FILE.toml",
        help="take what is not said here from this file, as every run writes one",
    )
    group.add_argument(
        "--resume", action="store_true", help="of folders and videos, skip what was drawn from the same before"
    )


def _add_base(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("base model").add_argument
    add(
        "--base",
        type=path_of,
        metavar="PATH",
        help="folder, file, or name such as sd15; must be said, or in --settings",
    )
    add("--prediction", choices=("epsilon", "v_prediction"), help="what a checkpoint file predicts, if it does not say")
    add(
        "--lora",
        action="append",
        default=[],
        metavar="FILE:WEIGHT",
        help="a LoRA of the base model, such as detail.safetensors:0.8; repeat it for others",
    )


def _add_prompts(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("prompts").add_argument
    add("--prompt", action="append", metavar="TEXT", help="what to draw; repeat it for a picture each (default: none)")
    add("--prompt-kind", choices=("none", "default", "user", "automatic"), help="the prompt kinds of the papers")
    add(
        "--captioner",
        type=path_of,
        metavar="FOLDER",
        help="a captioning model, for automatic prompts (default: BLIP where 'get' brought it); it sees --image, else "
        "the first unit's picture",
    )
    add("--added-prompt", default="", metavar="TEXT", help="words after the prompt")
    add("--negative", default="", metavar="TEXT", help="what the picture should not show")
    add("--clip-skip", type=int, default=1, metavar="N", help="layer of CLIP from the end, of SD 1.x; 1 is the last")


def _add_size(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("how many, how large").add_argument
    add("--batch", type=int, metavar="N", help="how many pictures (default: one for each prompt)")
    add("--at-once", type=int, default=4, metavar="N", help="pictures that are drawn together")
    add("--width", type=int, metavar="PIXELS", help="(default: of --image, else what the base model was trained on)")
    add("--height", type=int, metavar="PIXELS", help="(default: as --width)")
    add("--seed", type=int, default=-1, help="of the first picture, the next one's is one more; -1 is by chance")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("sampling").add_argument
    add("--steps", type=int, default=20, metavar="N", help="evaluations of the base model")
    add("--guidance", type=float, default=7.5, metavar="SCALE", help="of classifier-free guidance; 1 is none")
    add("--scheduler", default="unipc", metavar="NAME", help=f"one of {', '.join(SCHEDULERS)} (default: %(default)s)")
    add("--eta", type=float, default=0.0, metavar="0..1", help="noise that ddim adds at each step")


def _add_start(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("a picture to start from").add_argument
    add("--image", type=path_of, action=Once, metavar="PATH", help="a picture, a folder, a pattern or a video")
    told = "redraw only what is white in this picture, of the size of --image"
    add("--mask", type=path_of, action=Once, metavar="PATH", help=told)
    add("--strength", type=float, default=0.75, metavar="0..1", help="how far the picture may change")


def _add_hires(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("hires pass: draw each picture again, enlarged").add_argument
    add("--hires", type=float, default=1.0, metavar="FACTOR", help="such as 1.5; 1 is no such pass")
    add("--hires-steps", type=int, default=0, metavar="N", help="0 is as many as --steps")
    add("--hires-strength", type=float, default=0.5, metavar="0..1", help="how far the picture may change")


def _add_machine(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("machine").add_argument
    add("--device", default=AUTO, metavar="NAME", help=DEVICE)
    add("--dtype", choices=DTYPES, default="fp32", help="precision of the networks")
    add("--offload", choices=("none", "model", "sequential"), default="none", help="what leaves the GPU between uses")


def add_again(parser: argparse.ArgumentParser) -> None:
    """Add the options of `again`."""
    parser.epilog = AGAIN
    add = parser.add_argument
    add("picture", type=path_of, help="a PNG file that `controlstack generate` or a script wrote")
    add("--base", type=path_of, metavar="PATH", help="where the base model lies now, if not where the record says")
    add("--device", metavar="NAME", help="(default: the one that the picture was drawn on)")
    add("--output", type=path_of, default=Path("output"), metavar="FOLDER", help="where pictures go")


def add_preprocess(parser: argparse.ArgumentParser) -> None:
    """Add the options of `preprocess`."""
    parser.epilog = PREPROCESS
    add = parser.add_argument
    add("preprocessor", nargs="?", help="its name; with --list, a word to look for")
    add(
        "sources", type=path_of, nargs="*", metavar="picture", help="pictures, videos, pose files, folders and patterns"
    )
    add("--list", action="store_true", help="show all preprocessors, what they miss, and the licences of weights")
    add = parser.add_argument_group("how").add_argument
    add("--resolution", type=int, metavar="PIXELS", help="short side at which it works (default: as the picture)")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter; repeat it for others")
    add("--seed", type=int, default=0, help="of preprocessors that draw lots")
    told = "what is to be invented, in white; for inpaint preprocessors"
    add("--mask", type=path_of, action=Once, metavar="FILE", help=told)
    add = parser.add_argument_group("output").add_argument
    add("--output", type=path_of, default=Path("hints"), metavar="FOLDER", help="where hints go")
    add("--frames", action="store_true", help="make of a video a folder of pictures")
    add("--poses", action="store_true", help="write the poses as JSON too; such a file may be given as a picture")
    add("--resume", action="store_true", help="skip what was made of the same content with the same settings before")
    add = parser.add_argument_group("weights").add_argument
    add("--download", action="store_true", help="get those that are missing")
    add("--weights", type=path_of, action="append", default=[], metavar="FOLDER", help="look for them here as well")
    add("--device", default=AUTO, metavar="NAME", help=DEVICE)


def add_get(parser: argparse.ArgumentParser) -> None:
    """Add the options of `get`."""
    parser.epilog = GET
    told = f"a model of the list, owner/name of the hub, a preprocessor (its weights), or {PACKAGES} (all packages)"
    parser.add_argument("what", nargs="*", metavar="NAME", help=told)
    parser.add_argument("--list", action="store_true", help="say which models have a name, how large, which licence")


def add_inspect(parser: argparse.ArgumentParser) -> None:
    """Add the options of `inspect`."""
    parser.epilog = INSPECT
    told = "a control model, that is a file or a folder of diffusers, or a folder with many"
    parser.add_argument("files", nargs="+", type=path_of, metavar="PATH", help=told)
    parser.add_argument("--json", action="store_true", help="print everything, for programs")
    parser.add_argument(
        "--values", action="store_true", help="read all weights too, and refuse those that are not finite"
    )


def add_units(parser: argparse.ArgumentParser) -> None:
    """Add the options of `units`."""
    parser.epilog = UNITS
    parser.add_argument("--options", action="store_true", help="show the options of families of models, too")
