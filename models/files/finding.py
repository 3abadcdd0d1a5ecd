"""Which files a path means: a model file itself, or those inside the folders that other programs write.

Folders come from diffusers (one file, a variant such as fp16, or several shards with an index), from the cache of the
Hugging Face hub (`models--owner--name/snapshots/...`), and from training (`checkpoint-500/controlnet`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

from ...core.errors import DamagedModelError, FileError, ModelError, UnsupportedModelError
from ...core.files import read_json
from ..guard import one_line, shown

PICKLES = (".pth", ".pt", ".ckpt", ".bin", ".patch")
SAFETENSORS = ".safetensors"
STEM = "diffusion_pytorch_model"  # of the files that diffusers writes
VARIANTS = ("", ".fp16", ".bf16", ".fp32", ".non_ema", ".ema")  # in the order of preference
INDEX = ".index.json"  # beside shards: which file holds which weight
CONTROL_FOLDER = "controlnet"  # inside a training's checkpoint, or a pipeline
CONFIG = "config.json"
PIPELINE = "model_index.json"
MAX_SHARDS = 100
SMALL = 1 << 20  # bytes of a JSON file beside a model; the index of the largest model has 0.2 MB
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}(\.\w+)")


def find_weights(path: Path) -> tuple[Path, ...]:
    """Return the files that hold the weights of a model: one, or its shards.

    ModelError where there is none, with the reason: an empty file, a folder of something else.
    """
    if path.is_dir():
        return _in_folder(path)
    if not path.is_file():
        raise ModelError(f"there is no model file '{shown(path)}'")
    if path.stat().st_size == 0:
        raise DamagedModelError(f"'{shown(path)}' is empty: download it again")
    shard = _SHARD.fullmatch(path.name)
    index = path.with_name(f"{shard[1]}{shard[2]}{INDEX}") if shard else path
    return _shards(index) if shard and index.is_file() else (path,)


def find_config(path: Path, weights: Path) -> Path | None:
    """Return diffusers' configuration of the model at `path`, if it lies beside its weights."""
    ours = path.is_dir() or weights.name.startswith(STEM)  # elsewhere it may belong to any model of the folder
    config = weights.with_name(CONFIG)
    return config if ours and config.is_file() else None


def read_table(path: Path, what: str) -> dict[str, Any]:
    """Return the object that a small JSON file holds; ModelError for anything else."""
    try:
        content = read_json(path, what, limit=SMALL)
    except FileError as error:
        raise ModelError(one_line(error)) from error
    if not isinstance(content, dict):
        raise ModelError(f"the {what} '{shown(path)}' holds no JSON object: correct or remove it")
    return cast("dict[str, Any]", content)


def _in_folder(path: Path) -> tuple[Path, ...]:
    """Return the weights in a folder: of the hub's cache, of diffusers, of a control inside, or the only file."""
    if (inside := of_cache(path)) != path:
        return _in_folder(inside)
    for suffix in (SAFETENSORS, ".bin"):
        for variant in VARIANTS:
            index = path / f"{STEM}{suffix}{INDEX}"
            if variant:
                index = path / f"{STEM}{suffix}.index{variant}.json"
            if index.is_file():
                return _shards(index)
            if (path / f"{STEM}{variant}{suffix}").is_file():
                return find_weights(path / f"{STEM}{variant}{suffix}")
    if (path / CONTROL_FOLDER).is_dir():
        return _in_folder(path / CONTROL_FOLDER)
    files = sorted(each for each in path.iterdir() if each.suffix.lower() == SAFETENSORS and each.is_file())
    if len(files) == 1 and not (path / PIPELINE).is_file():
        return find_weights(files[0])
    raise _no_model(path, len(files))


def of_cache(path: Path) -> Path:
    """Return the snapshot of a folder of the hub's cache, `models--owner--name`, and any other path as it is."""
    return _snapshot(path) if path.name.startswith("models--") and (path / "snapshots").is_dir() else path


def _snapshot(path: Path) -> Path:
    """Return the snapshot that the hub's cache uses, or the only one."""
    main = path / "refs" / "main"
    if main.is_file() and main.stat().st_size < SMALL:
        revision = main.read_text(encoding="utf-8", errors="replace").strip()
        if re.fullmatch(r"[0-9a-f]+", revision) and (path / "snapshots" / revision).is_dir():
            return path / "snapshots" / revision
    found = sorted(each for each in (path / "snapshots").iterdir() if each.is_dir())
    if len(found) != 1:
        raise ModelError(
            f"'{shown(path)}' holds {len(found)} snapshots and does not say which one is in use: "
            f"give a folder inside '{shown(path.name)}/snapshots'"
        )
    return found[0]


def _shards(index: Path) -> tuple[Path, ...]:
    """Return the files that an index names, each checked to be there and in the index's folder."""
    table = read_table(index, "index of a model's parts").get("weight_map")
    names = set(cast("dict[str, Any]", table).values()) if isinstance(table, dict) else set[Any]()
    if not names or len(names) > MAX_SHARDS or not all(isinstance(each, str) for each in names):
        raise DamagedModelError(f"'{shown(index)}' names no parts of a model: download it again")
    parts = [index.parent / name for name in sorted(names)]
    if any(part.parent != index.parent for part in parts):
        raise DamagedModelError(f"'{shown(index)}' names files outside of its folder: get the model again")
    missing = [part for part in parts if not part.is_file() or part.stat().st_size == 0]
    if missing:
        raise DamagedModelError(
            f"'{shown(index.parent)}' lacks '{shown(missing[0].name)}', one of {len(parts)} parts: download it again"
        )
    return tuple(parts)


def _no_model(path: Path, files: int) -> ModelError:
    """Return an error that says what a folder is instead."""
    if (path / PIPELINE).is_file():
        kind = shown(read_table(path / PIPELINE, "index of a base model").get("_class_name", "a pipeline"))
        return UnsupportedModelError(
            f"'{shown(path)}' is the folder of a base model ({kind}), and holds no control model: "
            "give it as the base model"
        )
    if (path / CONFIG).is_file():
        config = read_table(path / CONFIG, "configuration")
        named: Any = config.get("architectures") or [config.get("_class_name", config.get("model_type", "a model"))]
        kind = cast("list[Any]", named)[0] if isinstance(named, list) else named
        return UnsupportedModelError(
            f"'{shown(path)}' is a folder of {shown(kind)} without '{STEM}{SAFETENSORS}': "
            "give the folder of a control model"
        )
    if files:
        return ModelError(f"'{shown(path)}' is a folder with {files} models: give one of its files")
    inside = sorted(each.name for each in path.iterdir())
    holds = (
        f" (it holds {', '.join(shown(name) for name in inside[:3])}{' ...' if inside[3:] else ''})" if inside else ""
    )
    return ModelError(
        f"'{shown(path)}' is a folder without {STEM}{SAFETENSORS}{holds}: give a model file or a diffusers folder"
    )
