"""Our control models under ComfyUI's options for accelerators of little memory, with its own decisions."""

from __future__ import annotations

import re
from collections.abc import Iterator

import comfyui_host
import control_files
import pytest
from comfyui_host import Host
from comfyui_scene import Scene, difference
from torch import Tensor

FILES = ("canny", "depth", "pose")
SHARE = {"NO_VRAM": (0.0, 0.0), "LOW_VRAM": (0.1, 0.9)}  # least and most of the weights that the host loads


@pytest.fixture(scope="module", params=SHARE)
def short_of_memory(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Host]]:
    """A running ComfyUI that takes the CPU for an accelerator with little or no memory for weights."""
    path = comfyui_host.find()
    if path is None:
        pytest.skip("no ComfyUI: set COMFYUI_PATH to its folder (and COMFYUI_PYTHON to its Python)")
    base = tmp_path_factory.mktemp(request.param)
    control_files.write_all(base / "models" / "controlnet")
    with comfyui_host.started(path, base, vram_state=request.param) as host:
        yield request.param, host


def drawn(host: Host, *, watched: bool = False) -> Tensor:
    """Three units; their latents."""
    scene = Scene()
    controls = [scene.ours(file) for file in FILES]
    units = None
    for seed, control in enumerate(controls):
        units = scene.unit(control, scene.picture(seed), units, weight=0.8)
    assert units is not None
    scene.apply(units)
    samples = scene.sample()
    for control in controls if watched else ():
        samples = scene.graph.add("TestWhere", samples=samples, control_net=control)
    return host.latent(scene.graph, samples)


def test_changes_of_the_bases_weights_reach_those_that_are_not_loaded(
    short_of_memory: tuple[str, Host], comfyui: Host
) -> None:
    def changed(host: Host) -> Tensor:
        scene = Scene()
        control = scene.graph.add("TestFamily", model=scene.model, kind="delta")
        scene.apply(scene.unit(control, scene.picture()))
        return scene.draw(host)

    _, host = short_of_memory
    before = Scene().draw(host)
    assert (changed(host) == changed(comfyui)).all()
    assert difference(changed(host), before) > 0.01
    assert (Scene().draw(host) == before).all()


def test_a_style_adapter_is_streamed(short_of_memory: tuple[str, Host], comfyui: Host) -> None:
    def styled(host: Host) -> Tensor:
        scene = Scene()
        scene.apply(scene.unit(scene.ours("style"), None, embedding=scene.graph.add("TestEmbedding", seed=4)))
        return scene.draw(host)

    assert (styled(short_of_memory[1]) == styled(comfyui)).all()


def test_weights_are_where_the_host_wants_them(short_of_memory: tuple[str, Host], comfyui: Host) -> None:
    state, host = short_of_memory
    assert (drawn(host, watched=True) == drawn(comfyui)).all()
    said = re.findall(r"held=True (\d+) of (\d+) bytes are loaded", host.log.read_text())
    assert len(said) == len(FILES)
    least, most = SHARE[state]
    assert all(least <= int(loaded) / int(size) <= most for loaded, size in said)
