"""The benchmark of starts: processes of their own are counted, and what they say comes back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def benchmark(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("start")


def test_the_work_of_a_process_is_counted(benchmark: ModuleType) -> None:
    idle = benchmark.run(sys.executable, "print(1)")
    busy = benchmark.run(sys.executable, "print(sum(range(10**7)))")
    assert (idle[0], busy[0]) == ("1\n", f"{sum(range(10**7))}\n")
    assert busy[1] > idle[1] > 0


def test_a_process_that_fails_ends_the_benchmark(benchmark: ModuleType) -> None:
    with pytest.raises(SystemExit, match="exit code 3"):
        benchmark.run(sys.executable, "import sys; sys.exit(3)")


def test_commands_are_ours(benchmark: ModuleType) -> None:
    from controlstack.cli import main

    for words in benchmark.COMMANDS.values():
        with pytest.raises(SystemExit) as ended:
            sys.exit(main(words))
        assert ended.value.code in (0, None)
