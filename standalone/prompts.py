"""The prompt kinds of the ControlNet paper (section 4.1): none, default, automatic, user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import HostError
from ..pipelines.quiet import quiet
from ..pipelines.request import DEFAULT_PROMPT

Image = NDArray[np.uint8]
LONGEST = 40  # tokens of a caption


def make_prompt(
    kind: str | None, prompt: str | None, added: str = "", captioner: Path | None = None, image: Image | None = None
) -> str:
    """Return the prompt to use. Without a kind: the user's words if there are any, else none."""
    chosen = kind or ("user" if prompt is not None else "none")
    if chosen == "user" and prompt is None:
        raise HostError("the prompt kind is 'user', but there is no prompt: add --prompt")
    if chosen != "user" and prompt is not None:
        raise HostError(f"the prompt kind is '{chosen}', but a prompt is given: use the kind 'user', or leave one out")
    words = (
        _caption(captioner, image) if chosen == "automatic" else {"default": DEFAULT_PROMPT}.get(chosen, prompt or "")
    )
    return ", ".join(part for part in (words, added) if part)


def _caption(folder: Path | None, image: Image | None) -> str:
    """Return what a captioning model says about a picture [H, W, 3]."""
    if folder is None or not folder.is_dir():
        raise HostError("an automatic prompt needs a captioning model: give its folder, such as BLIP's, as --captioner")
    if image is None:
        raise HostError("an automatic prompt describes a picture: give one as --image, or a unit with one")
    from PIL import Image as Pillow
    from transformers import AutoModelForImageTextToText, AutoProcessor

    try:
        with quiet():
            processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
            model: Any = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise HostError(f"'{folder}' cannot be loaded as a captioning model: {error}") from error
    inputs = processor(images=Pillow.fromarray(image), return_tensors="pt")
    return processor.decode(model.generate(**inputs, max_new_tokens=LONGEST)[0], skip_special_tokens=True).strip()
