"""Models are offered by what is in their files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from controlstack.core.network.base import Base
from controlstack.models.families.controlnet.config import Block, ControlNetConfig
from controlstack.models.families.controlnet.network import ControlNet
from controlstack.models.families.t2i_adapter import Adapter, AdapterConfig
from controlstack.models.families.union import UnionNet
from controlstack.models.layers import Kit
from controlstack.scripts.webui.host.files import ModelFiles
from controlstack.scripts.webui.page.choices import options
from controlstack.scripts.webui.page.contents import Content, Contents
from controlstack.units.choices import UNION_TYPES
from safetensors.torch import save_file

WIDTHS = (32, 32, 32, 64, 64)
BLOCKS = (Block(32), Block(32, down=True), Block(64, 1), Block(64))
SD1 = Base(context=24, label=0, blocks=WIDTHS)


def controlnet() -> ControlNet:
    return ControlNet(ControlNetConfig(channels=32, blocks=BLOCKS, middle_depth=1, context=24, heads=4))


def adapter() -> Adapter:
    widths = (32, 32, 32, 32)
    return Adapter(AdapterConfig(channels=widths, inner=widths, depth=1, kernel=1, hint_channels=3, xl=False))


@pytest.fixture
def files(tmp_path: Path) -> ModelFiles:
    for name, tensors in (
        ("canny", controlnet().state_dict()),
        ("my sketcher", adapter().state_dict()),
        ("depth lora", {"lora_unet_x.lora_down.weight": torch.ones(4, 4)}),
    ):
        save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / f"{name}.safetensors")
    (tmp_path / "old depth.pth").write_bytes(b"never read")
    return ModelFiles([tmp_path])


def offered(tag: str, files: ModelFiles, base: Base | None = None) -> list[str]:
    return [name.rpartition(" [")[0] for name in Contents().offer(tag, files, base)]


def test_an_adapter_is_one_whatever_its_name(files: ModelFiles) -> None:
    assert offered("T2I-Adapter", files) == ["my sketcher"]


def test_what_a_hint_shows_goes_by_names(files: ModelFiles) -> None:
    assert offered("Canny", files) == ["canny"] and offered("Scribble", files) == ["my sketcher"]
    assert offered("Depth", files) == ["depth lora", "old depth"], "loading says what is wrong with them"


def test_a_file_that_was_removed_since_the_listing_is_left_out(files: ModelFiles, tmp_path: Path) -> None:
    (tmp_path / "depth lora.safetensors").unlink()
    assert offered("Canny", files) == ["canny"] and offered("Depth", files) == ["old depth"]


def test_models_for_another_base_are_left_out_and_unknown_ones_kept(files: ModelFiles) -> None:
    other = Base(context=2048, label=2816, blocks=WIDTHS)
    assert offered("Canny", files, SD1) == ["canny"] and offered("Canny", files, other) == []
    assert offered("Depth", files, other) == ["depth lora", "old depth"]


def test_the_type_all_offers_every_file(files: ModelFiles) -> None:
    assert offered("All", files, Base(context=1)) == [name.rpartition(" [")[0] for name in files.names]


def test_a_file_is_looked_at_again_when_it_changes(files: ModelFiles, tmp_path: Path) -> None:
    contents, path = Contents(), tmp_path / "canny.safetensors"
    assert contents.of(path).family == "ControlNet"
    path.unlink()
    path.write_bytes((tmp_path / "my sketcher.safetensors").read_bytes())
    assert contents.of(path) != Content() and contents.of(path).family != "ControlNet"


@pytest.mark.parametrize("lost", ["input_blocks.1.0.in_layers.2.weight", "input_blocks.2.0.op.weight"])
def test_a_damaged_file_spoils_no_list(files: ModelFiles, tmp_path: Path, lost: str) -> None:
    state = controlnet().state_dict()
    del state[lost]
    save_file(state, tmp_path / "canny damaged.safetensors")
    files = ModelFiles([tmp_path])
    assert set(offered("Canny", files, SD1)) == {"canny", "canny damaged"}, "loading says what is wrong with it"
    assert offered("T2I-Adapter", files) == ["my sketcher"]


def union_file(path: Path) -> None:
    config = ControlNetConfig(channels=32, blocks=BLOCKS, middle_depth=1, context=24, heads=4)
    state = UnionNet(config, kinds=6, sinusoids=8, layers=1, kit=Kit()).state_dict()
    save_file({name: torch.rand(each.shape) for name, each in state.items()}, path, {"controlstack.heads": "4"})


def test_a_union_is_offered_for_what_it_reads_behind_models_for_that_alone(files: ModelFiles, tmp_path: Path) -> None:
    union_file(tmp_path / "all in one.safetensors")
    files.refresh()
    assert offered("Canny", files) == ["canny", "all in one"]
    assert offered("OpenPose", files) == ["all in one"]
    assert "all in one" not in offered("Tile", files) + offered("Shuffle", files) + offered("T2I-Adapter", files)


def test_the_page_shows_what_a_model_can_be_told(files: ModelFiles, tmp_path: Path) -> None:
    union_file(tmp_path / "all in one.safetensors")
    shown = options(Contents().of(tmp_path / "all in one.safetensors").offers)
    assert shown.kinds == [label for label in UNION_TYPES.labels if label not in ("Tile", "Inpaint")]
    assert shown.all == "union_control_type=auto, openpose, depth, softedge, canny, normal, segmentation"
    plain = options(Contents().of(tmp_path / "canny.safetensors").offers)
    assert (plain.kinds, plain.all) == ([], "")
