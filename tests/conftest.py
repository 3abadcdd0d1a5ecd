"""What all tests share: this very checkout under the name `controlstack`, and no network.

The folder of a checkout may have any name, and another copy may be installed in the same Python, so the package is
loaded by path unless the import system would find this folder anyway.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOCAL = ("127.0.0.1", "::1", "localhost")

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
# One thread for each test process, read when torch is imported: the networks are tiny, and on a busy machine threads
# wait for each other so long that a run takes twenty times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def load_checkout() -> None:
    """Make `import controlstack` mean the checkout that these tests belong to."""
    init = ROOT / "__init__.py"
    found = importlib.util.find_spec("controlstack")
    if found is not None and found.origin is not None and Path(found.origin).resolve() == init:
        return
    if "controlstack" in sys.modules:
        raise pytest.UsageError(f"another copy of controlstack is loaded already: {sys.modules['controlstack']}")
    spec = importlib.util.spec_from_file_location("controlstack", init)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["controlstack"] = module
    spec.loader.exec_module(module)


load_checkout()


def pytest_collection_finish() -> None:
    """Count what is there before the first test as no garbage: looking through it takes a tenth of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def interrupts() -> None:
    """Ctrl-C reaches the tests, and the programs that they start, also where a shell runs them in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches for the network fails, also on a machine that has one."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in {socket.AF_INET, socket.AF_INET6} and address[0] not in LOCAL:
            pytest.fail(f"a test tried to reach {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def times(request: pytest.FixtureRequest) -> int:
    """How often a campaign tries: the few of its `tries(few, many)` mark, or the many with `-m campaign`."""
    few, many = request.node.get_closest_marker("tries").args
    return int(many if "campaign" in request.config.option.markexpr else few)
