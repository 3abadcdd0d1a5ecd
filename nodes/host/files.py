"""The files of control models in the host's folders."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...core.errors import HostError
from ...models.kinds.fileless import FILELESS

ADAPTERS = "ipadapter"  # which ComfyUI_IPAdapter_plus adds as well, and the host itself does not know
FOLDERS = ("controlnet", "t2i_adapter", ADAPTERS)  # of the host; the second only where a user added it
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".sft")  # a folder that was added lists files of any kind


def files() -> list[str]:
    """Return the names that a user can choose from: files, also of extra model paths, and what has no file."""
    folder_paths.add_model_folder_path(ADAPTERS, str(Path(folder_paths.models_dir) / ADAPTERS))
    known = [folder for folder in FOLDERS if folder in folder_paths.folder_names_and_paths]
    found = {name for folder in known for name in folder_paths.get_filename_list(folder)}
    return [*sorted(name for name in found if name.lower().endswith(SUFFIXES)), *FILELESS]


def path_of(name: str) -> Path:
    """Return where a chosen file lies."""
    for folder in FOLDERS:
        if folder in folder_paths.folder_names_and_paths:
            found = folder_paths.get_full_path(folder, name)
            if found is not None:
                return Path(found)
    raise HostError(f"'{name}' is in none of the folders {', '.join(FOLDERS)}: refresh the list and choose a file")
