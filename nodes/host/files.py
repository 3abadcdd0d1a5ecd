"""The files of control models in the host's folders."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...core.errors import HostError

FOLDERS = ("controlnet", "t2i_adapter")  # of the host; the second only where a user added it


def files() -> list[str]:
    """Return the names that a user can choose from; extra model paths are among them."""
    known = [folder for folder in FOLDERS if folder in folder_paths.folder_names_and_paths]
    return sorted({name for folder in known for name in folder_paths.get_filename_list(folder)})


def path_of(name: str) -> Path:
    """Return where a chosen file lies."""
    for folder in FOLDERS:
        if folder in folder_paths.folder_names_and_paths:
            found = folder_paths.get_full_path(folder, name)
            if found is not None:
                return Path(found)
    raise HostError(f"'{name}' is in none of the folders {', '.join(FOLDERS)}: refresh the list and choose a file")
