"""Every family of control models in a real ComfyUI: the same unit, the same numbers as our core on diffusers' U-Net."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import comfyui_host
import pytest
import trained_units
from comfyui_host import Host, RunError
from comfyui_scene import Scene
from controlstack.core.schedule import RangeBasis
from controlstack.preprocessors import find
from controlstack.units.text import write_options
from family_units import TOKENS, TRANSFORMER, UNITS, masked, write_families
from PIL import Image
from torch import Tensor
from webui_host import Evaluation, Picture, read_record
from webui_oracle import Oracle, Place, Wanted
from webui_units import SIZE, photograph

TOLERANCE = 1e-5  # of the answer's range
PICTURE = "family.png"
LATENTS = "ctrlora"  # among what is trained; it needs a VAE, and has a test of its own
LOW = ("NO_VRAM", "LOW_VRAM")


def scene_of(host: Host, family: str) -> Scene:
    """One unit of a family, on the left half of the picture where it has a place there."""
    return scene_with(host, UNITS[family], masked=family not in TOKENS)


def scene_with(host: Host, wanted: Wanted, masked: bool) -> Scene:
    scene = Scene(batch=2)
    Image.fromarray(photograph()).save(host.base / "input" / PICTURE)
    scene.latent = scene.graph.add("EmptyLatentImage", width=SIZE, height=SIZE, batch_size=2)
    said = wanted.settings
    mask = {"mask": scene.graph.add("TestMask", share=0.5, size=SIZE)} if masked else {}
    unit = scene.unit(
        scene.ours(wanted.file), scene.graph.add("LoadImage", image=PICTURE), weight=said["weight"],
        preprocessor=find(said.get("module", "none")).id, options=write_options(said.get("options", {})), **mask,
    )  # fmt: skip
    scene.apply(unit)
    return scene


def recorded(host: Host, scene: Scene) -> list[Evaluation]:
    name = uuid.uuid4().hex
    scene.model = scene.graph.add("TestRecord", model=scene.model, name=name)
    scene.draw(host)
    return read_record(host.base / "output" / f"{name}.safetensors")[0]


@pytest.fixture(scope="module")
def oracle(comfyui: Host) -> Oracle:
    models = comfyui.base / "models"
    recorded(comfyui, Scene())  # which writes the checkpoint
    for theirs, ours in (("ControlNet", "controlnet"), ("ControlNetPreprocessor", "controlnet_aux")):
        (models / theirs).symlink_to(models / ours, target_is_directory=True)
    return Oracle(models, basis=RangeBasis.NOISE)


@pytest.fixture(scope="module")
def trained(comfyui: Host, oracle: Oracle, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Control models that our own command has trained on the host's checkpoint."""
    models = comfyui.base / "models"
    trained_units.train_all(oracle.path, models / "controlnet", tmp_path_factory.mktemp("training"))


@pytest.mark.parametrize("family", UNITS)
def test_each_equals_the_core_outside_the_host(comfyui: Host, oracle: Oracle, family: str) -> None:
    check(comfyui, oracle, scene_of(comfyui, family), masked(family))


@pytest.mark.parametrize("name", [name for name in trained_units.UNITS if name != LATENTS])
def test_what_our_training_writes_acts(comfyui: Host, oracle: Oracle, trained: None, name: str) -> None:
    wanted = trained_units.UNITS[name]
    check(comfyui, oracle, scene_with(comfyui, wanted, masked=False), wanted)


def test_a_trained_ctrlora_acts(comfyui: Host, trained: None) -> None:
    drawn = [ctrlora(comfyui, photograph(seed), file=trained_units.file_of(LATENTS)).draw(comfyui) for seed in (0, 1)]
    assert (Scene().draw(comfyui) - drawn[0]).abs().max() > 0.01 < (drawn[0] - drawn[1]).abs().max()


def test_a_ctrlora_reads_latents_of_the_hint(comfyui: Host) -> None:
    """How latents reach a control is compared among the effects; here the file, its base beside it, and the VAE."""
    plain = Scene().draw(comfyui)
    drawn = [ctrlora(comfyui, photograph(seed)).draw(comfyui) for seed in (0, 0, 1)]
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] - plain).abs().max() > 0.01 < (drawn[0] - drawn[2]).abs().max()
    assert (Scene().draw(comfyui) == plain).all()
    with pytest.raises(RunError, match="reads hints as latents and needs a VAE"):
        ctrlora(comfyui, photograph(), vae=False).draw(comfyui)


def ctrlora(host: Host, picture: Picture, *, vae: bool = True, file: str = "ctrlora_canny") -> Scene:
    scene = Scene()
    Image.fromarray(picture).save(host.base / "input" / PICTURE)
    unit = scene.unit(scene.ours(file), scene.graph.add("LoadImage", image=PICTURE), weight=1.0)
    scene.apply(unit, **({"vae": scene.vae()} if vae else {}))
    return scene


def check(host: Host, oracle: Oracle, scene: Scene, wanted: Wanted) -> None:
    """Compare every evaluation with the oracle's, see that the unit matters, and that nothing of it stays."""
    before = Scene().draw(host)
    for number, seen in enumerate(recorded(host, scene)):
        answer = oracle.answer(seen, (wanted,), Place(number, 0, seen.steps))
        assert (seen.out - answer).abs().max() <= TOLERANCE * answer.abs().max(), number
        alone = oracle.answer(seen, (without(wanted),), Place(number, 0, seen.steps))
        assert (answer - alone).abs().max() > 20 * TOLERANCE * alone.abs().max()
    assert (Scene().draw(host) == before).all()


def without(wanted: Wanted) -> Wanted:
    return replace(wanted, settings={**wanted.settings, "weight": 0.0})


@pytest.fixture(scope="module", params=LOW)
def short_of_memory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A running ComfyUI that takes the CPU for an accelerator with little or no memory for weights."""
    path = comfyui_host.find()
    if path is None:
        pytest.skip("no ComfyUI: set COMFYUI_PATH to its folder (and COMFYUI_PYTHON to its Python)")
    base: Path = tmp_path_factory.mktemp(request.param)
    write_families(base / "models" / "controlnet", base / "models" / "controlnet_aux")
    with comfyui_host.started(path, base, vram_state=request.param) as host:
        yield host


@pytest.mark.parametrize("family", UNITS)
def test_little_memory_draws_the_same(short_of_memory: Host, comfyui: Host, family: str) -> None:
    def drawn(host: Host) -> Tensor:
        return scene_of(host, family).draw(host)

    there, here = drawn(short_of_memory), drawn(comfyui)
    # Weights that are cast lie elsewhere in memory, by which processors choose how they sum.
    assert (there - here).abs().max() <= TOLERANCE * here.abs().max()


def test_a_control_of_a_transformer_is_left_to_the_hosts_own_nodes(comfyui: Host) -> None:
    scene = Scene()
    scene.apply(scene.unit(scene.ours(TRANSFORMER), scene.picture()))
    with pytest.raises(RunError, match=r"'anima\S*' is a control of a transformer.*'Apply Anima LLLite'"):
        scene.draw(comfyui)
