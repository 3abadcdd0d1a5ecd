"""A headless Chromium for tests of real pages; without one they are skipped and say so."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
SHOTS = os.environ.get("CONTROLSTACK_SCREENSHOTS")  # where screenshots go; None: with the test's own files


@contextmanager
def page(width: int = 1600, height: int = 1000, flags: Sequence[str] = (), **context: Any) -> Iterator[Any]:
    """A fresh page of the system's Chromium; flags: more of its own; context: of the page, such as `locale`."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this system")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=[*FLAGS, *flags])
        try:
            yield browser.new_page(viewport={"width": width, "height": height}, **context)
        finally:
            browser.close()


def shoot(page: Any, folder: Path, name: str) -> None:
    """A screenshot beside the test's files, or where CONTROLSTACK_SCREENSHOTS says."""
    target = Path(SHOTS) if SHOTS else folder
    target.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(target / f"{name}.png"))
