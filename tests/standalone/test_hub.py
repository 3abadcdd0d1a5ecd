"""Models by name: which files are wanted, and a local server for the hub that truncates, loops, stalls and lies."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from controlstack.cli import main
from controlstack.core.errors import ControlError, FileError, HostError
from controlstack.pipelines.tiny_world import BASE
from controlstack.preprocessors.networks import download as downloads
from controlstack.standalone.hub.catalogue import CATALOGUE
from controlstack.standalone.hub.fetching import choose_files, fetch_model, list_files
from controlstack.standalone.hub.places import find_model, is_name, located
from controlstack.standalone.progress import download_bar

TINY = "someone/tiny"
HOW = ("truncates", "lies", "loops", "stalls", "is no list", "is not there", "names a file outside")


class Hub:
    """A hub with one repository, whose bad behaviour a test chooses."""

    def __init__(self, content: dict[str, bytes]) -> None:
        self.content, self.wrong = content, ""
        self.asked: list[str] = []
        self.over = threading.Event()
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self)

            def log_message(self, *_: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def answer(self, handler: Any) -> None:
        self.asked.append(handler.path)
        if self.wrong == "is not there":
            handler.send_error(404)
            return
        body = self.listing() if handler.path.startswith("/api/") else self.file(handler)
        if body is None:
            return
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(
            body[: len(body) // 2] if self.wrong == "truncates" and "/api/" not in handler.path else body
        )

    def listing(self) -> bytes:
        if self.wrong == "is no list":
            return b"<html>"
        names = {**self.content, "../outside.bin": b"x"} if self.wrong == "names a file outside" else self.content
        return json.dumps(
            {
                "siblings": [
                    {"rfilename": name, "size": len(data), "lfs": {"sha256": hashlib.sha256(data).hexdigest()}}
                    for name, data in names.items()
                ]
            }
        ).encode()

    def file(self, handler: Any) -> bytes | None:
        data = self.content[handler.path.partition("/resolve/main/")[2]]
        if self.wrong == "loops":
            handler.send_response(302)
            handler.send_header("Location", handler.path)
            handler.end_headers()
            return None
        if self.wrong == "stalls":
            self.over.wait()
            return None
        return bytes(len(data)) if self.wrong == "lies" else data


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    content = {each.relative_to(BASE).as_posix(): each.read_bytes() for each in BASE.rglob("*") if each.is_file()}
    served = Hub(content)
    monkeypatch.setenv("HF_ENDPOINT", served.address)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("CONTROLSTACK_MODELS", str(tmp_path / "models"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setattr(downloads, "PAUSE", 0.01)
    monkeypatch.setattr(downloads, "TIMEOUT", 0.2)
    yield served
    served.close()


def test_a_model_of_the_hub_becomes_a_base(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", "--base", TINY, "--steps", "1", "--width", "64", "--height", "64", "--seed", "0"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 2
    assert f"run 'controlstack get {TINY}'" in capsys.readouterr().err
    assert hub.asked == []  # nothing is fetched unasked
    assert main(["get", TINY]) == 0
    asked = len(hub.asked)
    assert main([*words, "--output", str(tmp_path / "out")]) == 0
    assert main(["get", TINY]) == 0
    assert len(hub.asked) == asked  # what is here is not asked for again
    folder = find_model(TINY)
    assert folder is not None and (folder / "unet" / "config.json").read_bytes() == hub.content["unet/config.json"]


@pytest.mark.parametrize("wrong", HOW)
def test_a_hub_that_misbehaves_leaves_no_wrong_file(hub: Hub, tmp_path: Path, wrong: str) -> None:
    hub.wrong = wrong
    if wrong == "names a file outside":
        assert "../outside.bin" not in {each.name for each in list_files(TINY)}
    else:
        with pytest.raises(ControlError) as caught:
            fetch_model(TINY, download_bar)
        assert "\n" not in str(caught.value)
        assert find_model(TINY) is None
        whole = [
            each
            for each in (tmp_path / "models").rglob("*")
            if each.is_file() and each.suffix in (".json", ".safetensors")
        ]
        assert whole == []
        hub.wrong = ""
    assert fetch_model(TINY, download_bar) == find_model(TINY)
    assert not (tmp_path / "outside.bin").exists()


def test_a_hub_that_cannot_be_reached_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HostError, match="cannot be reached"):
        list_files(TINY)


def test_the_cache_of_the_hub_is_read(hub: Hub, tmp_path: Path) -> None:
    snapshot = tmp_path / "hf" / "hub" / "models--someone--tiny" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    assert find_model(TINY) is None
    (snapshot / "model_index.json").write_text("{}")
    assert located(Path(TINY), "checkpoint") == snapshot
    assert hub.asked == []


def test_paths_come_before_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sd15").mkdir()
    monkeypatch.chdir(tmp_path)
    assert located(Path("sd15"), "checkpoint") == Path("sd15")
    for wrong in ("nowhere", "a/b/c", "../x", "x/..", "/x/y"):
        assert not is_name(wrong)
        with pytest.raises(FileError, match="check the path"):
            located(Path(wrong), "checkpoint")


def test_the_catalogue_has_each_name_once_and_every_licence() -> None:
    names = [each.name for each in CATALOGUE]
    assert len(set(names)) == len(names)
    assert all(each.licence and each.size and is_name(each.repository) for each in CATALOGUE)
    assert not any("/" in name for name in names)


def test_get_lists_what_has_a_name(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["get", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(f"{each.name} " in out for each in CATALOGUE) and "[not here]" in out
    assert main(["get", "nothing-of-the-kind"]) == 2
    assert "controlstack get --list" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ["model_index.json", "v1-5.ckpt", "unet/config.json", "unet/diffusion_pytorch_model.safetensors",
             "unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.non_ema.bin", "README.md"],
            ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"],
        ),
        (["config.json", "model.fp16.safetensors", "model.bin"], ["config.json", "model.fp16.safetensors"]),
        (["config.json", "diffusion_pytorch_model.bin"], ["config.json", "diffusion_pytorch_model.bin"]),
        (
            ["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors", "m.safetensors.index.json"],
            ["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors", "m.safetensors.index.json"],
        ),
        (["README.md"], []),
    ],
)  # fmt: skip
def test_of_several_forms_one_is_taken(names: list[str], expected: list[str]) -> None:
    assert choose_files(names) == expected
