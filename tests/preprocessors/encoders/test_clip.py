"""Image encoders: small ones with random weights against transformers' own call, and the ways of their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from controlstack.core.embedding import Embedding, Encoder, Values
from controlstack.core.errors import DamagedModelError, PreprocessorError
from controlstack.preprocessors import REGISTRY, Output, encoding, find
from controlstack.preprocessors.encoders.clip import sizes_of, square
from controlstack.preprocessors.networks.pool import PlainManager, Pool
from controlstack.preprocessors.networks.store import Store
from controlstack.preprocessors.perform import Runtime
from PIL import Image as Pillow
from safetensors.torch import save_file
from torch import nn

transformers = pytest.importorskip("transformers")

WIDTH, PROJECTED, SIDE, TOKENS = 32, 24, 56, 17


def encoder(networks: Any, activation: str) -> nn.Module:
    config = transformers.CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=3, num_attention_heads=16, image_size=SIDE,
        patch_size=14, projection_dim=PROJECTED, hidden_act=activation,
    )  # fmt: skip
    return networks.randomise(transformers.CLIPVisionModelWithProjection(config), 2.0)


def pixels(photo: np.ndarray) -> torch.Tensor:
    """As transformers' own processor prepares a picture."""
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    return processor(Pillow.fromarray(photo), return_tensors="pt").pixel_values


ENTRIES = {
    "clip_vision": "quick_gelu", "clip_l_image": "quick_gelu",
    "clip_h": "gelu", "clip_h_states": "gelu", "clip_g": "gelu",
    "revision_clipvision": "gelu", "revision_ignore_prompt": "gelu",
}  # fmt: skip


def expected(kind: str, network: nn.Module, given: torch.Tensor) -> torch.Tensor:
    def states(seen: torch.Tensor) -> torch.Tensor:
        return network(seen, output_hidden_states=True).hidden_states[-2]

    with torch.no_grad():
        if kind == "clip_vision":
            return network(given).last_hidden_state
        if kind == "clip_h_states":
            return torch.cat([states(given), states(torch.zeros_like(given))], dim=-1)
        return network(given).image_embeds[:, None]


@pytest.mark.parametrize("size", [(80, 60), (61, 190), (56, 56)])
@pytest.mark.parametrize("kind", ENTRIES)
def test_an_encoder_sees_what_transformers_sees(
    kind: str, size: tuple[int, int], networks: Any, tmp_path: Path
) -> None:
    network = encoder(networks, ENTRIES[kind])
    preprocessor = find(kind)
    path = tmp_path / preprocessor.networks[0].files[0].name
    path.parent.mkdir(parents=True)
    save_file(network.state_dict(), path)
    photo = networks.photo(*size)
    seen = preprocessor(photo, runtime=networks.runtime(tmp_path))
    wanted = expected(kind, network, pixels(photo))[0]
    assert seen.dtype == np.float32 and seen.shape == tuple(wanted.shape)
    assert np.abs(wanted.numpy()).max() > 0.1
    assert np.linalg.norm(seen - wanted.numpy()) <= 1e-5 * np.linalg.norm(wanted.numpy())


def test_activations_differ(networks: Any, tmp_path: Path) -> None:
    """Equality with the library would say nothing of the activation if it did not matter."""
    given = pixels(networks.photo(64, 64))
    quick, exact = (encoder(networks, each)(given).image_embeds for each in ("quick_gelu", "gelu"))
    assert not torch.allclose(quick, exact, rtol=1e-4)


@pytest.mark.parametrize(
    "place", ["others/clip_vision/clip_h.pth", "others/CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"]
)
def test_files_of_other_programs_are_found_and_read(place: str, networks: Any, tmp_path: Path) -> None:
    """Also those that hold the encoder of text, in half precision, and a table of places."""
    network = encoder(networks, "gelu").half()
    state = {**network.state_dict(), "text_model.embeddings.token_embedding.weight": torch.ones(4, 4)}
    state["vision_model.embeddings.position_ids"] = torch.arange(TOKENS)[None]
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    if path.suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    runtime = Runtime(store=Store(tmp_path / "own", [tmp_path / "others"]), pool=Pool(PlainManager("cpu")))
    photo = networks.photo(60, 60)
    wanted = expected("clip_h", network.float(), pixels(photo))[0].numpy()
    assert np.allclose(find("clip_h")(photo, runtime=runtime), wanted, atol=1e-5)


def test_a_batch_is_its_pictures_and_is_remembered(networks: Any, tmp_path: Path) -> None:
    preprocessor = networks.stored_in(find("clip_h_states"), encoder(networks, "gelu"), tmp_path)
    runtime = networks.runtime(tmp_path)
    photos = np.stack([networks.photo(64, 64), networks.photo(64, 64)[::-1]])
    both = preprocessor(photos, runtime=runtime)
    assert both.shape == (2, TOKENS, 2 * WIDTH)
    hits = runtime.cache.hits
    assert np.array_equal(preprocessor(photos[1], runtime=runtime), both[1])
    assert runtime.cache.hits == hits + 1
    assert not np.allclose(both[0, :, :WIDTH], both[1, :, :WIDTH], atol=1e-3)
    assert np.array_equal(both[0, :, WIDTH:], both[1, :, WIDTH:])  # of the grey picture


def test_a_file_of_another_kind_is_named(networks: Any, tmp_path: Path) -> None:
    path = tmp_path / find("clip_g").networks[0].files[0].name
    path.parent.mkdir(parents=True)
    save_file({"visual.conv1.weight": torch.ones(2, 2)}, path)
    with pytest.raises(DamagedModelError, match="holds no image encoder of CLIP"):
        find("clip_g")(networks.photo(64, 64), runtime=networks.runtime(tmp_path))


def test_the_middle_of_a_picture_is_seen() -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255
    assert (square(wide, 10)[:, 2:-2] == 255).all() and square(wide, 10).shape == (10, 10, 3)


def test_each_embedding_has_one_preprocessor() -> None:
    encoders = [each for each in REGISTRY if each.output is Output.EMBEDDING]
    for each in encoders:
        assert each.embedding is None or encoding(each.embedding) is each
    assert [each.id for each in encoders if each.by_model] == ["image_embedding"]
    with pytest.raises(PreprocessorError, match="no preprocessor gives the penultimate hidden states of CLIP ViT-big"):
        encoding(Embedding(Encoder.CLIP_G, Values.STATES))
    with pytest.raises(PreprocessorError, match="the control model of a unit says which encoder is meant"):
        find("ip-adapter-auto")(np.zeros((8, 8, 3), np.uint8))


FULL_SIZE = {  # hidden, inner, layers, projected, millions of parameters of the part that sees
    "ViT-L/14": (1024, 4096, 24, 768, 304.0),
    "ViT-H/14": (1280, 5120, 32, 1024, 632.1),
    "ViT-bigG/14": (1664, 8192, 48, 1280, 1844.9),
}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_the_sizes_of_published_encoders_are_read_from_their_shapes(name: str) -> None:
    hidden, inner, layers, projected, millions = FULL_SIZE[name]
    sizes = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "patch_size": 14,
             "projection_dim": projected, "image_size": 224}  # fmt: skip
    config = transformers.CLIPVisionConfig(**sizes, num_attention_heads=16)
    with torch.device("meta"):
        network = transformers.CLIPVisionModelWithProjection(config)
    assert sizes_of(network.state_dict(), Path(name)) == sizes
    count = sum(each.numel() for each in network.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.2)
