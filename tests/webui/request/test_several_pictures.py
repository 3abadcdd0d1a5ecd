"""Several pictures of one unit, and what an encoder saw of them: the mean of their tokens, as sd-webui-controlnet."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from controlstack.core.control import ControlModel
from controlstack.core.embedding import Embedding, Encoder, Values
from controlstack.core.errors import HintError, UnitError
from controlstack.core.unit import ControlUnit
from controlstack.models.families.t2i_adapter import StyleAdapter
from controlstack.pipelines.tiny_world import CONTROLS, MEMBERS
from controlstack.preprocessors import find
from controlstack.scripts.webui.host.cache import ModelCache
from controlstack.scripts.webui.host.files import ModelFiles
from controlstack.scripts.webui.pictures.embeddings import read_embeddings
from controlstack.scripts.webui.request.arguments import SLOTS, units_of
from controlstack.scripts.webui.request.needs import Services
from controlstack.scripts.webui.request.passes import Passes
from controlstack.scripts.webui.request.preparing import prepare, write_text
from controlstack.scripts.webui.request.preprocessing import Preprocessing
from safetensors.torch import save_file
from stand_ins import Settings, WebUI, webui_request
from torch import Tensor

SIDE, CONTEXT, WIDTH = 64, 64, 8
PICTURES = [np.random.default_rng(seed).integers(0, 40 * seed + 60, (16, 24, 3), np.uint8) for seed in range(3)]
SEEN = [torch.from_numpy(find("colours")(picture[None])) for picture in PICTURES]  # [1, 1, 64] each


@pytest.fixture
def services() -> Services:
    host: Any = WebUI()
    host.unet.context_dim = CONTEXT
    program: Any = Settings()
    files = ModelFiles([CONTROLS, MEMBERS])
    return Services(host=host, program=program, files=files, models=ModelCache(2**30), preprocess=Preprocessing(None))


def saved(value: object) -> str:
    """What a client sends: base64 text of what torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return base64.b64encode(buffer.getvalue()).decode()


def acting(services: Services, **said: Any) -> tuple[list[ControlUnit], int]:
    """The units that act, and how many pictures are shown of them."""
    unit = {"enabled": True, "module": "colours", "model": "ip-adapter", **said}
    p = webui_request(SIDE, SIDE)
    units = write_text(services, p, units_of([unit, *[None] * (SLOTS - 1)], services.program.basis))
    prepared = [prepare(services, p, each, index) for index, each in enumerate(units)]
    passes = Passes(prepared, p, services.host, lambda: (True,))
    return list(passes.present.stack.units), len(passes.maps)


def images() -> list[dict[str, Any]]:
    return [{"image": picture, "mask": None} for picture in PICTURES]


@pytest.mark.parametrize("said", [{}, {"input_mode": "merge"}, {"module": "auto", "input_mode": "merge"}])
def test_an_adapter_sees_the_mean_of_all_pictures(services: Services, said: dict[str, Any]) -> None:
    (unit,), shown = acting(services, image=images(), weight=0.8, **said)
    assert unit.hint.equal(torch.cat(SEEN)) and unit.weight == 0.8 and shown == len(PICTURES)
    tokens, _ = unit.model.tokens(unit.hint)
    (alone,), _ = acting(services, image=images()[:1], weight=0.8)
    each = [alone.model.tokens(seen)[0] for seen in SEEN]
    assert len(tokens) == 1
    torch.testing.assert_close(tokens, sum(each[1:], each[0]) / len(each))  # its `ImageEmbed.average_of`
    assert not torch.allclose(tokens, each[0], atol=1e-3)


def test_a_unit_may_say_otherwise(services: Services) -> None:
    (unit,), _ = acting(services, image=images(), options={"pictures": "beside"})
    assert unit.model.options["pictures"] == "beside"


def test_a_controlnet_takes_them_as_so_many_units(services: Services) -> None:
    units, _ = acting(services, module="canny", model="canny", image=images(), input_mode="merge", weight=0.9)
    assert [unit.weight for unit in units] == [pytest.approx(0.3)] * len(PICTURES)
    with pytest.raises(UnitError, match="it has 3 pictures: give one, or set input_mode to merge"):
        acting(services, module="canny", model="canny", image=images())


@pytest.mark.parametrize("module", ["colours", "none", "auto"])
def test_what_an_encoder_saw_stands_in_place_of_pictures(services: Services, module: str) -> None:
    drawn, _ = acting(services, image=images())
    sent = [saved({"image_embeds": seen[0], "hidden_states": [seen, seen]}) for seen in SEEN]
    (unit,), shown = acting(services, module=module, ipadapter_input=sent)
    assert unit.hint.equal(drawn[0].hint) and unit.model.options == drawn[0].model.options and shown == 0
    (unit,), _ = acting(services, module=module, ipadapter_input=sent[1])
    assert unit.hint.equal(SEEN[1])


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ([], "expected base64 text"),
        (7, "ipadapter_input is int, expected base64 text"),
        ([None], r"ipadapter_input\[0\] is NoneType"),
        ("no base64!", r"ipadapter_input\[0\] cannot be read: send base64 text"),
        (saved({"image_embeds": Path("code")}), r"ipadapter_input\[0\] cannot be read"),  # more than tensors
        (saved(torch.ones(1, 64)), "expected 'image_embeds': send that"),
        (saved({"image_embeds": torch.ones(1, 32)}), "ipadapter_input is 32 wide, and 'ip-adapter' reads 64"),
        (saved({"image_embeds": torch.full((1, 64), torch.nan)}), "holds no finite numbers"),
    ],
)
def test_what_is_no_embedding_is_one_sentence(services: Services, sent: object, words: str) -> None:
    with pytest.raises((UnitError, HintError), match=words):
        acting(services, ipadapter_input=sent)


def test_a_controlnet_takes_no_embedding(services: Services) -> None:
    with pytest.raises(UnitError, match="'canny' reads a picture: leave it out"):
        acting(services, module="canny", model="canny", ipadapter_input=saved(torch.ones(1, 4)))


class Reads(ControlModel):
    """A model that reads these values."""

    name, network = "adapter", None

    def __init__(self, values: Values, width: int) -> None:
        self.embedding, self.hint_channels = Embedding(Encoder.CLIP_H, values), width


def no_grey() -> Tensor:
    raise AssertionError("nobody asked for a grey picture")


def test_hidden_states_have_those_of_grey_beside_them() -> None:
    states, grey = (torch.rand(1, 5, WIDTH) for _ in range(2))
    sent = saved({"hidden_states": [torch.rand(1, 5, WIDTH), states, torch.rand(1, 5, WIDTH)]})
    found = read_embeddings([sent, sent], Reads(Values.STATES, 2 * WIDTH), lambda: grey)
    assert found.equal(torch.cat([states, grey], dim=-1).expand(2, -1, -1))
    with pytest.raises(UnitError, match="has 5 tokens, expected 4"):
        read_embeddings(sent, Reads(Values.STATES, 2 * WIDTH), lambda: grey[:, 1:])


@pytest.mark.parametrize("values", [Values.FACE, Values.RAW_FACE])
@pytest.mark.parametrize("shape", [(WIDTH,), (1, WIDTH), (1, 1, WIDTH)])
def test_a_face_is_one_tensor(values: Values, shape: tuple[int, ...]) -> None:
    face = torch.rand(shape)
    assert read_embeddings(saved(face), Reads(values, WIDTH), no_grey).equal(face.reshape(1, 1, WIDTH))


def test_a_face_with_clip_cannot_be_sent() -> None:
    with pytest.raises(UnitError, match="which ipadapter_input cannot bring: send the picture as image"):
        read_embeddings(saved(torch.rand(1, WIDTH)), Reads(Values.FACE_STATES, WIDTH), no_grey)


def test_what_takes_one_picture_says_so(services: Services, tmp_path: Path) -> None:
    """A style adapter reads an embedding, and knows no several pictures."""
    style = StyleAdapter(WIDTH, CONTEXT, count=2, layers=1)
    state = {name.replace(".attn.in_proj.", ".attn.in_proj_"): each for name, each in style.state_dict().items()}
    save_file(state, tmp_path / "style.safetensors")
    services.files = ModelFiles([tmp_path])
    with pytest.raises(UnitError, match="it has 3 pictures: give one, or set input_mode to merge"):
        acting(services, module="clip_vision", model="style", image=images())
