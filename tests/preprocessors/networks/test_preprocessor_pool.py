"""Networks are loaded once, kept within a bound, and brought where the host's manager wants them."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from controlstack.core.errors import MissingDependencyError, PreprocessorError
from controlstack.preprocessors import Output, Parameter, Preprocessor
from controlstack.preprocessors.cache import ResultCache
from controlstack.preprocessors.networks.network import Network, WeightFile, get_packages, missing_packages
from controlstack.preprocessors.networks.pool import PlainManager, Pool
from controlstack.preprocessors.networks.store import Store
from controlstack.preprocessors.perform import Runtime
from torch import nn

LOADS: list[str] = []


def load(path: Path) -> nn.Module:
    """A network of 4 kB that multiplies."""
    LOADS.append(path.name)
    module = nn.Module()
    module.register_buffer("factor", torch.full((1024,), float(path.read_text())))
    return module


class Counting(PlainManager):
    """A host's manager that writes down what it is asked."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.log: list[str] = []

    def adopt(self, name: str, network: object, size: int) -> tuple[str, object]:
        self.log.append(f"adopt {name} {size}")
        return name, network

    @contextmanager
    def ready(self, handle: tuple[str, object]) -> Iterator[object]:
        self.log.append(f"ready {handle[0]}")
        yield handle[1]
        self.log.append(f"done {handle[0]}")

    def release(self, handle: tuple[str, object]) -> None:
        self.log.append(f"release {handle[0]}")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    LOADS.clear()
    for number in range(4):
        (tmp_path / f"{number}.txt").write_text(str(number))
    return Store(tmp_path)


def network(number: int, **changes: object) -> Network:
    file = WeightFile(name=f"{number}.txt", addresses=("https://example.org/x",), licence="MIT")
    return Network(id=f"net{number}", files=(file,), load=load, **changes)  # pyright: ignore[reportArgumentType]


def test_a_network_is_loaded_once(store: Store) -> None:
    pool = Pool(Counting())
    for _ in range(3):
        with pool.ready(network(1), store) as loaded:
            assert isinstance(loaded, nn.Module)
    assert LOADS == ["1.txt"]
    assert pool.manager.log == ["adopt net1 4096", *["ready net1", "done net1"] * 3]
    assert pool.bytes == 4096


def test_the_least_recently_used_goes_first(store: Store) -> None:
    pool = Pool(Counting(), capacity=2 * 4096)
    for number in (0, 1, 0, 2):
        with pool.ready(network(number), store):
            pass
    assert pool.names == ("net0", "net2")
    assert "release net1" in pool.manager.log
    pool.unload()
    assert pool.bytes == 0
    assert pool.manager.log[-2:] == ["release net0", "release net2"]


def test_what_is_in_use_stays(store: Store) -> None:
    pool = Pool(Counting(), capacity=4096)
    with pool.ready(network(0), store), pool.ready(network(1), store):
        pool.unload()
        assert pool.names == ("net0", "net1")
    assert pool.bytes <= 4096


def test_one_that_is_larger_than_the_pool_works_and_goes(store: Store) -> None:
    pool = Pool(Counting(), capacity=100)
    with pool.ready(network(0), store):
        assert pool.names == ("net0",)
    assert pool.names == ()


def test_a_replaced_file_is_loaded_anew(store: Store) -> None:
    pool = Pool(Counting())
    with pool.ready(network(1), store):
        pass
    (store.folder / "1.txt").write_text("1234")
    with pool.ready(network(1), store) as loaded:
        assert loaded.factor[0] == 1234
    assert LOADS == ["1.txt", "1.txt"]


def test_a_failure_inside_gives_the_network_back(store: Store) -> None:
    pool = Pool(Counting())
    with pytest.raises(ZeroDivisionError), pool.ready(network(1), store):
        raise ZeroDivisionError
    pool.unload()
    assert pool.names == ()


def test_threads_load_once(store: Store) -> None:
    pool = Pool(PlainManager("cpu"))

    def use() -> None:
        with pool.ready(network(1), store):
            pass

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert LOADS == ["1.txt"]


def test_the_plain_manager_moves_and_measures(store: Store) -> None:
    manager = PlainManager("meta")
    with manager.ready(nn.Linear(1, 1)) as moved:
        assert moved.weight.device.type == "meta"
    with manager.ready("a session") as same:
        assert same == "a session"
    assert PlainManager("cpu").free_memory() > 0
    assert PlainManager().device.type in ("cpu", "cuda", "mps")


def multiply(images: np.ndarray, module: nn.Module, plus: int) -> np.ndarray:
    CHUNKS.append(len(images))
    return (images * int(module.factor[0]) + plus).astype(np.uint8)


CHUNKS: list[int] = []


def times(number: int, **changes: object) -> Preprocessor:
    return Preprocessor(
        id="times", title="Times", doc="Multiplies.", run=multiply, output=Output.RGB, batchable=True,
        parameters=(Parameter(name="plus", label="Plus", default=0, minimum=0, maximum=9, step=1),),
        networks=(network(number, **changes),),
    )  # fmt: skip


def pictures(count: int) -> np.ndarray:
    return np.arange(count * 4 * 4 * 3, dtype=np.uint8).reshape(count, 4, 4, 3) // 4


def runtime(store: Store, **changes: object) -> Runtime:
    return Runtime(store=store, pool=Pool(PlainManager("cpu")), **changes)  # pyright: ignore[reportArgumentType]


def test_a_preprocessor_gets_its_network(store: Store) -> None:
    with_two = times(2)
    assert np.array_equal(with_two(pictures(3), runtime=runtime(store)), pictures(3) * 2)
    assert np.array_equal(with_two(pictures(3)[1], runtime=runtime(store)), pictures(3)[1] * 2)
    assert with_two.missing(runtime(store)) == ""


def test_chunks_follow_memory_and_report(store: Store) -> None:
    CHUNKS.clear()
    reports: list[tuple[int, int]] = []
    small = runtime(store, progress=lambda done, total: reports.append((done, total)))
    hungry = small.pool.manager.free_memory() // (2 * 16 * 2)  # bytes a pixel, so that two pictures of 16 fit
    hint = times(2, memory=hungry)(pictures(5), runtime=small)
    assert np.array_equal(hint, pictures(5) * 2)
    assert CHUNKS == [2, 2, 1]
    assert reports == [(2, 5), (4, 5), (5, 5)]


def test_an_interrupt_stops_between_chunks(store: Store) -> None:
    class Stopped(BaseException):
        pass

    CHUNKS.clear()
    calls = iter(range(9))

    def check() -> None:
        if next(calls) == 2:
            raise Stopped

    stopping = runtime(store, check_interrupt=check)
    with pytest.raises(Stopped):
        times(2, memory=2**40)(pictures(5), runtime=stopping)
    assert CHUNKS == [1]
    assert stopping.cache.bytes == 0
    stopping.pool.unload()
    assert stopping.pool.names == ()


def test_missing_weights_and_packages_are_said(tmp_path: Path) -> None:
    empty = runtime(Store(tmp_path))
    assert "2.txt" in times(2).missing(empty)
    with pytest.raises(PreprocessorError, match=r"the weights 2.txt \(no checksum known, .* are not there"):
        times(2)(pictures(1), runtime=empty)
    broken = times(2, packages=("no_such_package", "torch"))
    assert broken.missing(empty) == f"it needs no_such_package: {get_packages()}"
    with pytest.raises(MissingDependencyError, match=re.escape(get_packages())):
        broken(pictures(1), runtime=empty)
    assert missing_packages([network(1, packages=("no_such_package.sub",))]).startswith("it needs no_such_package.sub")


def test_hints_are_remembered_by_everything_that_matters(store: Store) -> None:
    CHUNKS.clear()
    shared = runtime(store)
    two, both = times(2), pictures(2)
    first = two(both, runtime=shared)
    assert np.array_equal(two(both, runtime=shared), first)
    assert np.array_equal(two(both[1], runtime=shared), first[1])
    assert CHUNKS == [2]
    two(both, runtime=shared, plus=1)
    two(both, runtime=shared, resolution=16)
    two(both.reshape(1, 8, 4, 3), runtime=shared)
    assert CHUNKS == [2, 2, 2, 1]
    mixed = np.stack([both[0], both[1] + 1, both[1] + 1])
    assert np.array_equal(two(mixed, runtime=shared), mixed * 2)
    assert CHUNKS[4:] == [1]  # one is known, two are equal


def test_other_weights_give_other_hints(store: Store) -> None:
    """Nobody publishes the digests of some files, so a file put in place of another must be seen by itself."""
    shared = runtime(store)
    before = times(2)(pictures(1), runtime=shared)
    (store.folder / "2.txt").write_text("3.0")
    after = times(2)(pictures(1), runtime=shared)
    assert np.array_equal(before, pictures(1) * 2)
    assert np.array_equal(after, pictures(1) * 3)


def test_remembered_hints_cannot_be_changed_from_outside(store: Store) -> None:
    shared, two = runtime(store), times(2)
    first = two(pictures(1), runtime=shared)
    expected = first.copy()
    first[:] = 7
    again = two(pictures(1), runtime=shared)
    again[:] = 9
    assert np.array_equal(two(pictures(1), runtime=shared), expected)


def test_the_cache_is_bounded(store: Store) -> None:
    shared = runtime(store, cache=ResultCache(capacity=100))  # two hints of 48 bytes
    for start in range(5):
        times(2)(pictures(1) + start, runtime=shared)
    assert shared.cache.bytes == 96
    CHUNKS.clear()
    times(2)(pictures(1) + 4, runtime=shared)
    assert CHUNKS == []
    times(2)(pictures(1), runtime=shared)
    assert CHUNKS == [1]
    shared.cache.clear()
    assert shared.cache.bytes == 0


def test_too_large_a_hint_and_no_cache_work(store: Store) -> None:
    for capacity in (0, 10):
        shared = runtime(store, cache=ResultCache(capacity=capacity))
        assert np.array_equal(times(2)(pictures(2), runtime=shared), pictures(2) * 2)
        assert shared.cache.bytes == 0
