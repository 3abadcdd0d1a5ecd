"""The command `study`: a page that shows pairs of pictures blindly, and what its answers say."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.files import path_of
from ...core.wording import print_line

if TYPE_CHECKING:
    from .reading import Answer

DOES = "show pairs of pictures to people, blindly, and read their answers; docs/evaluation.md"
QUALITY, FIDELITY = "Which picture looks better?", "Which picture follows the one above more closely?"
KEY = ".key.json"  # suffix of the key, which lies beside the page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    add = parser.add_argument
    add("methods", nargs="*", metavar="NAME=FOLDER", help="pictures of each method; the same name is the same thing")
    add(
        "--out",
        type=path_of,
        metavar="FILE",
        help="the page to write, such as study.html; its key is written beside it",
    )
    add("--hints", type=path_of, metavar="FOLDER", help="what the pictures were asked to follow, shown above them")
    add(
        "--question",
        action="append",
        default=[],
        metavar="WORDS",
        help=f"repeat; default: '{QUALITY}', with --hints also '{FIDELITY}'",
    )
    add("--limit", type=int, default=0, metavar="N", help="the first N pictures alone; default: all")
    add("--seed", type=int, default=0, help="of the pictures' numbers (default: %(default)s)")
    add("--read", type=path_of, nargs="+", metavar="ANSWERS", help="read files of answers instead; needs --key")
    add("--key", type=path_of, metavar="FILE", help="with --read: the key of the study")
    add("--json", type=path_of, metavar="FILE", help="with --read: write the numbers here too")
    parser.set_defaults(run=_study)


def _study(args: argparse.Namespace) -> int:
    return _read(args) if args.read else _make(args)


def _make(args: argparse.Namespace) -> int:
    from ...core.errors import HintError
    from ...preprocessors.images import check_folder, make_folder
    from ..results.files import write_text
    from .making import make_study

    if args.out is None:
        raise HintError("--out is missing: name the page to write, such as study.html")
    if args.out.suffix.lower() not in (".html", ".htm"):
        raise HintError(f"--out is '{args.out}', expected the name of an .html file")
    if args.limit < 0 or args.seed < 0:
        raise HintError(f"--limit is {args.limit} and --seed {args.seed}, expected 0 or more")
    if not all(each.strip() for each in args.question):
        raise HintError("--question is empty, expected words that people read")
    check_folder(args.out.parent)
    questions = args.question or [QUALITY, *([FIDELITY] if args.hints is not None else [])]
    page, key = make_study(methods_of(args.methods), args.hints, questions, args.limit, args.seed)
    make_folder(args.out.parent)
    told = json.dumps(key, indent=1)
    _check_key(args.out.with_suffix(KEY), told)
    write_text(args.out.with_suffix(KEY), told)  # first: a page without its key is worth nothing
    write_text(args.out, page)
    print_line(
        f"wrote {args.out}: {len(key['trials'])} questions; give it to people, and keep {args.out.with_suffix(KEY)}"
    )
    return 0


def _check_key(path: Path, told: str) -> None:
    """Raise HintError where the key of another study lies: without it, what people answered there cannot be read."""
    from ...core.errors import HintError

    if path.exists() and (not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != told):
        raise HintError(f"'{path}' is the key of another study, whose answers need it: give another name as --out")


def methods_of(texts: Sequence[str]) -> dict[str, Path]:
    """Return `NAME=FOLDER` as a table. HintError for what is none, or a name twice."""
    from ...core.errors import HintError

    found: dict[str, Path] = {}
    for text in texts:
        name, mark, folder = text.partition("=")
        if not (name and mark and folder) or name in found:
            raise HintError(f"'{text}' is no NAME=FOLDER, or its name stands there twice: name each method once")
        found[name] = path_of(folder)
    return found


def _read(args: argparse.Namespace) -> int:
    from ...core.errors import HintError
    from ...preprocessors.images import check_folder
    from ..results.files import write_text
    from .reading import read_answers, read_key

    if args.key is None:
        raise HintError("--read needs --key: the file that was written beside the page of the study")
    if args.json is not None:
        check_folder(args.json.parent)
    key = read_key(args.key)
    answers = read_answers(args.read, key)
    if not answers:
        raise HintError("the files hold no answer yet")
    numbers = {question: _numbers(answers, question, key["methods"]) for question in key["questions"]}
    for question, found in numbers.items():
        print(f"\n{question}\n\n{report(found)}")
    if args.json is not None:
        write_text(args.json, json.dumps(numbers, indent=1))
    return 0


def _numbers(answers: Sequence[Answer], question: str, methods: Sequence[str]) -> dict[str, Any]:
    """Return what the answers to a question say, as plain tables."""
    from .reading import preferences, ranks

    own = [each for each in answers if each.question == question]
    return {
        "persons": len({each.person for each in own}),
        "answers": len(own),
        "ranks": {
            method: {"mean": rank.mean, "interval": rank.interval, "items": rank.count}
            for method, rank in ranks(own, methods).items()
        },
        "preferences": [
            {
                "one": each.one,
                "other": each.other,
                "share": each.share,
                "interval": each.interval,
                "wins": each.wins,
                "losses": each.losses,
                "same": each.same,
            }
            for each in preferences(own, methods)
        ],
    }


def report(found: Mapping[str, Any]) -> str:
    """Return the numbers of a question as lines for the terminal."""
    lines = [f"{found['answers']} answers of {found['persons']} persons"]
    best = len(found["ranks"])
    for method, rank in found["ranks"].items():
        low, high = rank["interval"]
        lines.append(f"average human rank of {method}: {rank['mean']:.2f} ({low:.2f} to {high:.2f}; {best} is best)")
    for each in found["preferences"]:
        low, high = each["interval"]
        said = "no difference seen" if each["share"] is None else f"{each['share']:.0%} ({low:.0%} to {high:.0%})"
        lines.append(
            f"{each['one']} preferred to {each['other']}: {said}; {each['wins']} to {each['losses']}, "
            f"{each['same']} saw no difference"
        )
    return "\n".join(lines)
