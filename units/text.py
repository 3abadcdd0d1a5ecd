"""One grammar for what people write about units: numbers, yes and no, curves, block weights, and tables of them.

Each `read_...` takes a value as a person, a client or a file gives it (text, or a value that is right already) with the
name of its field for messages, and raises UnitError or ScheduleError for anything else. What a `write_...` returns is
read back as the same value.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from reprlib import Repr
from typing import Any, cast

from ..core.errors import ScheduleError, UnitError
from ..core.reuse.said import OFF, Level, Reuse
from ..core.schedule import Easing, Keyframe
from ..core.wording import shortest
from .blocks import LARGEST, SHAPES, BlockWeights

Option = str | float | bool
YES, NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0", "")
MOST_KEYFRAMES = 1000  # of a curve
SHOWN = 60  # characters of a value in a message
SOFT = "soft:"  # before the base of block weights
CHANGE = "change:"  # before the change from which on a unit computes anew
SHALLOW = "s"  # behind a step of which the shallow blocks alone are computed
_KEYFRAME = re.compile(r"(?P<at>[^\s:]+)(?:\s*:\s*|\s+)(?P<weight>[^\s:]+)(?:\s+(?P<easing>[a-z-]+))?")


def shown(value: object) -> str:
    """Return a value as a message repeats it: printable, and short, whatever a client sent."""
    brief = Repr()
    brief.maxstring = brief.maxother = brief.maxlong = SHOWN
    brief.maxlevel = 2
    return brief.repr(value)


def quoted(value: str) -> str:
    """Return a value as it stands in a unit's text on the command line: what holds a comma in quotation marks."""
    if "," not in value:
        return value
    mark = next((each for each in ('"', "'") if each not in value), "")
    return f"{mark}{value}{mark}"


def read_number(name: str, value: object) -> float:
    """Return a finite number."""
    try:
        number = float(cast(Any, value))
    except (TypeError, ValueError, OverflowError):
        raise UnitError(f"{name} is {shown(value)}, expected a number") from None
    if not math.isfinite(number):
        raise UnitError(f"{name} is {number}, expected a finite number")
    return number


def read_whole(name: str, value: object) -> int:
    """Return a whole number; 512.0 is one."""
    number = read_number(name, value)
    if not number.is_integer():
        raise UnitError(f"{name} is {shortest(number)}, expected a whole number")
    return int(number)


def read_boolean(name: str, value: object) -> bool:
    """Return yes or no; numbers are yes where they are not 0."""
    if isinstance(value, str):
        word = value.strip().lower()
        if word not in YES + NO:
            raise UnitError(f"{name} is {shown(value)}, expected one of yes, true, on, 1, no, false, off, 0")
        return word in YES
    return bool(value)


def read_text(name: str, value: object) -> str:
    """Return text without blanks at its ends."""
    if not isinstance(value, str):
        raise UnitError(f"{name} is {shown(value)}, expected text")
    return value.strip()


def write_number(value: float) -> str:
    """Return the shortest text that is read as the same number."""
    return shortest(value)


def read_numbers(name: str, value: object) -> tuple[float, ...]:
    """Return numbers, in text with commas, semicolons or blanks between them."""
    if isinstance(value, str):
        value = [part for part in re.split(r"[\s,;]+", value) if part]
    if not isinstance(value, Sequence):
        raise UnitError(f"{name} is {shown(value)}, expected numbers")
    return tuple(read_number(name, each) for each in cast("Sequence[object]", value))


def read_curve(name: str, value: object) -> tuple[Keyframe, ...]:
    """Return keyframes: place 0 to 1, factor of the weight, and how it moves on to the next one.

    In text `0: 1; 0.5: 0.3 ease-in`, or a line each of `0.5 0.8 ease-out`, with comments behind #. Else pairs, objects
    with at, weight and easing, or keyframes.
    """
    parts: object = _keyframes(value) if isinstance(value, str) else value
    if not isinstance(parts, Sequence):
        raise UnitError(f"{name} is {shown(value)}, expected keyframes such as '0: 1; 0.5: 0.3 ease-in'")
    frames = cast("Sequence[Any]", parts)
    if len(frames) > MOST_KEYFRAMES:
        raise UnitError(f"{name} has {len(frames)} keyframes, expected at most {MOST_KEYFRAMES}")
    read = _keyframe if isinstance(value, str) else functools.partial(_frame, name)
    return tuple(_bounded(each if isinstance(each, Keyframe) else read(each)) for each in frames)


def write_curve(curve: Sequence[Keyframe]) -> str:
    """Return keyframes as text on one line."""
    return "; ".join(
        f"{write_number(frame.at)}: {write_number(frame.weight)}"
        + ("" if frame.easing is Easing.LINEAR else f" {frame.easing.value}")
        for frame in curve
    )


def read_block_weights(name: str, value: object) -> BlockWeights | None:
    """Return block weights: `1, 0.8, 0.5`, `soft:0.825`, or the name of a shape; None for an empty text or list."""
    if value is None or isinstance(value, BlockWeights):
        return value
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in SHAPES:
            return BlockWeights(shape=text.lower())
        if text.lower().startswith(SOFT):
            return BlockWeights(base=read_number(name, text[len(SOFT) :]))
    try:
        numbers = read_numbers(name, value)
    except UnitError:
        raise UnitError(
            f"{name} is {shown(value)}, expected numbers such as 1, 0.8, 0.5, or {SOFT}0.825, or one of "
            f"{', '.join(SHAPES)}"
        ) from None
    return BlockWeights(numbers=numbers) if numbers else None


def write_block_weights(weights: BlockWeights | None) -> str:
    """Return block weights as text; empty for none."""
    if weights is None:
        return ""
    if weights.base is not None:
        return f"{SOFT}{write_number(weights.base)}"
    return weights.shape or " ".join(map(write_number, weights.numbers or ()))


def read_reuse(name: str, value: object) -> Reuse:
    """Return which steps are computed: off, light, strong, `change:0.1`, or the steps themselves, as in `0 1s 2 5s 9`.

    s: the shallow blocks of this step alone.
    """
    if isinstance(value, Reuse):
        return value
    word: Any = value.strip().lower() if isinstance(value, str) else value
    levels = {each.value: each for each in Level}
    if word in ("", "off", "no", "false") or word is None or word is False:
        return OFF
    if isinstance(word, str) and word in levels:
        return Reuse(level=levels[word])
    if isinstance(word, str) and word.startswith(CHANGE):
        return Reuse(change=read_number(name, word[len(CHANGE) :]))
    parts = cast("Sequence[object]", word if isinstance(word, Sequence) and not isinstance(word, str) else [word])
    try:
        return _read_steps(name, re.split(r"[\s,;]+", " ".join(map(str, parts)).lower()))
    except UnitError:
        raise UnitError(
            f"{name} is {shown(value)}, expected off, {', '.join(levels)}, {CHANGE}0.1, or the steps that are computed "
            "(0 1 2 5 9; 0 1s 2 5s 9 computes the shallow blocks of steps 1 and 5 alone)"
        ) from None


def _read_steps(name: str, parts: Sequence[str]) -> Reuse:
    """Read steps, of which those with an s behind them compute the shallow blocks; named both ways, all blocks."""
    whole = {read_whole(name, part) for part in parts if part and not part.endswith(SHALLOW)}
    shallow = {read_whole(name, part[: -len(SHALLOW)]) for part in parts if part.endswith(SHALLOW)} - whole
    return Reuse(steps=tuple(sorted(whole | shallow)) or None, shallow=frozenset(shallow))


def write_reuse(reuse: Reuse) -> str:
    """Return which steps are computed as text."""
    if reuse.change is not None:
        return f"{CHANGE}{write_number(reuse.change)}"
    if reuse.steps is not None:
        return " ".join(f"{step}{SHALLOW}" if step in reuse.shallow else str(step) for step in reuse.steps)
    return "off" if reuse.level is None else reuse.level.value


def read_parameters(name: str, value: object) -> dict[str, float]:
    """Return the numbers of a preprocessor by name: a mapping, or text as `low=100; high=200`."""
    return {key: read_number(key, each) for key, each in _table(name, value).items()}


def write_parameters(parameters: Mapping[str, float]) -> str:
    """Return numbers by name as text."""
    return "; ".join(f"{key}={write_number(number)}" for key, number in parameters.items())


def read_options(name: str, value: object) -> dict[str, Option]:
    """Return a model's options by name: a mapping, or text as `union_control_type=Depth; share=0.5`."""
    given = _table(name, value)
    return {key: _read_option(key, each) if isinstance(value, str) else each for key, each in given.items()}


def write_options(options: Mapping[str, Option]) -> str:
    """Return options by name as text."""
    return "; ".join(f"{key}={_write_option(value)}" for key, value in options.items())


def _keyframes(text: str) -> list[str]:
    """Split a curve. Commas part keyframes with colons, as the WebUI's page writes them, and stand for blanks else."""
    parts: list[str] = []
    for line in re.split(r"[;\n]+", text):
        said = line.partition("#")[0].strip()
        pieces = said.split(",") if ":" in said else [said.replace(",", " ")]
        parts += [piece.strip() for piece in pieces if piece.strip()]
    return parts


def _keyframe(text: str) -> Keyframe:
    match, easings = _KEYFRAME.fullmatch(text), {each.value: each for each in Easing}
    wrong = ScheduleError(
        f"the curve has {shown(text)}, which is no keyframe: expected a place from 0 to 1, a weight, and one of "
        f"{', '.join(easings)} or nothing, such as '0.5: 0.8 ease-in'"
    )
    if match is None:
        raise wrong
    try:
        at, weight, easing = float(match["at"]), float(match["weight"]), easings[match["easing"] or "linear"]
    except (ValueError, KeyError):
        raise wrong from None
    return Keyframe(at=at, weight=weight, easing=easing)


def _bounded(frame: Keyframe) -> Keyframe:
    if not abs(frame.weight) <= LARGEST:  # nor NaN
        told = f"{shortest(frame.weight)}, expected {-LARGEST:g} to {LARGEST:g}"
        raise ScheduleError(f"the curve has the weight {told}")
    return frame


def _frame(name: str, value: Any) -> Keyframe:
    if isinstance(value, Mapping):
        frame = cast("Mapping[str, Any]", value)
        return _keyframe(f"{frame.get('at')}: {frame.get('weight')} {frame.get('easing', 'linear')}")
    parts = cast("Sequence[object]", value) if isinstance(value, Sequence) and not isinstance(value, str) else ()
    if len(parts) not in (2, 3):
        raise UnitError(f"{name} has {shown(cast(object, value))}, expected pairs of place and weight")
    return _keyframe(" ".join(map(str, parts)))


def _table(name: str, value: object) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {str(key): each for key, each in cast("Mapping[Any, object]", value).items()}
    if not isinstance(value, str):
        raise UnitError(f"{name} is {shown(value)}, expected names with values")
    pairs = [part.partition("=") for part in value.split(";") if part.strip()]
    if wrong := [key for key, equals, _ in pairs if not equals or not key.strip()]:
        raise UnitError(f"{name} has {shown(wrong[0].strip())}, expected name=value")
    table = {key.strip(): each.strip() for key, _, each in pairs}
    if len(table) < len(pairs):
        names = [key.strip() for key, _, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise UnitError(f"{name} has {shown(twice)} twice: leave one of them out")
    return table


def _read_option(name: str, text: str) -> Option:
    """Return JSON's numbers, true, false and quoted text as such, and any other text as it is."""
    words = _unescaped(text)
    try:
        value: object = json.loads(words, parse_constant=_refuse(name))
    except (ValueError, RecursionError):
        return words
    if isinstance(value, float) and not math.isfinite(value):  # such as 1e400
        raise UnitError(f"{name} is {shown(words)}, expected a finite number")
    return value if isinstance(value, (str, int, float, bool)) else words


def _write_option(value: Option) -> str:
    plain = value if isinstance(value, str) else json.dumps(value)
    text = plain if _read_option("", _escaped(plain)) == value and plain == plain.strip() else json.dumps(value)
    return _escaped(text)


def _refuse(name: str) -> Callable[[str], object]:
    def constant(word: str) -> object:
        raise UnitError(f"{name} is {word}, expected a finite number")

    return constant


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace(";", "%3B")


def _unescaped(text: str) -> str:
    return text.replace("%3B", ";").replace("%25", "%")
