"""What ComfyUI's own estimators give out goes straight into our nodes, in the conventions that control models know."""

from __future__ import annotations

import numpy as np
import pytest
from comfyui_host import Graph, Host, Link
from test_comfyui import Scene, difference, plain
from test_comfyui_preprocessors import pictures
from torch import Tensor

SIZE = 128
LEFT, RIGHT, MIDDLE = SIZE // 5, 4 * SIZE // 5, SIZE // 2  # of the ball; top and bottom likewise


@pytest.fixture(autouse=True)
def needs_estimators(comfyui: Host) -> None:
    if not comfyui.has("TestBall"):
        pytest.skip("this ComfyUI has no estimators of its own")


def preprocessed(graph: Graph, image: Link, name: str) -> Link:
    return graph.add("ControlStackPreprocess", image=image, preprocessor=name, resolution=0)


def test_normals_have_the_colours_of_controlnet(comfyui: Host) -> None:
    """On the ball's left side red is bright, on its top green is, in its middle blue is: as Bae's maps."""
    hints = {}
    for kind in ("opengl", "directx"):
        graph = Graph()
        ball = graph.add("TestBall", size=SIZE)
        shown = graph.add("MoGeRender", moge_geometry=ball, output=f"normal_{kind}")
        hints[kind] = pictures(comfyui, graph, preprocessed(graph, shown, f"normal_{kind}"))[0].astype(int)
        hint = hints[kind]
        assert hint[MIDDLE, LEFT, 0] > 210 and hint[MIDDLE, RIGHT, 0] < 45
        assert hint[LEFT, MIDDLE, 1] > 210 and hint[RIGHT, MIDDLE, 1] < 45
        assert hint[MIDDLE, MIDDLE, 2] > 250
    assert np.abs(hints["opengl"] - hints["directx"]).max() <= 1


def test_depth_is_white_where_it_is_near(comfyui: Host) -> None:
    graph = Graph()
    ball = graph.add("TestBall", size=SIZE)
    moge = graph.add("MoGeRender", moge_geometry=ball, output="depth")
    style = {"output": "depth", "output.normalization": "v2_style", "output.apply_sky_clip": False}
    anything = graph.add("DA3Render", da3_geometry=[ball[0], 1], **style)
    for image in (moge, anything):
        hint = pictures(comfyui, graph, preprocessed(graph, image, "none"))[0]
        assert hint[MIDDLE, MIDDLE].min() > 240 and hint[2, 2].max() < 15


def test_a_unit_reads_what_an_estimator_finds(comfyui: Host) -> None:
    """The host's network with random weights, its render node, our unit, a run."""

    def drawn(seed: int) -> Tensor:
        scene = Scene(steps=2)
        add, picture = scene.graph.add, scene.picture(seed)
        settings = {**comfyui.defaults("MoGeInference"), "apply_mask": False}
        found = add("MoGeInference", moge_model=add("TestMoGe"), image=picture, **settings)
        depth = add("MoGeRender", moge_geometry=found, output="depth")
        scene.apply(scene.unit(scene.ours("depth"), depth))
        return scene.draw(comfyui)

    one, other = drawn(0), drawn(1)
    assert difference(one, plain(comfyui, steps=2)) > 0.01
    assert difference(one, other) > 1e-4


@pytest.mark.parametrize("unsure", [0, 4])
def test_poses_of_sdpose_are_drawn(comfyui: Host, unsure: int) -> None:
    """As the host's own node draws them, but for the shade of limbs; points that are not sure are nobody's."""
    graph = Graph()
    pose = graph.add("TestSDPose", unsure=unsure)
    parts = {"body": True, "hands": True, "face": True, "thick": False}
    ours = pictures(comfyui, graph, graph.add("ControlStackDrawPose", pose=pose, resolution=0, **parts))[0]
    settings = comfyui.defaults("SDPoseDrawKeypoints")
    theirs = pictures(comfyui, graph, graph.add("SDPoseDrawKeypoints", keypoints=pose, **settings))[0]
    drawn, wanted = ours.any(axis=-1), theirs.any(axis=-1)
    assert wanted.sum() > 500
    assert (drawn != wanted).sum() < 0.05 * wanted.sum()
