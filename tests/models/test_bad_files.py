"""Files that are damaged, hostile, or no control models: one sentence, and nothing runs."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from controlstack.core.errors import DamagedModelError, ModelError, UnsupportedModelError
from controlstack.models.registry import inspect, load_control_model
from diffusers import T2IAdapter
from safetensors import safe_open
from safetensors.torch import save, save_file


def _write(path: Path, header: bytes, body: bytes = b"", length: int | None = None) -> Path:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + body)
    return path


TWICE = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
MANY = json.dumps({f"t{k}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for k in range(20_001)}).encode()
CONTROL = ("input_hint_block.0.weight", "zero_convs.0.0.weight", "input_blocks.0.0.weight")  # so much is recognised


def _lie(body: int = 12, **entry: object) -> bytes:
    """A file with the names of a ControlNet, whose first entry lies about what the file holds."""
    honest = {
        name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * k, 4 * k + 4]} for k, name in enumerate(CONTROL)
    }
    header = json.dumps({**honest, CONTROL[0]: {**honest[CONTROL[0]], **entry}}).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * body


HOSTILE = {
    "empty": b"",
    "truncated": save({"zero_convs.0.0.weight": torch.ones(64)})[:-20],
    "short": b"\x01",
    "huge header": struct.pack("<Q", 2**63) + b"{}",
    "no json": struct.pack("<Q", 4) + b"oops",
    "a list": struct.pack("<Q", 2) + b"[]",
    "deep": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "twice": struct.pack("<Q", len(TWICE)) + TWICE + b"\0" * 4,
    "no shape": struct.pack("<Q", 8) + b'{"a":{}}',
    "another shape": _lie(shape=[1000]),
    "below zero": _lie(shape=[-1]),
    "beyond the end": _lie(data_offsets=[0, 400]),
    "in the same place": _lie(data_offsets=[4, 8]),
    "unknown type": _lie(dtype="F99"),
    "cut off": _lie(body=8),
    "more than announced": _lie(body=400),
    "too many": struct.pack("<Q", len(MANY)) + MANY,
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("use", [inspect, load_control_model], ids=["inspect", "load"])
def test_hostile_files_are_refused(tmp_path: Path, kind: str, use: object) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(HOSTILE[kind])
    with pytest.raises(ModelError) as caught:
        use(path)  # type: ignore[operator]
    assert "\n" not in str(caught.value)
    assert (kind == "truncated") <= ("truncated" in str(caught.value))


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("open('harmed', 'w')",)


def test_a_pickle_with_code_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"zero_convs.0.0.weight": _Evil()}, "evil.pth")
    with pytest.raises(DamagedModelError, match="could run code"):
        load_control_model(Path("evil.pth"))
    assert not Path("harmed").exists()


@pytest.mark.parametrize("layout", ["ldm", "diffusers", "adapter"])
@pytest.mark.parametrize(
    "name",
    ["body.0.body.999999.x",
     "up_blocks.29999999.resnets.0.x", "up_blocks.29999999.upsamplers.0.conv.weight", "down_blocks.9999.resnets.9999.x",
     "input_blocks.999999.0.x", f"zero_convs.{'9' * 5000}.0.weight"],
)  # fmt: skip
def test_numbers_that_nothing_can_count_up_to_are_damage(
    tmp_path: Path, adapter: T2IAdapter, layout: str, name: str
) -> None:
    from controlstack.models.naming import to_diffusers
    from controlstack.pipelines.tiny_world import CONTROLS
    from safetensors.torch import load_file

    state = load_file(CONTROLS / "canny.safetensors")
    states = {"ldm": state, "diffusers": to_diffusers(state), "adapter": adapter.state_dict()}
    save_file({**states[layout], name: torch.ones(1)}, tmp_path / "model.safetensors")
    for use in (inspect, load_control_model):
        with pytest.raises(ModelError, match="weights in all: get the file again") as caught:
            use(tmp_path / "model.safetensors")
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no model file"):
        inspect(tmp_path / "none.safetensors")
    with pytest.raises(ModelError, match="folder without"):
        inspect(tmp_path)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["lora_unet_down_blocks_0.lora_up.weight"], "LoRA"),
        (["unet.down.lora_A.weight"], "LoRA"),
        (["model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.decoder.conv_in.weight"], "checkpoint"),
        (["encoder.down.0.block.0.norm1.weight", "decoder.up.0.block.0.norm1.weight"], "VAE"),
        (["text_model.embeddings.token_embedding.weight"], "text encoder"),
        (["down_blocks.0.resnets.0.conv1.weight", "up_blocks.0.resnets.0.conv1.weight"], "U-Net"),
        (["something.else"], "unknown kind"),
    ],
)
def test_other_files_are_named(tmp_path: Path, names: list[str], words: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file({name: torch.ones(1) for name in names}, path)
    with pytest.raises(UnsupportedModelError, match=words):
        inspect(path)


def _control(folder: Path, change: str) -> Path:
    from controlstack.pipelines.tiny_world import CONTROLS

    with safe_open(CONTROLS / "canny.safetensors", "pt") as file:
        state, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    if change == "missing":
        del state["middle_block_out.0.weight"]
    elif change == "misshapen":
        state["middle_block_out.0.weight"] = torch.ones(3, 3, 1, 1)
    elif change == "not finite":
        state["middle_block_out.0.weight"][0] = float("nan")
    save_file(state, folder / "model.safetensors", metadata)
    return folder / "model.safetensors"


@pytest.mark.parametrize("change", ["missing", "misshapen", "not finite"])
def test_damaged_weights_are_named(tmp_path: Path, change: str) -> None:
    with pytest.raises(DamagedModelError, match="middle_block_out"):
        load_control_model(_control(tmp_path, change))


def test_a_control_may_lack_any_weight(tmp_path: Path) -> None:
    """Also one that tells how the network is made: it is named, and none loads as a smaller network."""
    whole = _control(tmp_path, "none")
    with safe_open(whole, "pt") as file:
        state, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    tried = [name for name in state if name.startswith(("time_embed", "input_blocks.1.0", "middle_block.2", "zero_"))]
    assert len(tried) > 30
    for name in tried:
        _refused_without(tmp_path, state, name, metadata)


def test_an_adapter_may_lack_any_weight(tmp_path: Path, adapter: T2IAdapter) -> None:
    state = adapter.state_dict()
    for name in state:
        _refused_without(tmp_path, state, name, None)


def _refused_without(folder: Path, state: dict[str, torch.Tensor], name: str, metadata: dict[str, str] | None) -> None:
    path = folder / "lack.safetensors"
    save_file({other: each for other, each in state.items() if other != name}, path, metadata)
    with pytest.raises(ModelError) as caught:
        load_control_model(path)
    assert str(caught.value).isprintable(), name


def test_heads_that_nothing_tells_are_asked_for(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    path = _control(tmp_path, "none")
    save_file(load_file(path), tmp_path / "bare.safetensors")
    with pytest.raises(UnsupportedModelError, match="'heads'"):
        load_control_model(tmp_path / "bare.safetensors")
    (tmp_path / "bare.json").write_text(json.dumps({"heads": 4, "norm_groups": 8}))
    assert load_control_model(tmp_path / "bare.safetensors").name == "bare"
