"""PyTorch's own files: wrappers are taken off, each is read once, and none unpacks to more than it is."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from controlstack.core.errors import DamagedModelError, ModelError, UnsupportedModelError
from controlstack.models.registry import inspect, load_control_model
from diffusers import ControlNetModel, T2IAdapter
from torch import Tensor

Save = Callable[..., Path]
State = dict[str, Tensor]
HEADS = {"heads": "4"}
WRAPPERS: dict[str, Callable[[State], Any]] = {
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
    "module": lambda state: {"module": state},
    "adapter": lambda state: {"adapter": state},
    "params": lambda state: {"params": state},
    "averages": lambda state: {"params": {name: each + 1 for name, each in state.items()}, "params_ema": state},
    "ema beside model": lambda state: {"model": {name: each + 1 for name, each in state.items()}, "ema": state},
    "two, nested": lambda state: {"state_dict": {"model": state}},
    "prefix in a table": lambda state: {"state_dict": {f"module.{name}": each for name, each in state.items()}},
}
PREFIXES = ["module.", "_orig_mod.", "controlnet.", "model.", "module._orig_mod.", "state_dict.model.control_model."]


class ModelCheckpoint:
    """A class by which a checkpoint may call its callback."""


@pytest.fixture
def kind() -> str:
    return "SD"  # one network is enough for these


@pytest.fixture
def state(theirs: ControlNetModel) -> State:
    from controlstack.models.naming import to_ldm

    return to_ldm(theirs.state_dict())


def _weights(path: Path) -> State:
    model: Any = load_control_model(path, settings=HEADS)
    return model.network.state_dict()


def _equal(path: Path, state: State) -> None:
    assert inspect(path, HEADS).missing == ()
    loaded = _weights(path)
    assert loaded.keys() == state.keys()
    assert all(each.equal(state[name]) for name, each in loaded.items())


@pytest.mark.parametrize("new", [True, False], ids=["archive", "old pickle"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_are_taken_off(tmp_path: Path, state: State, wrapper: str, new: bool) -> None:
    path = tmp_path / "model.pth"
    torch.save(WRAPPERS[wrapper](state), path, _use_new_zipfile_serialization=new)
    _equal(path, state)


@pytest.mark.parametrize("new", [True, False], ids=["archive", "old pickle"])
@pytest.mark.parametrize("core", ["core", "_core"], ids=["before NumPy 2", "since NumPy 2"])
def test_a_checkpoint_with_its_progress_loads(tmp_path: Path, state: State, core: str, new: bool) -> None:
    """Numbers and arrays of NumPy and a callback's class, as Lightning leaves them beside the weights."""
    progress = {"best": np.float64(0.25), "kind": np.dtype("f4"), "seen": np.arange(3), ModelCheckpoint: np.int64(7)}
    torch.save({"state_dict": state, "callbacks": progress}, tmp_path / "new.ckpt", _use_new_zipfile_serialization=new)
    path = tmp_path / "model.ckpt"
    _rename_modules(tmp_path / "new.ckpt", path, core)
    _equal(path, state)
    with pytest.raises(pickle.UnpicklingError):  # accepted for that read alone
        torch.load(path, weights_only=True)


class Evil:
    """Write a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_beside_numbers_of_numpy_no_code_runs(tmp_path: Path, state: State) -> None:
    torch.save({"state_dict": state, "best": np.float64(1), "x": Evil(tmp_path / "ran")}, tmp_path / "model.ckpt")
    with pytest.raises(DamagedModelError, match="could run code"):
        inspect(tmp_path / "model.ckpt")
    torch.load(tmp_path / "model.ckpt", weights_only=False)
    assert (tmp_path / "ran").exists()  # so that the file would have


def _rename_modules(source: Path, target: Path, core: str) -> None:
    """Copy a checkpoint, its arrays as this NumPy version's modules are called, its callback as Lightning's."""
    names = {
        b"numpy._core.": f"numpy.{core}.".encode(),
        b"numpy.core.": f"numpy.{core}.".encode(),
        f"c{__name__}\n".encode(): b"cpytorch_lightning.callbacks.model_checkpoint\n",
    }

    def renamed(data: bytes) -> bytes:
        for old, new in names.items():
            data = data.replace(old, new)
        return data

    if not zipfile.is_zipfile(source):
        target.write_bytes(renamed(source.read_bytes()))
        return
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for member in old.infolist():
            data = old.read(member)
            new.writestr(member.filename, renamed(data) if member.filename.endswith("data.pkl") else data)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_are_taken_off(save: Save, state: State, prefix: str) -> None:
    _equal(save({f"{prefix}{name}": each for name, each in state.items()}), state)


def test_a_control_beside_its_base_is_found(save: Save, state: State) -> None:
    named = {f"controlnet.{name}": each for name, each in state.items()}
    _equal(save({**named, "unet.conv_in.weight": torch.ones(3), "step": torch.ones(1)}), state)


@pytest.mark.parametrize("prefix", ["module.", "adapter.", "model.adapter."])
def test_prefixes_of_an_adapter(adapter: T2IAdapter, save: Save, prefix: str) -> None:
    state = dict(adapter.state_dict())
    model: Any = load_control_model(save({f"{prefix}{name}": each for name, each in state.items()}))
    hint = torch.rand(1, 3, 64, 64)
    for one, other in zip(model.prepare(hint), adapter(hint), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cut", [0.0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("new", [True, False], ids=["archive", "old pickle"])
def test_a_cut_file_is_damaged(tmp_path: Path, state: State, cut: float, new: bool) -> None:
    path = tmp_path / "model.pth"
    torch.save(state, path, _use_new_zipfile_serialization=new)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * cut) + 2])
    for use in (inspect, load_control_model):
        with pytest.raises(DamagedModelError) as caught:
            use(path)
        assert str(caught.value).isprintable()


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path: Path, state: State) -> None:
    torch.save(state, tmp_path / "good.pth")
    with zipfile.ZipFile(tmp_path / "good.pth") as good, zipfile.ZipFile(tmp_path / "bad.pth", "w") as bad:
        for member in good.infolist():
            bad.writestr(member.filename, good.read(member), zipfile.ZIP_DEFLATED)
    with pytest.raises(DamagedModelError, match="compressed"):
        inspect(tmp_path / "bad.pth")


def test_a_tensor_that_shows_more_than_it_holds_is_refused(tmp_path: Path, state: State) -> None:
    torch.save({**state, "time_embed.0.weight": torch.ones(1).expand(10**6, 10**6)}, tmp_path / "model.pth")
    with pytest.raises(DamagedModelError, match=r"time_embed\.0\.weight"):
        inspect(tmp_path / "model.pth")


def test_the_same_bytes_many_times_are_refused(tmp_path: Path) -> None:
    block = torch.ones(10**5)
    torch.save({f"w.{k}": block for k in range(100)}, tmp_path / "model.pth")
    with pytest.raises(DamagedModelError, match="more than it holds"):
        inspect(tmp_path / "model.pth")


def test_tables_in_a_million_places_are_looked_at_once(tmp_path: Path) -> None:
    table: list[object] = [0] * 1000
    for _ in range(6):
        table = [table] * 1000
    torch.save({"a": table}, tmp_path / "model.pth")
    with pytest.raises(DamagedModelError, match="no table of tensors"):
        inspect(tmp_path / "model.pth")


@pytest.mark.parametrize("odd", ["sparse", "meta", "nothing", "numbers"])
def test_what_is_no_table_of_plain_tensors_is_refused(tmp_path: Path, odd: str) -> None:
    content = {
        "sparse": {"a.weight": torch.eye(3).to_sparse()},
        "meta": {"a.weight": torch.ones(3, device="meta")},
        "nothing": {},
        "numbers": [1, 2, 3],
    }
    torch.save(content[odd], tmp_path / "model.pth")
    with pytest.raises(DamagedModelError):
        inspect(tmp_path / "model.pth")


def test_other_archives_and_pickles_are_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(UnsupportedModelError, match="ZIP archive"):
        inspect(tmp_path / "model.pth")
    (tmp_path / "model.pth").write_bytes(pickle.dumps({"a": io.BytesIO()}, protocol=2))
    with pytest.raises(ModelError):
        inspect(tmp_path / "model.pth")


def test_a_fooocus_patch_is_named(tmp_path: Path) -> None:
    values = (torch.ones(3, dtype=torch.uint8), torch.ones(1), torch.ones(1))
    torch.save({"diffusion_model.input_blocks.0.0.weight": values}, tmp_path / "inpaint.fooocus.patch")
    with pytest.raises(UnsupportedModelError, match="Fooocus"):
        inspect(tmp_path / "inpaint.fooocus.patch")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_load_opens_the_file_once_and_reads_its_table_once(
    tmp_path: Path, save: Save, state: State, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = save(state)
    if suffix == ".pth":
        path = tmp_path / "model.pth"
        torch.save(state, path)
    opened: list[Path] = []
    loaded: list[object] = []
    real_open, real_load = Path.open, torch.serialization.load

    def count_open(self: Path, *args: Any, **options: Any) -> Any:
        opened.append(self)
        return real_open(self, *args, **options)

    def count_load(*args: Any, **options: Any) -> Any:
        loaded.append(args[0])
        return real_load(*args, **options)

    monkeypatch.setattr(Path, "open", count_open)
    monkeypatch.setattr(torch.serialization, "load", count_load)
    load_control_model(path, settings=HEADS)
    assert opened == [path]
    assert len(loaded) == (suffix == ".pth")


def test_tensors_outlive_their_file(save: Save, state: State) -> None:
    path = save(state)
    weights = _weights(path)
    path.unlink()
    assert all(each.equal(state[name]) for name, each in weights.items())
