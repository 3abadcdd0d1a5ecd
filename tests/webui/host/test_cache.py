"""Control models are loaded once for what they are used as, and the oldest leave when there is no room."""

from __future__ import annotations

from pathlib import Path
from threading import Event, Lock, Thread

import pytest
import torch
from controlstack.models.families.t2i_adapter import Adapter, AdapterConfig
from controlstack.scripts.webui.host.cache import ModelCache
from controlstack.scripts.webui.host.memory import GIB, network_of, size_of
from safetensors.torch import save_file

CONFIG = AdapterConfig(channels=(8, 16, 32, 32), inner=(8, 16, 32, 32), depth=1, kernel=1, hint_channels=3, xl=False)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.safetensors" for name in "abc"]
    for path in paths:
        save_file(Adapter(CONFIG).state_dict(), path)
    return paths


def get(cache: ModelCache, path: Path, dtype: torch.dtype = torch.float32) -> object:
    return cache.get(path, dtype, "base", dict)


def test_a_file_is_loaded_once_for_each_precision(files: list[Path]) -> None:
    cache = ModelCache(GIB)
    half, wide = get(cache, files[0], torch.bfloat16), get(cache, files[0])
    assert get(cache, files[0], torch.bfloat16) is half and get(cache, files[0]) is wide and len(cache) == 2
    for model, dtype in ((half, torch.bfloat16), (wide, torch.float32)):
        assert {each.dtype for each in network_of(model).parameters()} == {dtype}  # pyright: ignore[reportArgumentType]


def test_a_file_that_changed_is_loaded_again(files: list[Path]) -> None:
    cache = ModelCache(GIB)
    before = get(cache, files[0])
    save_file(Adapter(CONFIG).state_dict(), files[0])
    assert get(cache, files[0]) is not before


def test_the_oldest_leave_but_none_that_is_used(files: list[Path]) -> None:
    cache = ModelCache(0)
    first, second = (cache.get(path, torch.float32, "base", dict) for path in files[:2])
    cache.trim([first, second])
    assert len(cache) == 2
    cache.budget = 2 * size_of(network_of(first))
    assert get(cache, files[0]) is first  # used again, so the second is older now
    third = cache.get(files[2], torch.float32, "base", dict)
    cache.trim([third])
    assert len(cache) == 2 and get(cache, files[0]) is first and get(cache, files[1]) is not second


def test_a_load_waits_until_the_program_loads_nothing(files: list[Path]) -> None:
    lock, loaded = Lock(), Event()
    cache = ModelCache(GIB, lambda: lock)

    def load() -> None:
        get(cache, files[0])
        loaded.set()

    with lock:  # as while the WebUI loads its first checkpoint
        thread = Thread(target=load)
        thread.start()
        assert not len(cache)
    thread.join()
    assert loaded.is_set() and len(cache) == 1
    with lock:
        get(cache, files[0])  # what is there needs no load
