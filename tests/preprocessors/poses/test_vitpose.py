"""ViTPose and RT-DETR, tiny and with random weights, against the library's own processors."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from controlstack.preprocessors import Preprocessor, find
from controlstack.preprocessors.networks.pool import PlainManager, Pool
from controlstack.preprocessors.networks.store import Store
from controlstack.preprocessors.perform import Runtime
from controlstack.preprocessors.poses import vitpose
from controlstack.preprocessors.poses.drawing import draw
from controlstack.preprocessors.poses.dwpose import enlarged
from controlstack.preprocessors.poses.vitpose import find_boxes, read_points
from skimage import data
from torch import nn

transformers = pytest.importorskip("transformers")
library = pytest.importorskip(
    "transformers.models.vitpose.image_processing_pil_vitpose", reason="needs transformers 5, whose processor is plain"
)
pytest.importorskip("scipy")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
BOXES = [[20.0, 30.0, 60.0, 100.0], [70.0, 10.0, 110.0, 60.0]]  # left, top, width, height
PHOTO = np.ascontiguousarray(data.astronaut()[100:260, 100:300])


def randomise(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.dim() > 1:
            tensor.normal_(0, (2 / max(1, tensor[0].numel())) ** 0.5)
        elif tensor.is_floating_point():
            tensor.uniform_(-0.1, 0.1).add_(1.0 if name.endswith(("weight", "running_var")) else 0.0)
    return network.eval()


def pose() -> nn.Module:
    backbone = transformers.VitPoseBackboneConfig(
        image_size=[64, 48], hidden_size=16, num_hidden_layers=2, num_attention_heads=2, patch_size=[16, 16],
        out_indices=[2],
    )  # fmt: skip
    config = transformers.VitPoseConfig(backbone_config=backbone, num_labels=17)
    network = randomise(transformers.VitPoseForPoseEstimation(config))
    next(each for each in reversed(list(network.modules())) if isinstance(each, nn.Conv2d)).bias.data.fill_(0.7)
    return network


def detector() -> nn.Module:
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    return randomise(
        transformers.RTDetrForObjectDetection(
            transformers.RTDetrConfig(
                backbone_config=backbone, encoder_in_channels=[8, 16, 16], encoder_hidden_dim=16, encoder_ffn_dim=16,
                encoder_attention_heads=2, d_model=16, num_queries=6, decoder_in_channels=[16, 16, 16],
                decoder_ffn_dim=16, decoder_layers=2, decoder_attention_heads=2, num_labels=80,
            )
        )
    )  # fmt: skip


def prepared(folder: Path) -> tuple[Preprocessor, Runtime]:
    preprocessor = find("vitpose")
    for network, build in zip(preprocessor.networks, (detector, pose), strict=True):
        build().save_pretrained(folder / Path(network.files[0].name).parent)
    return preprocessor, Runtime(store=Store(folder), pool=Pool(PlainManager("cpu")))


@torch.no_grad()
def test_points_equal_the_librarys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    network = pose()
    processor = library.VitPoseImageProcessorPil(size={"height": 64, "width": 48})
    given = processor(PHOTO, boxes=[BOXES], return_tensors="pt")
    found = processor.post_process_pose_estimation(network(**given), boxes=[BOXES])[0]
    corners = [np.array([x, y, x + width, y + height]) for x, y, width, height in BOXES]
    monkeypatch.setattr(vitpose, "find_boxes", lambda *_: corners)
    monkeypatch.setattr(vitpose, "seen", lambda places, scores: (places, scores))
    monkeypatch.setattr(vitpose, "body_of", lambda points: points)
    (poses,) = vitpose.find_people(PHOTO[None], None, network)
    assert len(poses.people) == 2
    for person, expected in zip(poses.people, found, strict=True):
        places, scores = person.body
        # cv2 rounds the cut-out picture to whole levels, so a few maps peak elsewhere by fractions of a pixel
        off = np.abs(places - expected["keypoints"].numpy()).max(axis=1)
        assert np.median(off) < 0.5
        assert (off < 3).mean() > 0.7
        assert np.allclose(scores, expected["scores"].numpy(), atol=0.05)


def test_maps_are_read_as_the_library_reads_them() -> None:
    """The same maps, smooth and with one top each, give the same places."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :48]
    tops = rng.uniform(4, 44, (17, 2))
    heat = np.stack([np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8) for x, y in tops]).astype(np.float32)
    processor = library.VitPoseImageProcessorPil()
    outputs = SimpleNamespace(heatmaps=torch.from_numpy(heat)[None])
    (expected,) = processor.post_process_pose_estimation(outputs, boxes=[BOXES[:1]])[0]
    x, y, width, height = BOXES[0]
    box = enlarged(np.array([x, y, x + width, y + height]), (256, 192))
    places, scores = read_points(heat, box)
    assert np.allclose(places, expected["keypoints"].numpy(), atol=0.02)
    assert np.allclose(scores, expected["scores"].numpy())
    true = tops * np.array([box.width / 47, box.height / 63]) + np.array(
        [box.x - box.width / 2, box.y - box.height / 2]
    )
    assert np.abs(places - true).max() < 0.2


@torch.no_grad()
def test_people_are_where_the_detector_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitpose, "LOOK", 64)
    network = detector()
    pixels = torch.from_numpy(PHOTO).permute(2, 0, 1)[None].float() / 255
    square = torch.nn.functional.interpolate(pixels, (64, 64), mode="bilinear", antialias=True)
    found = network(square)
    scores = found.logits[0, :, 0].sigmoid()
    least = float(scores.sort().values[2:4].mean())
    monkeypatch.setattr(vitpose, "FOUND", least)
    expected = []
    for score, (x, y, width, height) in zip(scores.tolist(), found.pred_boxes[0].tolist(), strict=True):
        if score > least:
            expected.append(
                [(x - width / 2) * 200, (y - height / 2) * 160, (x + width / 2) * 200, (y + height / 2) * 160]
            )
    assert 0 < len(expected) < 6
    assert np.allclose(find_boxes(PHOTO, network), expected, atol=0.01)


def test_bodies_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitpose, "LOOK", 64)
    monkeypatch.setattr(vitpose, "FOUND", 0.0)
    preprocessor, runtime = prepared(tmp_path)
    (poses,) = preprocessor.poses(PHOTO, runtime=runtime)
    assert len(poses.people) == 6
    assert all(len(person.body) == 18 and not person.face for person in poses.people)
    hint = preprocessor(PHOTO, runtime=runtime)
    assert np.array_equal(hint, draw(poses, hands=False, face=False))
    monkeypatch.setattr(vitpose, "FOUND", 1.0)
    runtime.cache.clear()
    assert not preprocessor(PHOTO, runtime=runtime).any()
