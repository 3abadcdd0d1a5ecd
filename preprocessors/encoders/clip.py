"""What CLIP's vision transformers see in a picture, through transformers: for style adapters and IP-Adapters.

Radford et al., "Learning transferable visual models from natural language supervision", ICML 2021; ViT-H and ViT-bigG
are LAION's. A file holds the network's sizes, so no configuration is needed beside it, and the files of ComfyUI's
folder `clip_vision` and of the WebUIs do as well as those of the hub.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch and transformers declare some functions incompletely; what they return is declared here instead.

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.embedding import Embedding, Encoder, Values
from ...core.errors import DamagedModelError, PreprocessorError
from ..declaration import Output, Parameter
from ..networks.loading import fill, read_state
from ..networks.network import Network, WeightFile
from ..networks.pretrained import normalised
from ..networks.weights import HUB
from ..perform import Preprocessor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from ..resize import Image

    Seen = NDArray[np.float32]
    Look = Callable[[Tensor, Any], Tensor]  # normalised pixels [B, 3, side, side] and a network -> [B, T, D]
else:
    from ..lazy import np

SCALE = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # mean and deviation of its training
HEADS = 16  # of all three networks; no shape tells
PARTS = ("vision_model.", "visual_projection.")  # of a file that may hold the encoder of text too
PLACES = "vision_model.embeddings.position_ids"  # a table of 0, 1, 2 ... in files of old versions
SINCE = "transformers>=4.30"
TYPES = ("IP-Adapter",)


def load(path: Path, *, activation: str) -> nn.Module:
    """Return the vision transformer of a file, float32, whose sizes are read from the shapes.

    activation: of its layers, which no shape tells. DamagedModelError for a file that holds none.
    """
    import torch

    state = {name: each for name, each in read_state(path).items() if name.startswith(PARTS) and name != PLACES}
    library = importlib.import_module("transformers")
    config = library.CLIPVisionConfig(**sizes_of(state, path), num_attention_heads=HEADS, hidden_act=activation)
    with torch.device("meta"):
        network = library.CLIPVisionModelWithProjection(config)
    table = network.vision_model.embeddings
    places = torch.arange(len(table.position_embedding.weight)).expand(1, -1)
    kept = PLACES in network.state_dict()  # of transformers up to 4.30
    table.register_buffer("position_ids", places, persistent=kept)
    return fill(network, {**state, PLACES: places} if kept else state, path)


def see(images: Image, network: Any, *, look: Look, **_settings: float) -> Seen:
    """Return what a network sees in each picture [B, H, W, 3], float32 [B, T, D]. Settings are for the control."""
    import torch

    squares = np.stack([square(image, int(network.config.image_size)) for image in images])
    with torch.inference_mode():
        return look(normalised(squares, network, SCALE), network).float().cpu().numpy()


def square(image: Image, side: int) -> Image:
    """Return the middle of a picture as CLIP was trained to see it: the short side scaled to `side`, the rest cut."""
    from PIL import Image as Pillow

    height, width = image.shape[:2]
    short = min(height, width)
    size = (int(side * width / short), int(side * height / short))
    scaled = np.asarray(Pillow.fromarray(np.ascontiguousarray(image)).resize(size, Pillow.Resampling.BICUBIC))
    left, top = ((long - side) // 2 for long in size)
    return scaled[top : top + side, left : left + side]


def last_states(pixels: Tensor, network: Any) -> Tensor:
    """Return the last hidden states [B, T, D], before the layer normalisation behind them."""
    return network.vision_model(pixels).last_hidden_state


def image_embedding(pixels: Tensor, network: Any) -> Tensor:
    """Return the projected image embedding as one token [B, 1, D]."""
    return network(pixels).image_embeds[:, None]


def penultimate_states(pixels: Tensor, network: Any) -> Tensor:
    """Return the last hidden states but one, with those of a grey picture beside them, [B, T, 2 D].

    Grey is the mean of the training, all zeros once normalised: what IP-Adapter and diffusers show to the rows of the
    negative prompt.
    """
    import torch

    both = torch.cat([pixels, torch.zeros_like(pixels[:1])])
    states = network(both, output_hidden_states=True).hidden_states[-2]
    return torch.cat([states[:-1], states[-1:].expand(len(pixels), -1, -1)], dim=-1)


def sizes_of(state: Mapping[str, Tensor], path: Path) -> dict[str, int]:
    """Return the sizes of a vision transformer with these weights."""
    try:
        width, _, patch, _ = state["vision_model.embeddings.patch_embedding.weight"].shape
        places = len(state["vision_model.embeddings.position_embedding.weight"])
        inner = len(state["vision_model.encoder.layers.0.mlp.fc1.weight"])
        projected = len(state["visual_projection.weight"])
    except (KeyError, ValueError) as error:
        raise DamagedModelError(f"{path} holds no image encoder of CLIP, as transformers names it: get it") from error
    layers = {name.split(".")[3] for name in state if name.startswith("vision_model.encoder.layers.")}
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": len(layers),
        "projection_dim": projected,
        "patch_size": patch,
        "image_size": patch * round((places - 1) ** 0.5),  # one place is the picture's as a whole
    }


def _file(repository: str, path: str, megabytes: float, found_as: tuple[str, ...]) -> WeightFile:
    return WeightFile(
        name=f"{repository}/{path}",
        addresses=(f"{HUB}/{repository}/resolve/main/{path}",),
        licence="MIT",
        megabytes=megabytes,
        found_as=found_as,
    )


def _network(kind: str, file: WeightFile, activation: str) -> Network:
    return Network(id=kind, files=(file,), load=partial(load, activation=activation), packages=(SINCE,))


def _revision_entry(kind: str, title: str, doc: str) -> Preprocessor:
    """Return the name by which WebUIs know a control model without a file that reads what `clip_g` gives."""
    return _entry(
        kind, title, doc, CLIP_G, None, image_embedding,
        control_types=("Revision",),
        no_hint="Revision is a control model without a file: choose it as the model, with the preprocessor clip_g",
        parameters=(
            Parameter(name="noise_augmentation", label="Noise augmentation", default=0.0, minimum=0.0, maximum=1.0,
                      step=0.01, shapes_hint=False, doc="How much noise is mixed into what the encoder saw."),
        ),
    )  # fmt: skip


def _entry(
    kind: str, title: str, doc: str, network: Network, embedding: Embedding | None, look: Look, **more: Any
) -> Preprocessor:
    return Preprocessor(
        id=kind, title=title, doc=doc, run=partial(see, look=look), output=Output.EMBEDDING, embedding=embedding,
        networks=(network,), batchable=True, resizes=False, pad=1, **more,
    )  # fmt: skip


def _chosen_by_the_model(_images: Image) -> Image:
    raise PreprocessorError(
        "image_embedding: the control model of a unit says which encoder is meant, and there is none here: choose "
        "one, such as clip_vision"
    )


# Folders of other programs: ComfyUI's `clip_vision`, sd-webui-controlnet's `annotator/downloads`, Forge's alike.
CLIP_L = _network(
    "clip_l",
    _file("openai/clip-vit-large-patch14", "model.safetensors", 1710, (
        "clip_vision_vit_l.safetensors", "clip_vision_l.safetensors", "clip-vit-large-patch14.safetensors",
        "clip-vit-large-patch14.bin", "clip_vision/clip_vitl.pth", "clip_vitl.pth",
    )),
    "quick_gelu",
)  # fmt: skip
CLIP_H = _network(
    "clip_h",
    _file("h94/IP-Adapter", "models/image_encoder/model.safetensors", 2528, (
        "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors", "clip_vision_vit_h.safetensors", "clip_vision_h.safetensors",
        "clip_vision/clip_h.pth", "clip_h.pth",
    )),
    "gelu",
)  # fmt: skip
CLIP_G = _network(
    "clip_g",
    _file("h94/IP-Adapter", "sdxl_models/image_encoder/model.safetensors", 3690, (
        "CLIP-ViT-bigG-14-laion2B-39B-b160k.safetensors", "clip_vision_g.safetensors", "clip_vision/clip_g.pth",
        "clip_g.pth",
    )),
    "gelu",
)  # fmt: skip

BY_MODEL = Preprocessor(
    id="image_embedding",
    title="Image embedding",
    doc="What the encoder that the control model was trained with sees in the picture; the model says which one.",
    run=_chosen_by_the_model,
    output=Output.EMBEDDING,
    by_model=True,
    aliases=("ip-adapter-auto",),
    control_types=TYPES,
    batchable=True,
    resizes=False,
)
CLIP_VISION = _entry(
    "clip_vision",
    "CLIP ViT-L: what it sees",
    "What CLIP ViT-L/14 sees, for style adapters: one token for each place of the picture and one for the whole.",
    CLIP_L,
    Embedding(Encoder.CLIP_L, Values.LAST_STATES),
    last_states,
    aliases=("t2ia_style_clipvision", "clip_l"),
    control_types=("T2I-Adapter",),
)
CLIP_L_IMAGE = _entry(
    "clip_l_image",
    "CLIP ViT-L: image embedding",
    "What CLIP ViT-L/14 sees, as one token, for the content of a Uni-ControlNet.",
    CLIP_L,
    Embedding(Encoder.CLIP_L, Values.IMAGE),
    image_embedding,
    control_types=TYPES,
)
CLIP_H_IMAGE = _entry(
    "clip_h",
    "CLIP ViT-H: image embedding",
    "What CLIP ViT-H/14 sees, as one token, for plain IP-Adapters. A unit whose model reads the encoder's hidden "
    "states gets those.",
    CLIP_H,
    Embedding(Encoder.CLIP_H, Values.IMAGE),
    image_embedding,
    aliases=("ip-adapter_clip_sd15", "ip-adapter_clip_h", "ip-adapter_clip_sdxl_plus_vith"),
    control_types=TYPES,
)
CLIP_H_STATES = _entry(
    "clip_h_states",
    "CLIP ViT-H: hidden states",
    "What CLIP ViT-H/14 sees, for IP-Adapters of the kinds plus and full-face: one token for each place of the picture "
    "and one for the whole, with those of a grey picture for the negative prompt.",
    CLIP_H,
    Embedding(Encoder.CLIP_H, Values.STATES),
    penultimate_states,
    control_types=TYPES,
)
CLIP_G_IMAGE = _entry(
    "clip_g",
    "CLIP ViT-bigG: image embedding",
    "What CLIP ViT-bigG/14 sees, as one token, for the IP-Adapters that were trained with it.",
    CLIP_G,
    Embedding(Encoder.CLIP_G, Values.IMAGE),
    image_embedding,
    aliases=("ip-adapter_clip_sdxl", "ip-adapter_clip_g"),
    control_types=TYPES,
)
REVISION = _revision_entry(
    "revision_clipvision",
    "Revision",
    "What CLIP ViT-bigG/14 sees, in place of what SDXL reads of the prompt as a whole. No control model is needed.",
)
REVISION_IGNORE_PROMPT = _revision_entry(
    "revision_ignore_prompt",
    "Revision without the prompt",
    "What CLIP ViT-bigG/14 sees, for SDXL, whose prompt then says nothing. No control model is needed.",
)
