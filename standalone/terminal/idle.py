"""Options that would change nothing: each is refused by a sentence, for whoever says one expects something of it.

An option counts as said where its value is not the default. A settings file holds such options alone, so what a run
has written of itself is never refused.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ...core.errors import HostError, PreprocessorError
from ...units.unread import unread_by

if TYPE_CHECKING:
    from ...preprocessors import Preprocessor

# An option of `generate`, what it is for, whether that is there, and how it comes to be there.
Rule = tuple[str, str, Callable[[argparse.Namespace], bool], str]

RULES: Sequence[Rule] = (
    ("strength", "a picture to start from", lambda args: args.image is not None, "add --image"),
    ("captioner", "automatic prompts", lambda args: args.prompt_kind == "automatic", "add --prompt-kind automatic"),
    ("hires_steps", "a hires pass", lambda args: args.hires != 1, "add --hires, such as 1.5"),
    ("hires_strength", "a hires pass", lambda args: args.hires != 1, "add --hires, such as 1.5"),
)


def check_generate(args: argparse.Namespace, *, many: bool) -> None:
    """Raise HostError for the first option that would change nothing. many: whether pictures are of a folder."""
    for name, what, there, how in RULES:
        value = getattr(args, name)
        if value != args.parser.get_default(name) and not there(args):
            raise HostError(f"{_option(name)} {value} is for {what}, and none is asked for: {how}, or leave it out")
    if args.resume and not many:
        raise HostError(
            "--resume skips what was drawn before of a folder, a pattern or a video, and none is given: give one as an "
            "image, or leave --resume out"
        )


def check_used(args: argparse.Namespace, preprocessor: Preprocessor) -> None:
    """Raise PreprocessorError for an option of `preprocess` that its preprocessor does not read."""
    seed = "" if args.seed == args.parser.get_default("seed") else f"--seed {args.seed}"
    resolution = "" if args.resolution is None else f"--resolution {args.resolution}"
    for sentence in unread_by(preprocessor, seed=seed, resolution=resolution):
        raise PreprocessorError(sentence)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
