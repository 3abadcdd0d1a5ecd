"""`ipadapter_input`: what an image encoder saw, sent by a client instead of pictures, as sd-webui-controlnet takes it.

Each is base64 text of what `torch.save` has written: a tensor for faces, and for CLIP the table that its preprocessors
make, with `image_embeds` [1, D] and the list `hidden_states` of [1, T, D]. There it is read by a loader that runs what
it finds in it; here by one that reads tensors in plain tables and lists and refuses all else.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from ....core.control import ControlModel
from ....core.embedding import Values
from ....core.errors import HintError, ModelError, UnitError
from ....models.files.pickles import read_pickle
from ....units.encoded import bytes_of

NAME = "ipadapter_input"
IMAGE, STATES = "image_embeds", "hidden_states."
EXPECTED = "base64 text of what torch.save has written of a tensor, or of a plain table of tensors"


def read_embeddings(given: object, model: ControlModel, grey: Callable[[], Tensor]) -> Tensor:
    """Return what was sent as the hint of a model, [N, T, D]. UnitError for what it cannot read.

    grey: returns the hidden states of a grey picture [1, T, D], which the rows of the negative prompt are shown.
    """
    wanted = model.embedding
    if wanted is None:
        raise UnitError(f"{NAME} is what an image encoder saw, and '{model.name}' reads a picture: leave it out")
    if wanted.values in (Values.FACE_STATES, Values.LAST_STATES):
        raise UnitError(f"'{model.name}' reads {wanted}, which {NAME} cannot bring: send the picture as image")
    texts = _texts(given)
    found = [_read(text, f"{NAME}[{number}]") for number, text in enumerate(texts)]
    tokens = torch.cat([_tokens(state, wanted.values, f"{NAME}[{n}]") for n, state in enumerate(found)])
    width = model.hint_channels // 2 if wanted.values is Values.STATES else model.hint_channels
    if tokens.shape[-1] != width:
        raise UnitError(
            f"{NAME} is {tokens.shape[-1]} wide, and '{model.name}' reads {width} of {wanted}: send what that "
            "encoder sees"
        )
    if wanted.values is not Values.STATES:
        return tokens
    nothing = grey().to(tokens)
    if nothing.shape[1:] != tokens.shape[1:]:
        raise UnitError(f"{NAME} has {tokens.shape[1]} tokens, expected {nothing.shape[1]}: send what {wanted} are")
    return torch.cat([tokens, nothing.expand_as(tokens)], dim=-1)


def _texts(given: object) -> Sequence[str]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, Sequence) or not texts:
        raise UnitError(f"{NAME} is {type(given).__name__}, expected {EXPECTED}, or a list of such")
    return cast("Sequence[str]", texts)


def _read(text: object, name: str) -> Mapping[str, Tensor]:
    """Return the tensors of one text by their names; one alone has the name ""."""
    if not isinstance(text, str):
        raise UnitError(f"{name} is {type(text).__name__}, expected {EXPECTED}")
    try:
        content = bytes_of(text, name)
        return read_pickle(io.BytesIO(content), len(content), name, alone="")
    except (HintError, ModelError) as error:
        raise UnitError(f"{name} cannot be read: send {EXPECTED}") from error


def _tokens(state: Mapping[str, Tensor], values: Values, name: str) -> Tensor:
    """Return the values [1, T, D] that are meant."""
    if values in (Values.FACE, Values.RAW_FACE):
        found, rank = state.get(""), 2
    elif values is Values.IMAGE:
        found, rank = state.get(IMAGE), 2
    else:
        numbers = sorted(int(each[len(STATES) :]) for each in state if each.startswith(STATES))
        found, rank = (state[f"{STATES}{numbers[-2]}"] if len(numbers) > 1 else None), 3
    if found is None:
        what = {Values.IMAGE: f"'{IMAGE}'", Values.STATES: f"'{STATES[:-1]}'"}.get(values, "a tensor alone")
        raise UnitError(f"{name} holds {', '.join(map(repr, list(state)[:3]))}, expected {what}: send that")
    if not found.is_floating_point() or not bool(found.isfinite().all()):
        raise UnitError(f"{name} holds no finite numbers: send what the encoder saw")
    found = found.float()
    if rank == 2:
        return found.reshape(1, 1, -1) if found.numel() == found.shape[-1] else found.reshape(1, -1, found.shape[-1])
    return found.reshape(1, *found.shape[-2:])
