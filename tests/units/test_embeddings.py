"""What an image encoder sees reaches a style adapter from a picture, and is the same unit on every edge."""

from __future__ import annotations

import base64
import importlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from control_files import write_uni
from controlstack.core.control import ControlModel
from controlstack.core.errors import ControlError
from controlstack.core.network.points import PROMPT
from controlstack.core.unit import ControlUnit
from controlstack.models.families.t2i_adapter import StyleAdapter
from controlstack.models.registry import load_control_model
from controlstack.pipelines.tiny_world import CONTROLS
from controlstack.preprocessors import find
from controlstack.preprocessors.images import write_image
from controlstack.preprocessors.networks.pool import PlainManager
from controlstack.preprocessors.perform import default_runtime
from controlstack.scripts.webui.host.cache import ModelCache
from controlstack.scripts.webui.host.files import ModelFiles
from controlstack.scripts.webui.request.arguments import SLOTS, units_of
from controlstack.scripts.webui.request.needs import Services
from controlstack.scripts.webui.request.passes import Passes
from controlstack.scripts.webui.request.preparing import prepare, write_text
from controlstack.scripts.webui.request.preprocessing import Preprocessing
from controlstack.standalone.units import load_units, parse_unit
from controlstack.units.hint import CARD
from numpy.typing import NDArray
from PIL import Image as Pillow
from safetensors.torch import save_file
from stand_ins import Settings, WebUI, comfyui, webui_request

transformers = pytest.importorskip("transformers")

SIDE, WIDTH, TOKENS, CONTEXT = 64, 32, 17, 64


@dataclass(frozen=True, kw_only=True)
class Scene:
    folder: Path
    style: Path
    photograph: NDArray[np.uint8]
    model: ControlModel
    uni: ControlModel
    nodes: SimpleNamespace


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A tiny encoder where each edge looks for its weights, and a style adapter of its width."""
    folder = tmp_path_factory.mktemp("embeddings")
    generator = torch.Generator().manual_seed(0)
    config = transformers.CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=16, image_size=56,
        patch_size=14, projection_dim=CONTEXT,
    )  # fmt: skip
    encoder = transformers.CLIPVisionModelWithProjection(config)
    _save(encoder, folder / "preprocessors" / find("clip_vision").networks[0].files[0].name, generator)
    style = folder / "models" / "style.safetensors"
    _save(StyleAdapter(WIDTH, CONTEXT, count=4, layers=1), style, generator, ".attn.in_proj.", ".attn.in_proj_")
    write_uni(style.parent, widths=(32, 64, 64, 64))
    photograph = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    write_image(folder / "photograph.png", photograph)
    with pytest.MonkeyPatch.context() as patch, comfyui(folder / "preprocessors"):
        patch.setenv("CONTROLSTACK_MODELS", str(folder))
        default_runtime.cache_clear()
        annotators = importlib.import_module("controlstack.nodes.host.annotators")
        patch.setattr(annotators, "HostManager", lambda: PlainManager("cpu"))
        modules = {"unit": "node_unit", "preprocess": "hinting.node_preprocess"}
        parts = {name: importlib.import_module(f"controlstack.nodes.{each}") for name, each in modules.items()}
        yield Scene(
            folder=folder,
            style=style,
            photograph=photograph,
            model=load_control_model(style, dtype=torch.float32),
            uni=load_control_model(style.with_stem("uni"), dtype=torch.float32),
            nodes=SimpleNamespace(**parts),
        )
    default_runtime.cache_clear()


def _save(network: Any, path: Path, generator: torch.Generator, old: str = "", new: str = "") -> None:
    state = {
        name.replace(old, new) if old else name: torch.randn(each.shape, generator=generator) * 0.2
        for name, each in network.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)


def by_command_line(scene: Scene, preprocessor: str, model: Path | None = None, kind: str = "") -> ControlUnit:
    text = f"image={scene.folder / 'photograph.png'},model={model or scene.style},preprocessor={preprocessor}"
    text += f",types={kind}" if kind else ""
    (ready,) = load_units([parse_unit(f"{text},basis=webui")], (SIDE, SIDE), torch.float32)
    assert max(ready.hint.shape[:2]) >= CARD or model is not None  # the card that stands for it
    return ready.unit


def by_node(
    scene: Scene,
    preprocessor: str,
    file: Path | None = None,
    kind: str = "",
    embedding: Any = None,
    image: bool = True,
) -> ControlUnit:
    model = scene.model if file is None else scene.uni
    output = scene.nodes.unit.ControlUnit.execute(
        preprocessor={"preprocessor": preprocessor}, weight=1.0, start=0.0, end=1.0, basis="webui", mode="balanced",
        resize="crop and resize", resolution=0, enabled=True,
        control_net=SimpleNamespace(own=SimpleNamespace(model=model, says="")),
        image=_tensor(scene) if image else None, embedding=embedding,
        options=f"union_control_type={kind}" if kind else "",
    )  # fmt: skip
    (spec,) = output.values[0]
    hint = spec.hint if spec.hint.ndim == 3 else spec.hint.movedim(-1, 1)  # as the host hands pictures over
    return spec.unit(model, hint, spec.mask)


def by_client(scene: Scene, preprocessor: str, model: Path | None = None, kind: str = "") -> ControlUnit:
    services = Services(
        host=WebUI(),  # type: ignore[arg-type]
        program=Settings(),  # type: ignore[arg-type]
        files=ModelFiles([scene.style.parent, CONTROLS]),
        models=ModelCache(2**30),
        preprocess=Preprocessing(default_runtime()),
    )
    services.host.unet.context_dim = CONTEXT
    buffer = io.BytesIO()
    Pillow.fromarray(scene.photograph).save(buffer, "PNG")
    said: dict[str, Any] = {"module": preprocessor, "model": (model or scene.style).stem}
    said |= {"options": {"union_control_type": kind}} if kind else {}
    said["image"] = base64.b64encode(buffer.getvalue()).decode()
    p = webui_request(SIDE, SIDE)
    units = write_text(
        services, p, units_of([{"enabled": True, **said}, *[None] * (SLOTS - 1)], services.program.basis)
    )
    prepared = [prepare(services, p, unit, index) for index, unit in enumerate(units)]
    passes = Passes(prepared, p, services.host, lambda: (True,))
    ((shown, _),) = passes.maps
    assert shown.shape[2] == 3 and shown.any()
    (unit,) = passes.present.stack.units
    return unit


def _tensor(scene: Scene) -> torch.Tensor:
    return torch.tensor(scene.photograph).float()[None] / 255


EDGES: dict[str, Callable[..., ControlUnit]] = {
    "command line": by_command_line, "node": by_node, "client": by_client,
}  # fmt: skip


@pytest.mark.parametrize("preprocessor", ["clip_vision", "t2ia_style_clipvision", "auto", "image_embedding"])
def test_a_picture_becomes_one_embedding_on_every_edge(scene: Scene, preprocessor: str) -> None:
    known = preprocessor if preprocessor in ("auto", "image_embedding") else find(preprocessor).id  # of the node
    units = [make(scene, known if make is by_node else preprocessor) for make in EDGES.values()]
    first = units[0].hint
    assert first.shape == (1, TOKENS, WIDTH) and first.abs().max() > 0.1
    for unit in units[1:]:
        assert torch.equal(unit.hint, first)
    tokens = [unit.model.prepare(unit.hint)[0] for unit in units]
    assert all(torch.equal(each, tokens[0]) for each in tokens)
    assert not torch.equal(tokens[0], units[0].model.prepare(first * 2)[0])


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize(
    ("preprocessor", "kind"),
    [("clip_l_image", ""), ("clip_vision", ""), ("clip_vision", "content"), ("auto", "content"),
     ("image_embedding", "global")],
)  # fmt: skip
def test_the_content_of_a_picture_reaches_a_uni_controlnet(
    scene: Scene, edge: str, preprocessor: str, kind: str
) -> None:
    unit = EDGES[edge](scene, preprocessor, scene.style.with_stem("uni"), kind)
    wanted = find("clip_l_image")(scene.photograph, runtime=default_runtime())
    assert unit.hint.shape == (1, 1, CONTEXT) and np.abs(wanted).max() > 0.1
    assert torch.equal(unit.hint, torch.from_numpy(wanted).reshape(1, 1, CONTEXT))
    assert unit.model.options == {"union_control_type": "content"} and unit.model.points == (PROMPT,)


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize(("preprocessor", "kind"), [("canny", "canny"), ("none", "softedge"), ("canny", "scribble")])
def test_a_picture_reaches_a_uni_controlnet_as_what_it_shows(
    scene: Scene, edge: str, preprocessor: str, kind: str
) -> None:
    unit = EDGES[edge](scene, preprocessor, scene.style.with_stem("uni"), "" if kind == preprocessor else kind)
    assert unit.hint.shape[:2] == (1, 3)
    assert unit.model.options == {"union_control_type": kind}


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize(
    ("preprocessor", "kind", "words"),
    [
        ("none", "", "'uni' has to be told what its hint shows: set the option union_control_type to one of canny, "),
        ("lineart_standard", "", "'uni' has to be told what its hint shows"),
        ("none", "fog", "union_control_type is 'fog', expected one of auto, canny, mlsd, softedge, scribble, "),
        ("canny", "content", "'uni' reads image embedding of CLIP ViT-L/14, and the preprocessor canny gives a"),
        ("clip_l_image", "depth", "'uni' reads a picture, and the preprocessor clip_l_image gives what an"),
        ("none", "depth+content", "content is read by another part of it, so give it a unit of its own"),
    ],
)  # fmt: skip
def test_a_uni_controlnet_refuses_what_it_cannot_place(
    scene: Scene, edge: str, preprocessor: str, kind: str, words: str
) -> None:
    with pytest.raises(ControlError) as caught:
        EDGES[edge](scene, preprocessor, scene.style.with_stem("uni"), kind)
    assert words in str(caught.value)


def test_a_preprocess_node_hands_it_on(scene: Scene) -> None:
    shown, _, seen = scene.nodes.preprocess.Preprocess.execute(
        _tensor(scene), {"preprocessor": "clip_vision"}, 0
    ).values  # fmt: skip
    assert shown.ndim == 4 and 0 < shown.mean() < 1
    assert torch.equal(by_node(scene, "none", embedding=seen, image=False).hint, by_node(scene, "auto").hint)


def test_the_outputs_of_the_host_are_read_too(scene: Scene) -> None:
    states = torch.randn(1, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))
    seen = SimpleNamespace(last_hidden_state=states)
    assert torch.equal(by_node(scene, "none", embedding=seen, image=False).hint, states)


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize(
    ("preprocessor", "words"),
    [
        ("canny", "'style' reads last hidden states of CLIP ViT-L/14, and the preprocessor canny gives a picture: "
         "choose clip_vision, or auto"),
        ("clip_g", "'style' reads last hidden states of CLIP ViT-L/14, and the preprocessor clip_g gives image "
         "embedding of CLIP ViT-bigG/14"),
    ],
)  # fmt: skip
def test_another_encoder_is_refused_naming_both_sides(scene: Scene, edge: str, preprocessor: str, words: str) -> None:
    with pytest.raises(ControlError) as caught:
        EDGES[edge](scene, preprocessor)
    assert words in str(caught.value)


@pytest.mark.parametrize("edge", ["command line", "client"])
def test_a_model_that_reads_pictures_refuses_an_encoder(scene: Scene, edge: str) -> None:
    with pytest.raises(ControlError, match="'canny' reads a picture, and the preprocessor clip_vision gives what an"):
        EDGES[edge](scene, "clip_vision", CONTROLS / "canny.safetensors")
