"""Networks of preprocessors and poses in a real ComfyUI: its folders, its memory manager, its nodes."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from comfyui_host import Graph, Host, Link, RunError, output
from controlstack.preprocessors import REGISTRY, find
from controlstack.preprocessors.images import read_image
from controlstack.preprocessors.lines.manga import MangaLines
from controlstack.preprocessors.poses.drawing import draw
from controlstack.preprocessors.poses.points import from_json
from safetensors.torch import save_file

SIZE = 64
FRAME = {
    "people": [
        {
            "pose_keypoints_2d": [64, 20, 1, 64, 40, 1, 44, 42, 1, 36, 70, 1, 30, 96, 1, *([0, 0, 0] * 13)],
            "face_keypoints_2d": None,
            "hand_left_keypoints_2d": None,
            "hand_right_keypoints_2d": None,
        }
    ],
    "canvas_width": 128,
    "canvas_height": 160,
}


@pytest.fixture(scope="session")
def manga(comfyui: Host) -> MangaLines:
    """A network with random weights, whose file lies where a user would put it."""
    torch.manual_seed(0)
    network = MangaLines().eval()
    for tensor in network.state_dict().values():
        if tensor.dim() > 1:
            tensor.normal_(0, (1 / tensor[0].numel()) ** 0.5)
    last = network.conv15.model[2]
    assert isinstance(last, torch.nn.Conv2d)
    last.weight.data.mul_(0.02)
    last.bias.data.fill_(128)
    folder = comfyui.base / "models" / "controlnet_aux"
    folder.mkdir(exist_ok=True)
    save_file(network.state_dict(), folder / "erika.safetensors")
    return network


def pictures(host: Host, graph: Graph, images: Link) -> np.ndarray:
    """Run, and return the pictures as the host saved them."""
    saver = graph.add("SaveImage", images=images, filename_prefix="test")
    saved = host.run(graph)["outputs"][saver[0]]["images"]
    return np.stack([read_image(host.base / "output" / each["subfolder"] / each["filename"]) for each in saved])


def preprocess(graph: Graph, name: str, resolution: int = 0, count: int = 1, seed: int = 0) -> tuple[Link, Link]:
    image = graph.add("TestPicture", seed=seed, count=count, width=SIZE, height=SIZE)
    return image, graph.add("ControlStackPreprocess", image=image, preprocessor=name, resolution=resolution)


def expected(network: MangaLines, images: np.ndarray) -> np.ndarray:
    grey = np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images])
    with torch.inference_mode():
        lines = 255 - network(torch.from_numpy(grey)[:, None].float())[:, 0]
    return lines.clamp(0, 255).numpy()


def test_a_network_runs_from_the_hosts_folder(comfyui: Host, manga: MangaLines) -> None:
    """A batch, equal to the network itself; and again after the host was told to free its memory."""
    for seed in (0, 1):
        graph = Graph()
        image, hint = preprocess(graph, "lineart_anime_denoise", count=2, seed=seed)
        hints, given = pictures(comfyui, graph, hint), pictures(comfyui, graph, image)
        wanted = expected(manga, given)
        off = np.abs(hints[..., 0] - wanted)
        assert (off.max() < 10, off.mean() < 1.5) == (True, True)  # the host cuts levels off when it saves a picture
        assert wanted.std() > 5
        body = json.dumps({"unload_models": True, "free_memory": True}).encode()
        request = urllib.request.Request(f"{comfyui.address}/free", body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=60).close()


def test_nodes_of_an_old_graph_are_replaced(comfyui: Host) -> None:
    """A graph for comfyui_controlnet_aux runs with our node in the place of its own."""
    if not comfyui.knows("node_replacements") or "CannyEdgePreprocessor" not in comfyui.get("node_replacements"):
        pytest.skip("this ComfyUI replaces no nodes")

    def drawn(kind: str, **settings: Any) -> np.ndarray:
        graph = Graph()
        image = graph.add("TestPicture", seed=0, count=1, width=SIZE, height=SIZE)
        hint = graph.add(kind, image=image, resolution=64, **settings)
        graph.nodes[hint[0]]["_meta"] = {"title": kind}  # as the page sends it; the host wants it to replace a node
        return pictures(comfyui, graph, hint)

    old = drawn("CannyEdgePreprocessor", low_threshold=20, high_threshold=40)
    new = drawn("ControlStackPreprocess", preprocessor="canny", **{"preprocessor.low": 20, "preprocessor.high": 40})
    assert np.array_equal(old, new) and old.any()
    by_name = drawn("AIO_Preprocessor", preprocessor="CannyEdgePreprocessor")
    assert np.array_equal(by_name, drawn("ControlStackPreprocess", preprocessor="canny"))
    known = {each.id: {own.name for own in each.parameters} for each in REGISTRY}
    told = [each for given in comfyui.get("node_replacements").values() for each in given]
    ours = [each["input_mapping"] for each in told if each["new_node_id"] == "ControlStackPreprocess"]
    assert len(ours) > 20
    for mapping in ours:
        chosen = next(each["set_value"] for each in mapping if each["new_id"] == "preprocessor")
        own = {each["new_id"].partition(".")[2] for each in mapping if "." in each["new_id"]}
        assert own <= known[chosen]


def test_missing_weights_are_a_sentence(comfyui: Host) -> None:
    """Offline: the file, and the host's own folder."""
    graph = Graph()
    _, hint = preprocess(graph, "seg_anime_face")
    with pytest.raises(RunError) as error:
        pictures(comfyui, graph, hint)
    said = str(error.value)
    assert "torchvision" in said or ("UNet.pth" in said and str(Path("models") / "controlnet_aux") in said)


@pytest.mark.parametrize("resolution", [0, 256])
def test_poses_are_drawn_at_the_size_that_is_needed(comfyui: Host, resolution: int) -> None:
    graph = Graph()
    pose = graph.add("TestPose", frames=json.dumps([FRAME, FRAME]))
    parts = {"body": True, "hands": True, "face": True, "thick": False}
    hints = pictures(comfyui, graph, graph.add("ControlStackDrawPose", pose=pose, resolution=resolution, **parts))
    size = (256, 320) if resolution else (128, 160)
    wanted = draw(from_json(FRAME).scaled(*size))
    assert hints.shape == (2, size[1], size[0], 3)
    assert np.array_equal(hints[0], wanted)
    assert wanted.any()


def test_a_preprocessor_without_poses_gives_none(comfyui: Host) -> None:
    assert not find("invert").finds_poses
    graph = Graph()
    _, hint = preprocess(graph, "invert")
    parts = {"body": True, "hands": True, "face": True, "thick": False}
    drawn = graph.add("ControlStackDrawPose", pose=output(hint, 1), resolution=0, **parts)
    with pytest.raises(RunError, match="there is no pose to draw"):
        pictures(comfyui, graph, drawn)


def test_a_seed_is_a_choice(comfyui: Host) -> None:
    """Zero is a seed; the same seed gives the same hint, in another run and with another picture before it."""
    found = []
    for seed in (7, 0, 7, 0):
        graph = Graph()
        image = graph.add("TestPicture", seed=5, count=1, width=SIZE, height=SIZE)
        hint = graph.add(
            "ControlStackPreprocess", image=image, preprocessor="shuffle", resolution=0, **{"preprocessor.seed": seed}
        )
        found.append(pictures(comfyui, graph, hint))
    assert np.array_equal(found[0], found[2])
    assert np.array_equal(found[1], found[3])
    assert not np.array_equal(found[0], found[1])


def test_levels_are_rounded_and_not_cut_off(comfyui: Host) -> None:
    """The host's floats lie between two levels: peers cut them off, half a level too dark on average."""
    graph = Graph()
    image = graph.add("TestPicture", seed=3, count=64, width=8, height=8)
    hint = graph.add(
        "ControlStackPreprocess", image=image, preprocessor="threshold", resolution=0, **{"preprocessor.threshold": 127}
    )
    levels = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(3)).amin(dim=1) * 255
    found = torch.from_numpy(pictures(comfyui, graph, hint)[..., 0] == 255)
    assert torch.equal(found, levels.round() > 127)
    assert not torch.equal(found, levels.floor() > 127)


@pytest.mark.parametrize("node", ["ControlStackPreprocess", "ControlStackControlUnit"])
def test_licences_and_what_cannot_run_are_shown_with_the_choice(comfyui: Host, node: str) -> None:
    told = comfyui.get(f"object_info/{node}")[node]["input"]["required"]["preprocessor"][1]["tooltip"]
    assert "lack a package here and say which" in told and "licences: docs/preprocessors.md" in told


def test_what_a_network_lacks_is_said_before_anything_runs(comfyui: Host) -> None:
    graph = Graph()
    _, hint = preprocess(graph, "softedge_hed")
    with pytest.raises(RunError, match=r"install\.py preprocessors|ControlNetHED\.pth"):
        pictures(comfyui, graph, hint)
