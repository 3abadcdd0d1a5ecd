"""SAM 2, tiny and with random weights, against the library's own call; and which answers are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from controlstack.preprocessors import find
from controlstack.preprocessors.boxes import best
from controlstack.preprocessors.networks.pool import PlainManager, Pool
from controlstack.preprocessors.networks.store import Store
from controlstack.preprocessors.perform import Runtime
from controlstack.preprocessors.regions import segment_anything
from controlstack.preprocessors.regions.segment_anything import kept
from skimage import data
from torch import nn
from torch.nn import functional

transformers = pytest.importorskip("transformers")
if not hasattr(transformers, "Sam2Model"):
    pytest.skip("needs transformers with SAM 2", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
SIDE = 64


def sam2() -> nn.Module:
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=8, num_attention_heads=1, image_size=[SIDE, SIDE], blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 24, 32], num_attention_heads_per_stage=[1, 1, 1, 1],
        window_size_per_stage=[8, 4, 2, 1], global_attention_blocks=[3],
        window_positional_embedding_background_size=[2, 2],
    )  # fmt: skip
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[32, 24, 16, 8], fpn_hidden_size=32,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
    )  # fmt: skip
    prompts = transformers.Sam2PromptEncoderConfig(hidden_size=32, image_size=SIDE, patch_size=16)
    decoder = transformers.Sam2MaskDecoderConfig(hidden_size=32, mlp_dim=32, num_hidden_layers=2, num_attention_heads=2,
                                                 iou_head_hidden_dim=16)  # fmt: skip
    network = transformers.Sam2Model(
        transformers.Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    )
    torch.manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.dim() > 1:
            tensor.normal_(0, (2 / max(1, tensor[0].numel())) ** 0.5)
        elif tensor.is_floating_point():
            tensor.uniform_(-0.1, 0.1).add_(1.0 if name.endswith("weight") else 0.0)
    return network.eval()


@torch.no_grad()
def test_regions_are_those_of_the_librarys_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trusted of a random network, so everything is, also what overlaps."""
    monkeypatch.setattr(segment_anything, "TRUSTED", -99.0)
    monkeypatch.setattr(segment_anything, "STABLE", -99.0)
    monkeypatch.setattr(segment_anything, "OVERLAP", 2.0)
    preprocessor, network = find("seg_sam2"), sam2()
    folder = tmp_path / Path(preprocessor.networks[0].files[0].name).parent
    network.save_pretrained(folder)
    image = np.ascontiguousarray(data.astronaut()[::8, ::8])
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = torch.from_numpy(((image / 255 - mean) / deviation).transpose(2, 0, 1)[None]).float()
    masks, scores = [], []
    for y in (16.0, 48.0):
        for x in (16.0, 48.0):
            found = network(pixels, input_points=torch.tensor([[[[x, y]]]]), input_labels=torch.ones(1, 1, 1).long())
            masks.append(found.pred_masks[0, 0])
            scores.append(found.iou_scores[0, 0])
    chosen = kept(torch.cat(masks), torch.cat(scores))
    large = functional.interpolate(chosen[:, None], (64, 64), mode="bilinear")[:, 0] > 0
    expected = np.zeros((64, 64, 3), np.uint8)
    random = np.random.default_rng(5)
    for mask in sorted(large.numpy(), key=lambda each: -each.sum()):
        expected[mask] = random.integers(0, 255, 3, np.uint8)
    runtime = Runtime(store=Store(tmp_path), pool=Pool(PlainManager("cpu")))
    hint = preprocessor(image, seed=5, points=2, runtime=runtime)
    assert len(large) > 1
    assert expected.any()
    assert (hint == expected).mean() > 0.99
    assert preprocessor(image[:40], seed=0, points=3, runtime=runtime).shape == (40, 64, 3)


def square(left: int, top: int, side: int, level: float = 9.0, halo: int = 0) -> torch.Tensor:
    """Logits of a square, with a faint border of so many pixels."""
    mask = torch.full((32, 32), -9.0)
    mask[top - halo : top + side + halo, left - halo : left + side + halo] = 0.5
    mask[top : top + side, left : left + side] = level
    return mask


def test_answers_are_trusted_stable_and_the_best_of_their_place() -> None:
    masks = torch.stack([
        square(4, 4, 10),  # good
        square(4, 4, 11),  # the same place, less sure
        square(18, 18, 8),  # good
        square(18, 4, 8),  # not trusted
        square(4, 20, 8, halo=2),  # its border depends on the threshold
        torch.full((32, 32), -9.0),  # empty
    ])  # fmt: skip
    scores = torch.tensor([0.95, 0.9, 0.85, 0.79, 0.99, 0.99])
    assert torch.equal(kept(masks, scores), masks[[0, 2]])
    assert kept(masks[3:], scores[3:]).shape == (0, 32, 32)


def test_best_boxes() -> None:
    corners = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [0, 0, 10, 4]], np.float64)
    assert best(corners, np.array([0.5, 0.9, 0.1, 0.3]), 0.7).tolist() == [1, 3, 2]
    assert best(corners, np.array([0.5, 0.9, 0.1, 0.3]), 0.3).tolist() == [1, 2]
    assert best(np.zeros((0, 4)), np.zeros(0), 0.7).tolist() == []
