"""Files: small ones of other programs read whole and checked, and ours written complete or not at all.

Text and JSON that people and other programs wrote may be of any size, in any encoding and of any content: it is read as
UTF-8 (JSON's standard, RFC 8259, 8.1; a byte order mark, which editors on Windows put before it, is no part of the
text), or refused by a sentence. What we write lies beside its place first, under a short name, and is then moved there.
That name is short because a file system bounds the length of names (255 bytes as a rule), and a long name that fits
must not fail because of what is added to it. It names the computer and the process, so that what a killed process left
can be told from what a living one writes.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import platform
import re
import sys
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from .errors import FileError

LIMIT = 16 << 20  # bytes; the largest file of this kind that people have, a list of captions, has a few megabytes
PART = re.compile(r"\.([0-9a-f]{8})-(\d+)-[0-9a-f]{16}\.part(\..*)?")  # computer, process
WIDE = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # UTF-16 and UTF-32


def path_of(text: str) -> Path:
    """Return the path that a person names: `~` begins at a home folder. FileError for an empty name.

    An empty one would mean the folder where the command runs, which nobody means who leaves a name out.
    """
    if not text.strip():
        raise FileError("the name of a file or folder is empty: give one, such as ./photo.png")
    path = Path(text)
    try:
        return path if path.exists() else path.expanduser()
    except (RuntimeError, ValueError, OSError):  # nobody's home, or no name of a file: said by whoever opens it
        return path


def files_below(folder: Path) -> Generator[Path]:
    """Yield every file in a folder and in those below it, links followed; names with a dot before them are passed over.

    Each real folder is looked into once, so links in a circle end. A folder below that cannot be read is yielded
    itself; OSError if the first one cannot.
    """
    seen, waiting = {os.path.realpath(folder)}, [*_shown(folder)]
    while waiting:
        path = waiting.pop()
        if not os.path.isdir(path):  # noqa: PTH112 - says no where the system does not tell, `Path.is_dir` fails there
            yield path
            continue
        real = os.path.realpath(path)
        if real in seen:
            continue
        seen.add(real)
        try:
            waiting += _shown(path)
        except OSError:
            yield path


def _shown(folder: Path) -> list[Path]:
    """Return what lies in a folder, in falling order of names; programs hide their own files behind a dot."""
    return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), reverse=True)


def read_text(path: Path, what: str, *, limit: int = LIMIT) -> str:
    """Return the text of a UTF-8 file, without its byte order mark.

    what: what the file is, for messages, such as "pose file". limit: the most bytes that it may have.
    FileError if it is not there, cannot be read, is larger, or is in another encoding.
    """
    data = _read_bytes(path, what, limit)
    if data.startswith(WIDE) or b"\0" in data[:4]:
        raise FileError(f"the {what} {path} is in UTF-16 or UTF-32, expected UTF-8: save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FileError(
            f"the {what} {path} is not UTF-8 text (byte 0x{data[error.start]:02x} in line {line}; it may be Latin-1): "
            "save it as UTF-8"
        ) from error


def read_json(path: Path, what: str, *, limit: int = LIMIT) -> Any:
    """Return what a JSON file holds; errors as `read_text`, and FileError for what is no JSON."""
    return parse_json(read_text(path, what, limit=limit), f"the {what} {path}")


def parse_json(text: str, place: str) -> Any:
    """Return what JSON text holds; FileError names the `place`, such as "line 3 of the caption file x.jsonl"."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise FileError(f"{place} is nested too deeply: remove the brackets that hold nothing") from error
    except ValueError as error:  # json.JSONDecodeError, or a number with thousands of digits
        raise FileError(f"{place} is no JSON ({error}): correct it, or export it again") from error


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Return the table that a TOML file holds; errors as `read_text`, and FileError for what is no TOML."""
    tomllib: Any = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    text = read_text(path, what)
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise FileError(f"the {what} {path} is nested too deeply: remove the brackets that hold nothing") from error
    except ValueError as error:  # TOMLDecodeError, or a number with thousands of digits
        raise FileError(f"the {what} {path} is no TOML ({error}): correct it, or write it again") from error


def _read_bytes(path: Path, what: str, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError as error:
        raise FileError(f"there is no {what} {path}: check the path") from error
    except IsADirectoryError as error:
        raise FileError(f"the {what} {path} is a folder, expected a file") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise FileError(f"cannot read the {what} {path}: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > limit:
        raise FileError(f"the {what} {path} has more than {limit:,} bytes, so it is no {what}: check the path")
    return data


@contextmanager
def replacing(target: Path, suffix: str = "", *, new: bool = False) -> Generator[Path]:
    """Yield the path of a temporary file beside `target`, which takes its place when the context ends well.

    suffix: the end of the temporary name, for programs that tell a format by it. new: raise FileExistsError instead of
    replacing a file, also one that another process has written meanwhile. OSError if `target` cannot be written.
    """
    part = target.with_name(f".{_computer()}-{os.getpid()}-{uuid.uuid4().hex[:16]}.part{suffix}")
    try:
        yield part
        if new:
            _move_to_new(part, target)
        else:
            part.replace(target)
    finally:  # an error or an interrupt leaves nothing behind
        with suppress(OSError):  # of a folder that is gone or full: the error that led here says so already
            part.unlink(missing_ok=True)


def _move_to_new(part: Path, target: Path) -> None:
    """Give a file its name if nobody has it; a link says so in one step, which a look before a move does not."""
    try:
        os.link(part, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if target.exists():
            raise FileExistsError(f"{target} exists") from None
        part.replace(target)


def clear_leftovers(folder: Path) -> None:
    """Remove the temporary files in a folder whose processes were killed; those of other computers stay."""
    with suppress(OSError):  # a folder that is not there yet, or may not be changed: nothing of it is needed
        for path in folder.iterdir():
            found = PART.fullmatch(path.name)
            if found and found[1] == _computer() and not _lives(int(found[2])):
                path.unlink(missing_ok=True)


def _computer() -> str:
    return hashlib.blake2s(platform.node().encode(), digest_size=4).hexdigest()


def _lives(process: int) -> bool:
    """Return whether a process of this computer runs; True where the system does not tell."""
    if os.name != "posix":  # elsewhere the question would end the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's, or no number of a process
        return True
    return True
