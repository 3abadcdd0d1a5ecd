"""The prompt kinds of the ControlNet paper (section 4.1): none, default, automatic, user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import HostError
from ..pipelines.quiet import quiet
from ..pipelines.request import DEFAULT_PROMPT
from .hub.places import find_model, located

Image = NDArray[np.uint8]
LONGEST = 40  # tokens of a caption
CAPTIONER = "Salesforce/blip-image-captioning-base"  # what describes pictures where no other is named
HOW_TO_GET = f"run 'controlstack get {CAPTIONER}', or give the folder of another as --captioner"


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
        caption(captioner, image) if chosen == "automatic" else {"default": DEFAULT_PROMPT}.get(chosen, prompt or "")
    )
    return ", ".join(part for part in (words, added) if part)


def find_captioner(said: Path | None) -> Path | None:
    """Return the folder of a captioning model: the one that is named, else BLIP's where it is here, else None."""
    return find_model(CAPTIONER) if said is None else located(said, "captioning model")


def caption(said: Path | None, image: Image | None) -> str:
    """Return what a captioning model says about a picture [H, W, 3]. said: its folder or name, or None."""
    folder = find_captioner(said)
    if folder is None:
        raise HostError(f"an automatic prompt needs a captioning model: {HOW_TO_GET}")
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
