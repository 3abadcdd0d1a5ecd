"""What a model file contains is never trusted: one guard around the code that reads it, and safe names in messages.

A damaged file can make a network's construction fail in any place and way. `guard` turns each of them into one error of
one printable line, so that no caller has to know what a broken file may raise.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
import zlib
from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path

from ..core import wording
from ..core.errors import ControlError, DamagedModelError, ModelError

SHOWN = 100  # characters of a name in a message
LINE = 300  # characters of another library's message in one of ours
DIGITS = 6  # of a number in a name; no network has a million blocks

FAILURES = (  # what construction, renaming and reading raise for damaged files
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,  # RecursionError and NotImplementedError are kinds of it
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


@contextmanager
def guard(name: str) -> Generator[None]:
    """Turn whatever goes wrong inside into a DamagedModelError about the file `name`; errors of ours pass."""
    try:
        yield
    except ControlError:
        raise
    except OSError as error:
        raise DamagedModelError(f"'{shown(name)}' cannot be read ({one_line(error.strerror or error)})") from error
    except FAILURES as error:
        raise DamagedModelError(f"'{shown(name)}' is damaged ({_reason(error)}): get the file again") from error


@contextmanager
def naming(name: str) -> Generator[None]:
    """Let errors of ours about a model say which file it is; a network that is made of shapes does not know."""
    try:
        yield
    except ModelError as error:
        if Path(name).stem in str(error):
            raise
        raise type(error)(f"'{shown(name)}': {error}") from error


def check_numbers(names: Collection[str], file: str) -> None:
    """Raise DamagedModelError where a number in a name is larger than the count of names.

    Blocks are numbered from 0 and each has a name at least, and code that counts up to such a number must end.
    """
    for name in names:
        for part in name.split("."):
            if part.isascii() and part.isdigit() and (len(part) > DIGITS or int(part) > len(names)):
                raise DamagedModelError(
                    f"'{shown(file)}' has a weight '{shown(name)}', but only {len(names)} weights in all: "
                    "get the file again"
                )


def shown(name: object) -> str:
    """Return a name fit for a message: printable, on one line, of at most `SHOWN` characters."""
    return _cut(_printable(str(name), SHOWN), SHOWN)


def one_line(text: object) -> str:
    """Return the message of another library on one line: printable, of at most `LINE` characters."""
    return printable(text, LINE)


def printable(text: object, limit: int) -> str:
    """Return text on one line: printable, of at most so many characters."""
    return _cut(_printable(" ".join(str(text).split()), limit), limit)


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyError):
        return f"it lacks '{shown(error.args[0] if error.args else '')}'"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError):
        return "it announces more than fits into memory"
    return one_line(error) or type(error).__name__


def _printable(text: str, limit: int) -> str:
    return wording.printable(text[: 2 * limit])  # escaping takes time, and more than this is never shown


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
