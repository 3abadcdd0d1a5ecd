"""A real server with the shipped tiny world, and a real browser where there is one."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """  # the checkout as tests load it, then the command
import sys
sys.path.insert(0, sys.argv.pop(1))
import conftest
from controlstack.cli import main
sys.exit(main(sys.argv[1:]))
"""
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


class Served:
    """`controlstack serve` in a process of its own, as people run it."""

    def __init__(self, *words: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        program = [sys.executable, "-c", PROGRAM, str(ROOT / "tests"), "serve", "--port", str(port), *words]
        behind = {**os.environ, "HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}  # as in offices
        self.process = subprocess.Popen(
            program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=behind
        )
        assert self.process.stdout is not None
        self.said = [*takewhile(lambda line: "The page is at" not in line, iter(self.process.stdout.readline, ""))]
        self.lines: list[str] = []
        self._reader = Thread(target=lambda: self.lines.extend(self.process.stdout), daemon=True)
        self._reader.start()  # a full pipe would block the server
        assert self.process.poll() is None, "".join(self.said)

    def close(self) -> int:
        """End it as Ctrl-C does, and return its exit code."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(timeout=60)
        self._reader.join(timeout=60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    pytest.importorskip("gradio_client", reason='needs gradio: pip install "controlstack[page]"')
    found = Served()
    yield found
    found.close()


@pytest.fixture
def serve() -> type[Served]:
    return Served


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A browser; the tests of it are skipped where playwright or Chromium is not installed."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason='needs playwright: pip install "controlstack[browser]"'
    )
    path = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"needs one of {', '.join(CHROMIUM)} on the path")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
