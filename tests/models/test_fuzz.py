"""Files changed at random: a family loads them whole, or one printable line says what is wrong; nothing else comes out.

Every seed makes one file: a tiny network of some family in some layout, with weights dropped, renamed, reshaped, put
into another type or scaled, a table that lies, bytes cut off or changed, and settings beside it that are odd.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anima_world
import pytest
import torch
from controlstack.core.errors import ModelError
from controlstack.models.families.controlnet.config import Block, ControlNetConfig
from controlstack.models.families.controlnet.network import ControlNet
from controlstack.models.families.controlnet_lite import ControlNetLite, LiteConfig
from controlstack.models.families.controlnext import ControlNeXt
from controlstack.models.families.t2i_adapter import Adapter, AdapterConfig, StyleAdapter
from controlstack.models.families.union import UnionNet
from controlstack.models.layers import STANDARD, Kit
from controlstack.models.naming import to_diffusers
from controlstack.models.registry import inspect, load_control_model
from diffusers import ControlNetXSAdapter
from safetensors.torch import save
from torch import Tensor, nn

State = dict[str, Tensor]
ODD_NAMES = (
    "\x1b[2J\ncontrolstack: fine", "a" * 5000, "", ".", "zero_convs.99999999.0.weight", "body.7.x", "difference",
    "lora_controlnet", "scaled_fp8", "x.alpha", "x.scale_weight", "\u00b9.\u00b2", "up_blocks.29999999.resnets.0.x",
)  # fmt: skip
ODD_VALUES = ("eight", "0", 0, -4, 7, 4, 1e400, float("nan"), None, True, "True", [4], [], {}, {"a": {}}, "9" * 5000)
ODD_TEXTS = (b"", b"[1]", b"{", b"[" * 100_000, b"\xff\xfe{\0}\0", b'\xef\xbb\xbf{"heads": 4}', b"\xe9", b"null")
KEYS = ("heads", "head_channels", "norm_groups", "only_middle", "global_average_pooling", "hint_order", "hedas", "x")
TYPES = (torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.bool, torch.complex64)


CONFIG = ControlNetConfig(
    channels=8,
    blocks=(Block(8, 1), Block(8, down=True), Block(16, 1)),
    middle_depth=1,
    context=12,
    heads=2,
    groups=4,
    hint_stem=(4,) * 7,
)


def _controlnet() -> State:
    return _state(ControlNet(CONFIG))


def _union() -> State:
    state = _state(UnionNet(CONFIG, kinds=6, sinusoids=4, layers=1, kit=Kit(groups=4)))
    return {name.replace("attn.in_proj.", "attn.in_proj_"): each for name, each in to_diffusers(state).items()}


def _adapter(light: bool) -> State:
    inner = (4, 4, 4, 4) if light else (8, 8, 8, 8)
    return _state(Adapter(AdapterConfig(channels=(8,) * 4, inner=inner, depth=2, kernel=1, hint_channels=1, xl=False)))


def _state(network: nn.Module) -> State:
    return {name: torch.randn(each.shape) for name, each in network.state_dict().items()}


def _lite() -> State:
    config = LiteConfig(widths=(8, 8, 8, 16), halvings=frozenset({2}), groups=4, hint_stem=(4,) * 7)
    return _state(ControlNetLite(config, STANDARD))


def _style() -> State:
    state = _state(StyleAdapter(width=16, context=12, count=2, layers=2))
    return {name.replace("attn.in_proj.", "attn.in_proj_"): each for name, each in state.items()}


def _next() -> State:
    """The first network, which is whole without a companion."""
    shapes = {"time_embedding.linear_1.weight": (12, 8), "mid_convs.1.weight": (8, 8, 1, 1)}
    shapes |= {f"down_res.{i}.conv1.weight": (8, 8 if i else 3) for i in range(3)}
    return _state(ControlNeXt(shapes, STANDARD))


def _control_lora(control: State) -> State:
    state: State = {"lora_controlnet": torch.zeros(1)}
    for name, each in control.items():
        stem = name.removesuffix(".weight")
        if each.ndim == 1 or name.startswith(("input_hint_block.", "zero_convs.", "middle_block_out.")):
            state[name] = each
        else:
            ones = (1,) * (each.ndim - 2)
            state |= {f"{stem}.up": torch.randn(len(each), 2, *ones), f"{stem}.down": torch.randn(2, *each.shape[1:])}
    return state


def _ip_adapter() -> State:
    """The plain kind, of a narrow SD 1.x."""
    shapes = {"image_proj.proj.weight": (2 * 768, 6), "image_proj.proj.bias": (2 * 768,)}
    shapes |= {f"image_proj.norm.{part}": (768,) for part in ("weight", "bias")}
    shapes |= {f"ip_adapter.{2 * k + 1}.to_{part}_ip.weight": (8, 768) for k in range(16) for part in "kv"}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def _face_id() -> State:
    """The kind plus with a LoRA, of a narrow SD 1.x."""
    shapes = {"image_proj.proj.0.weight": (8, 6), "image_proj.proj.0.bias": (8,), "image_proj.proj.2.bias": (2 * 768,)}
    shapes |= {"image_proj.proj.2.weight": (2 * 768, 8), "image_proj.norm.weight": (768,)}
    shapes |= {"image_proj.norm.bias": (768,)} | _asking("image_proj.perceiver_resampler.", seen=8, width=768)
    for k in range(16):
        shapes |= {f"ip_adapter.{2 * k + 1}.to_{part}_ip.weight": (8, 768) for part in "kv"}
        for number, reads in ((2 * k, 8), (2 * k + 1, 768)):
            for part, enters in (("q", 8), ("k", reads), ("v", reads), ("out", 8)):
                stem = f"ip_adapter.{number}.to_{part}_lora"
                shapes |= {f"{stem}.down.weight": (2, enters), f"{stem}.up.weight": (8, 2)}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def _instant_id() -> State:
    shapes = {f"ip_adapter.{2 * k + 1}.to_{part}_ip.weight": (8, 768) for k in range(16) for part in "kv"}
    shapes |= _asking("image_proj.", seen=512, width=8) | {"image_proj.latents": (1, 2, 8)}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def _asking(prefix: str, seen: int, width: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a resampler of one layer."""
    shapes: dict[str, tuple[int, ...]] = {"proj_in.weight": (width, seen), "proj_in.bias": (width,)}
    shapes |= {"proj_out.weight": (768, width), "proj_out.bias": (768,), "norm_out.weight": (768,)}
    shapes |= {"norm_out.bias": (768,), "layers.0.0.to_q.weight": (64, width), "layers.0.0.to_kv.weight": (128, width)}
    shapes |= {"layers.0.0.to_out.weight": (width, 64), "layers.0.1.1.weight": (4, width)}
    shapes |= {"layers.0.1.3.weight": (width, 4)}
    for norm in ("0.norm1", "0.norm2", "1.0"):
        shapes |= {f"layers.0.{norm}.{part}": (width,) for part in ("weight", "bias")}
    return {prefix + name: shape for name, shape in shapes.items()}


def _controlnet_xs() -> State:
    with torch.device("meta"):
        adapter = ControlNetXSAdapter(
            block_out_channels=(8, 8, 8), base_block_out_channels=(8, 8, 16), cross_attention_dim=768,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"), num_attention_heads=8,
            conditioning_embedding_out_channels=(4, 4, 4, 4), max_norm_num_groups=4,
        )  # fmt: skip
    return _state(adapter)


@pytest.fixture(scope="module")
def networks() -> list[State]:
    control = _controlnet()
    return [
        control,
        to_diffusers(control),
        {f"control_model.{name}": each for name, each in control.items()},
        {**control, "difference": torch.ones(1)},
        {f"module.{name}": each for name, each in control.items()},
        _adapter(True),
        _adapter(False),
        {f"adapter.{name.replace('.body.', '.resnets.')}": each for name, each in _adapter(True).items()},
        _style(),
        _lite(),
        _next(),
        _ip_adapter(),
        _face_id(),
        _instant_id(),
        _controlnet_xs(),
        _control_lora(control),
        anima_world.state(branches=4),
        _union(),
    ]


def _drop(state: State, rng: random.Random) -> None:
    for name in rng.sample(list(state), min(len(state), rng.choice((1, 1, 2, 30)))):
        del state[name]


def _rename(state: State, rng: random.Random) -> None:
    name = rng.choice(list(state))
    other = rng.choice(
        (*ODD_NAMES, name.replace("0", str(rng.choice((1, 5, 99, 10**9)))), name[: rng.randrange(len(name) + 1)])
    )
    state[other] = state.pop(name)


def _reshape(state: State, rng: random.Random) -> None:
    name = rng.choice(list(state))
    shape = list(state[name].shape)
    change = rng.choice(
        (lambda: shape[1:], lambda: [*shape, 1], lambda: [0, *shape[1:]], lambda: shape[::-1], lambda: [3])
    )
    state[name] = torch.randn(change())


def _retype(state: State, rng: random.Random) -> None:
    for name in rng.sample(list(state), rng.choice((1, len(state)))):
        dtype = rng.choice(TYPES)
        real = state[name].float() if state[name].is_floating_point() else torch.ones(state[name].shape)
        state[name] = real.to(dtype) if rng.random() < 0.9 else torch.full((2,), float("nan"))


def _scale(state: State, rng: random.Random) -> None:
    for name in [name for name in state if name.endswith(".weight")][: rng.choice((1, 1000))]:
        state[name[: -len("weight")] + "scale_weight"] = torch.ones(rng.choice(((), (1,), (2,), state[name].shape[:1])))


CHANGES: tuple[Callable[[State, random.Random], None], ...] = (_drop, _rename, _reshape, _retype, _scale)


def _lie(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose table says something else than the tensors."""
    (length,) = struct.unpack("<Q", data[:8])
    table: dict[str, Any] = json.loads(data[8 : 8 + length])
    name = rng.choice(list(table))
    key = rng.choice(("dtype", "shape", "data_offsets"))
    table[name][key] = rng.choice(
        ("F99", "F4", 3, None, [], [-1], [2**63], [0, 4], [4, 0], ["4"], [[]], [1.5, 2], "F64")
    )
    text = json.dumps(table).encode()
    return struct.pack("<Q", len(text) + rng.choice((0, 0, 1, -1, 2**40))) + text + data[8 + length :]


def _damage(data: bytes, rng: random.Random) -> bytes:
    kind = rng.randrange(4)
    if kind == 0:
        return data[: rng.randrange(len(data))]
    if kind == 1:
        at = rng.randrange(len(data))
        return data[:at] + rng.randbytes(rng.choice((1, 100))) + data[at + 1 :]
    return data + b"\0" * 8 if kind == 2 else data


def _write(folder: Path, state: State, rng: random.Random) -> Path:
    """A file with this state in some format, damaged now and then, and settings beside it."""
    if rng.random() < 0.3:
        path = folder / f"model{rng.choice(('.pth', '.bin', '.ckpt'))}"
        wrapped = rng.choice((state, {"state_dict": state}, {"model": {"ema": state}}, {"a": [state, (1, state)]}))
        torch.save(wrapped, path, _use_new_zipfile_serialization=rng.random() < 0.5)
        data = path.read_bytes()
    else:
        path = folder / "model.safetensors"
        metadata = {f"controlstack.{rng.choice(KEYS)}": str(rng.choice(ODD_VALUES))} if rng.random() < 0.2 else None
        data = save({name: each.contiguous() for name, each in state.items()}, metadata)
        if rng.random() < 0.3 and state and not metadata:
            data = _lie(data, rng)
    path.write_bytes(_damage(data, rng) if rng.random() < 0.4 else data)
    settings: dict[str, Any] = {"heads": 2, "norm_groups": 4} if rng.random() < 0.7 else {}
    if rng.random() < 0.3:
        settings[rng.choice(KEYS)] = rng.choice(ODD_VALUES)
    text = rng.choice(ODD_TEXTS) if rng.random() < 0.1 else json.dumps(settings).encode()
    path.with_suffix(".json").write_bytes(text)
    return path


def _try(seed: int, networks: list[State], folder: Path) -> int:
    """Inspect and load one file; how many of the two it survived."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    state = dict(rng.choice(networks))
    for _ in range(rng.choice((0, 1, 1, 2))):
        if state:
            rng.choice(CHANGES)(state, rng)
    path = _write(folder, state, rng)
    good = 0
    for use in (inspect, load_control_model):
        try:
            use(path)
            good += 1
        except ModelError as error:
            text = str(error)
            assert text.isprintable() and 0 < len(text) < 1000, (seed, text)
    return good


def _run(seeds: range, networks: list[State], tmp_path: Path) -> None:
    good = 0
    for seed in seeds:
        folder = tmp_path / str(seed)
        folder.mkdir()
        good += _try(seed, networks, folder)
        for each in folder.iterdir():
            each.unlink()
    assert 0.1 < good / len(seeds) < 1.5  # many are refused, and many are not: both ways are tried


@pytest.mark.campaign
@pytest.mark.tries(300, 10_000)
def test_changed_files_end_in_one_line(networks: list[State], tmp_path: Path, times: int) -> None:
    _run(range(times), networks, tmp_path)


@pytest.mark.campaign
@pytest.mark.tries(8, 10_000)
def test_a_file_that_lacks_a_weight_is_no_smaller_network(networks: list[State], tmp_path: Path, times: int) -> None:
    """Sizes and optional parts are told from the names that a file has, so one missing name may hide a part."""
    path, rng, loaded = tmp_path / "model.safetensors", random.Random(times), 0
    settings = {"controlstack.heads": "2", "controlstack.norm_groups": "4"}
    for state in networks:
        if not {"lora_controlnet", "difference"}.isdisjoint(state):
            continue  # what these lack is the base's
        whole = {name: each.contiguous() for name, each in state.items()}
        told = settings if _loads(path, whole, settings) else {}
        loaded += _loads(path, whole, told)
        for name in rng.sample(sorted(state), min(times, len(state))):
            assert not _loads(path, {key: each for key, each in whole.items() if key != name}, told), name
    assert loaded == len(networks) - 2


def _loads(path: Path, state: State, told: dict[str, str]) -> bool:
    path.write_bytes(save(state, told))
    try:
        load_control_model(path)
    except ModelError:
        return False
    return True


def test_a_union_without_its_kinds_is_no_plain_controlnet(networks: list[State], tmp_path: Path) -> None:
    state = {name: each for name, each in networks[-1].items() if name != "task_embedding"}
    path = tmp_path / "model.safetensors"
    path.write_bytes(save(state, {"controlstack.heads": "2", "controlstack.norm_groups": "4"}))
    for use in (inspect, load_control_model):
        with pytest.raises(ModelError, match="task_embedding"):
            use(path)
