"""Models from the hub: which files of a repository are wanted, with their sizes and digests, and their download.

Downloads are those of preprocessors' weights: resumed, locked between processes, right by size and digest or absent.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from ...core.errors import HostError
from ...core.files import replacing
from ...preprocessors.networks.download import download
from ...preprocessors.networks.store import HUB
from .catalogue import find_known
from .places import CONTENTS, MODEL_FOLDER, models_folder

TIMEOUT = 30.0  # seconds without an answer
LONGEST = 16 * 2**20  # bytes of a list of files
SAFETENSORS, PICKLES = ".safetensors", (".bin", ".pth", ".pt", ".ckpt")
TEXTS = (".json", ".txt", ".model")  # of a model folder, beside its weights
VARIANT = re.compile(r"\.(fp16|bf16|fp32|non_ema|ema)(?=[.-])")
DIGEST = re.compile(r"[0-9a-f]{64}")
Bar = Callable[[str], AbstractContextManager[Callable[[int, "int | None"], None]]]


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a repository."""

    name: str  # with slashes
    size: int | None
    sha256: str  # empty for small files, of which the hub tells none


def fetch_model(name: str, bar: Bar) -> Path:
    """Fetch a model of the catalogue or of the hub, unless it is here, and return its file or folder.

    bar: shows how a file of a name grows. HostError and PreprocessorError say what did not work.
    """
    known = find_known(name)
    repository = known.repository if known else name
    listed = list_files(repository)
    wanted = [known.file] if known else choose_files(each.name for each in listed)
    by_name = {each.name: each for each in listed}
    if missing := [each for each in wanted if each not in by_name]:
        raise HostError(f"{repository} has no {missing[0]} any more: look at {_endpoint()}{repository}")
    if not wanted:
        raise HostError(f"{repository} holds no model that can be read: look at {_endpoint()}{repository}")
    folder = models_folder() / repository
    for each in wanted:
        _fetch(repository, by_name[each], folder / each, bar)
    if known:
        return folder / known.file
    with replacing(folder / CONTENTS) as part:
        part.write_text(json.dumps(wanted), encoding="utf-8")
    return folder


def list_files(repository: str) -> list[HubFile]:
    """Return the files of a repository, as the hub lists them. HostError if it does not answer so."""
    address = f"{_endpoint()}api/models/{urllib.parse.quote(repository)}?blobs=true"
    request = urllib.request.Request(address, headers={"User-Agent": "controlstack"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            content = response.read(LONGEST)
        siblings = json.loads(content)["siblings"]
        return [_file(each) for each in siblings if _is_inside(each["rfilename"])]
    except urllib.error.HTTPError as error:
        error.close()
        why = "there is no such model, or it asks for a login" if error.code in (401, 403, 404) else error.reason
        raise HostError(f"{address} answers {error.code}: {why}; check the name {repository}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise HostError(f"{address} cannot be reached ({reason}): check the network, then do it again") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise HostError(f"{address} sends no list of files: check HF_ENDPOINT, then do it again") from error


def choose_files(names: Iterable[str]) -> list[str]:
    """Return the files of a repository that make one model: a diffusers folder, else a configuration with its weights.

    Of weights that are there in several forms one is taken: safetensors before others, the plain variant before fp16.
    """
    listed = sorted(names)
    index, config = MODEL_FOLDER
    if index in listed:
        parts = [each for each in listed if len(PurePosixPath(each).parts) == 2]
        texts = [each for each in parts if each.endswith(TEXTS)]
        folders = dict.fromkeys(str(PurePosixPath(each).parent) for each in texts)
        return [index, *texts, *(name for folder in folders for name in _weights(parts, folder))]
    top = [each for each in listed if "/" not in each]
    return [*(each for each in top if each == config), *_weights(top, ".")]


def _weights(names: Iterable[str], folder: str) -> list[str]:
    """Return the weights of one folder in their best form, all shards of it."""
    own = [each for each in names if str(PurePosixPath(each).parent) == folder and "flax" not in each]
    for suffixes in ((SAFETENSORS,), PICKLES):
        there = [each for each in own if each.endswith(suffixes)]
        plain = [each for each in there if VARIANT.search(each) is None]
        if there:
            first = plain or [each for each in there if VARIANT.search(each) and ".fp16" in each] or there
            stem = re.sub(r"-\d{5}-of-\d{5}", "", first[0])
            shards = [each for each in first if re.sub(r"-\d{5}-of-\d{5}", "", each) == stem]
            return [
                *shards,
                *(each for each in own if each.endswith(f"{suffixes[0]}.index.json") and not VARIANT.search(each)),
            ]
    return []


def _fetch(repository: str, file: HubFile, target: Path, bar: Bar) -> None:
    if target.is_file():
        return
    address = f"{_endpoint()}{urllib.parse.quote(repository)}/resolve/main/{urllib.parse.quote(file.name)}"
    with bar(file.name) as report:
        download([address], target, file.size, file.sha256, report)


def _file(said: Any) -> HubFile:
    kept = cast("dict[str, Any]", said.get("lfs") or {})
    digest = str(kept.get("sha256", ""))
    size = said.get("size")
    return HubFile(
        str(said["rfilename"]), size if isinstance(size, int) else None, digest if DIGEST.fullmatch(digest) else ""
    )


def _is_inside(name: object) -> bool:
    """Return whether a name stays in its repository, whatever the answer says."""
    path = PurePosixPath(str(name))
    return not path.is_absolute() and ".." not in path.parts and "\\" not in str(name) and ":" not in str(name)


def _endpoint() -> str:
    return f"{os.environ['HF_ENDPOINT'].rstrip('/')}/" if os.environ.get("HF_ENDPOINT") else HUB
