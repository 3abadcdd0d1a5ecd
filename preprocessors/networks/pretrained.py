"""Networks in the file layout of transformers: `config.json` says what is built, one file beside it holds the tensors.

The classes are the library's own, so a network is exactly what its authors published. Only tensors and numbers are
read: no code of a repository is ever executed, and nothing is looked up in the network.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# transformers declares its classes lazily, which pyright cannot follow.

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import DamagedModelError, MissingDependencyError
from .loading import read_settings, read_state, to_tensor
from .network import Network, WeightFile
from .weights import HUB

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..resize import Image

SHOWN = 3  # keys in a message
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation of its RGB in 0..1
HALVES = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def checkpoint(
    repository: str, licence: str, *, file: str = "model.safetensors", megabytes: float = 0
) -> tuple[WeightFile, WeightFile]:
    """Return the configuration and the tensors of a repository of the hub, in a folder of the repository's name."""

    def part(name: str, megabytes: float = 0) -> WeightFile:
        path = f"{repository}/{name}"
        address = f"{HUB}/{repository}/resolve/main/{name}"
        return WeightFile(name=path, addresses=(address,), licence=licence, megabytes=megabytes)

    return part("config.json"), part(file, megabytes)


def transformer(
    kind: str,
    name: str,
    files: Sequence[WeightFile],
    since: str,
    memory: int = 3000,
    packages: Sequence[str] = (),
    without: Sequence[str] = (),
) -> Network:
    """Return the declaration of a network of the class `name` of transformers, which has it `since` a version.

    `without` names switches of its configuration that turn off parts which nobody here asks.
    """
    load = partial(load_pretrained, name=name, without=tuple(without))
    needed = (f"transformers>={since}", *packages)
    return Network(id=kind, files=tuple(files), load=load, packages=needed, memory=memory)


def load_pretrained(config: Path, weights: Path, *, name: str, without: Sequence[str] = ()) -> nn.Module:
    """Return the network, float32, for inference; `without` are switches of its configuration that are turned off.

    DamagedModelError if the configuration is none, or if a tensor is missing or of another shape. Tensors that are
    left over are of training (text encoders, position tables) and change nothing, since none is missing.
    """
    try:
        kind = getattr(importlib.import_module("transformers"), name)
        network, found = _built(kind, config, weights, without)
    except (ImportError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise MissingDependencyError(f"the installed transformers cannot make {name} ({reason})") from error
    _check(found, network, weights)
    return network.float().eval().requires_grad_(False)


def normalised(images: Image, network: nn.Module, scale: tuple[Sequence[float], Sequence[float]] = IMAGENET) -> Tensor:
    """Return uint8 [B, H, W, 3] as float [B, 3, H, W] where the network is, by mean and deviation of its training."""
    pixels = to_tensor(images, network) / 255
    mean, deviation = (pixels.new_tensor(each)[:, None, None] for each in scale)
    return (pixels - mean) / deviation


def _built(kind: Any, config: Path, weights: Path, without: Sequence[str]) -> tuple[Any, Any]:
    """Return the network, and what of its tensors the file lacks."""
    said = read_settings(config)
    try:
        settings = kind.config_class.from_dict({**said, **dict.fromkeys(without, False)})
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedModelError(f"{config} is no configuration of {kind.__name__} ({error}): get it again") from error
    return kind.from_pretrained(
        None, config=settings, state_dict=read_state(weights), output_loading_info=True, ignore_mismatched_sizes=True
    )


def _check(found: Any, network: nn.Module, path: Path) -> None:
    """Raise DamagedModelError if the file lacks what the network computes with, or has it in another shape."""
    missing = [key for key in found["missing_keys"] if not _is_idle(key, network)]
    wrong = [*missing, *(str(each) for each in found["mismatched_keys"])]
    if wrong:
        shown = ", ".join(sorted(wrong)[:SHOWN])
        raise DamagedModelError(
            f"{path} does not fit its config.json: {shown} ({len(wrong)} in all) are missing or have another shape; "
            "get both files from one place"
        )


def _is_idle(key: str, network: nn.Module) -> bool:
    """Return whether the library says that a part may be missing: newer versions have layers that older files lack.

    A part says so of its own keys, and the library asks the outermost one alone.
    """
    for name, part in network.named_modules():
        patterns: Sequence[str] = getattr(part, "_keys_to_ignore_on_load_missing", None) or ()
        prefix = f"{name}." if name else ""
        if key.startswith(prefix) and any(re.match(each, key.removeprefix(prefix)) for each in patterns):
            return True
    return False
