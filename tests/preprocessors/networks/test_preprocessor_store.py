"""Weights are found where programs put them, and downloads end with the right file or with none."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from controlstack.core.errors import PreprocessorError
from controlstack.preprocessors.networks import download as downloads
from controlstack.preprocessors.networks.network import Archive, Network, WeightFile
from controlstack.preprocessors.networks.store import Store, default_folder

ROOT = Path(__file__).resolve().parents[3]
CONTENT = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """A web server whose behaviour a test chooses; it remembers what was asked."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.status, self.ranges, self.break_after, self.redirect = 200, True, -1, ""
        self.pause, self.stalls, self.over = 0.0, False, threading.Event()
        self.lengths, self.version = True, ""
        self.asked: list[str] = []
        self.served = 0
        handler = type("Handler", (http.server.BaseHTTPRequestHandler,), {"do_GET": self._get, "log_message": _quiet})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def _get(self) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
        return lambda handler: self._answer(handler)  # noqa: PLW0108  (a bound method would not get the handler)

    def _answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range", "")
        self.asked.append(asked)
        if self.redirect:
            handler.send_response(302)
            handler.send_header("Location", self.redirect)
            handler.end_headers()
            return
        same = handler.headers.get("If-Range", self.version) == self.version
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.ranges and same else 0
        if self.status != 200 or start >= len(self.content):
            handler.send_error(self.status if self.status != 200 else 416)
            return
        body = self.content[start:]
        handler.send_response(206 if start else 200)
        if self.lengths:
            handler.send_header("Content-Length", str(len(body)))
        if self.version:
            handler.send_header("ETag", self.version)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        handler.end_headers()
        if self.break_after >= 0:
            body = body[: self.break_after]
        for place in range(0, len(body), 2**17):
            try:
                handler.wfile.write(body[place : place + 2**17])
                handler.wfile.flush()
            except OSError:  # the other side was killed
                return
            self.served += len(body[place : place + 2**17])
            if self.stalls:
                self.over.wait()  # in the middle of the file, until the test ends
            time.sleep(self.pause)


def _quiet(*_: object) -> None:
    return None


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.setattr(downloads, "PAUSE", 0.01)
    served = Server()
    yield served
    served.close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "own")


def wanted(server: Server | None, **changes: object) -> WeightFile:
    values = {
        "name": "edges/net.pth",
        "addresses": (f"{server.address}/net.pth" if server else "https://example.org/net.pth",),
        "licence": "MIT",
        "bytes": len(CONTENT),
        "sha256": DIGEST,
        **changes,
    }
    return WeightFile(**values)  # pyright: ignore[reportArgumentType]


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_a_missing_file_is_described_exactly(store: Store) -> None:
    file = wanted(None)
    assert store.find(file) is None
    assert store.missing([Network(id="n", files=(file, file), load=str)]) == (file,)
    with pytest.raises(PreprocessorError) as caught:
        store.locate(file)
    for part in ("net.pth", "1,048,576 bytes", DIGEST, "https://example.org", str(store.folder / "edges"), "MIT"):
        assert part in str(caught.value)
    assert not store.folder.exists()


def test_what_cannot_be_verified_is_said(store: Store) -> None:
    assert "cannot be verified" in store.how_to_get(wanted(None, sha256=""))
    assert "cannot be verified" not in store.how_to_get(wanted(None))


@pytest.mark.parametrize("place", ["edges/net.pth", "net.pth", "deep/down/other.pth"])
def test_the_folders_of_others_are_read_and_left_alone(tmp_path: Path, place: str) -> None:
    path = tmp_path / "peer" / place
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    store = Store(tmp_path / "own", [tmp_path / "none", tmp_path / "peer"])
    file = wanted(None, found_as=("deep/down/other.pth",))
    assert store.locate(file) == path
    assert files(tmp_path / "peer") == {path.name}
    assert store.missing([Network(id="n", files=(file,), load=str)]) == ()


def test_the_own_folder_comes_first_and_safetensors_before_all(tmp_path: Path) -> None:
    store = Store(tmp_path / "own", [tmp_path / "peer"])
    for folder in ("own/edges", "peer"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "net.pth").write_bytes(CONTENT)
    assert store.locate(wanted(None)) == tmp_path / "own/edges/net.pth"
    converted = tmp_path / "own/edges/net.safetensors"
    converted.write_bytes(b"of another size, and with another digest")
    assert store.locate(wanted(None)) == converted


def test_the_cache_of_the_hub_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    path = tmp_path / "hf/hub/models--somebody--weights/snapshots/abc/sub/net.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    address = "https://huggingface.co/somebody/weights/resolve/main/sub/net.pth"
    assert Store(tmp_path / "own").locate(wanted(None, addresses=(address,))) == path


def test_a_file_of_another_size_is_no_find(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "edges").mkdir()
    (tmp_path / "edges/net.pth").write_bytes(CONTENT[:-1])
    with pytest.raises(PreprocessorError, match=r"edges/net.pth is incomplete or another file"):
        store.locate(wanted(None))


def test_a_file_with_another_digest_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "edges").mkdir()
    (tmp_path / "edges/net.pth").write_bytes(b"x" * len(CONTENT))
    with pytest.raises(PreprocessorError, match="is not the file it should be: its sha256 is"):
        store.locate(wanted(None))
    assert (tmp_path / "edges/net.pth").stat().st_size == len(CONTENT)


def test_a_file_is_read_in_full_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "edges").mkdir()
    path = tmp_path / "edges/net.pth"
    path.write_bytes(CONTENT)
    assert Store(tmp_path).locate(wanted(None)) == path
    reads: list[str] = []
    original = hashlib.sha256
    monkeypatch.setattr(hashlib, "sha256", lambda *given: reads.append("read") or original(*given))
    assert Store(tmp_path).locate(wanted(None)) == path  # another process remembers too
    assert reads == []
    os.utime(path, ns=(1, 1))
    Store(tmp_path).locate(wanted(None))
    assert reads == ["read"]
    (tmp_path / "verified.json").write_text("{ damaged")
    assert Store(tmp_path).locate(wanted(None)) == path


def test_a_download_arrives_complete(server: Server, store: Store) -> None:
    reports: list[tuple[int, int | None]] = []
    path = store.fetch(wanted(server), lambda done, total: reports.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert files(store.folder) == {"net.pth", "verified.json"}
    assert reports[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    assert store.fetch(wanted(server)) == path
    assert len(server.asked) == 1


def test_nothing_is_downloaded_unasked(server: Server, tmp_path: Path) -> None:
    with pytest.raises(PreprocessorError):
        Store(tmp_path).locate(wanted(server))
    assert server.asked == []
    assert Store(tmp_path, automatic=True).locate(wanted(server)).read_bytes() == CONTENT


def test_a_download_that_was_not_asked_for_in_so_many_words_tells_and_stops(server: Server, tmp_path: Path) -> None:
    """What a host does when a preprocessor is first run: its bar moves, and its Cancel button works."""
    reports: list[int] = []

    def cancelled() -> None:
        if reports and reports[-1] > len(CONTENT) // 2:
            raise KeyboardInterrupt

    store = Store(
        tmp_path,
        automatic=True,
        progress=lambda done, _total: reports.append(done),
        check_interrupt=cancelled,
    )
    with pytest.raises(KeyboardInterrupt):
        store.locate(wanted(server))
    assert len(CONTENT) // 2 < reports[-1] < len(CONTENT)
    assert store.find(wanted(server)) is None
    assert files(store.folder) <= {"net.pth.part", "net.pth.lock"}


def test_what_arrived_is_not_fetched_again(server: Server, store: Store) -> None:
    part = store.folder / "edges" / "net.pth.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:700_000])
    assert store.fetch(wanted(server)).read_bytes() == CONTENT
    assert server.asked == ["bytes=700000-"]
    assert server.served == len(CONTENT) - 700_000


def test_a_server_without_ranges_begins_again(server: Server, store: Store) -> None:
    server.ranges = False
    part = store.folder / "edges" / "net.pth.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"?" * 700_000)
    assert store.fetch(wanted(server)).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("before", "after", "asked"),
    [
        ('"one"', '"one"', ["", "bytes=10-"]),  # the same version goes on
        ('"one"', '"two"', ["", "bytes=10-"]),  # another one begins again, in the same answer
        ("", "", ["", ""]),  # nobody can tell
        ('W/"one"', 'W/"one"', ["", ""]),  # "much the same" is not enough
    ],
)
def test_versions_of_a_file_without_a_digest_are_not_joined(
    server: Server, store: Store, monkeypatch: pytest.MonkeyPatch, before: str, after: str, asked: list[str]
) -> None:
    file = wanted(server, bytes=None, sha256="")
    monkeypatch.setattr(downloads, "ATTEMPTS", 1)
    other = bytes(each ^ 1 for each in CONTENT)
    server.version, server.break_after = before, 10
    server.content = CONTENT if before == after else other
    with pytest.raises(PreprocessorError, match="the connection broke after 10"):
        store.fetch(file)
    server.version, server.break_after, server.content = after, -1, CONTENT
    assert store.fetch(file).read_bytes() == CONTENT
    assert files(store.folder) <= {"net.pth", "verified.json"}
    assert server.asked == asked


def test_a_stale_beginning_is_thrown_away(server: Server, store: Store) -> None:
    part = store.folder / "edges" / "net.pth.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"?" * 700_000)
    assert store.fetch(wanted(server)).read_bytes() == CONTENT
    assert server.asked == ["bytes=700000-", ""]


@pytest.mark.parametrize("length", [len(CONTENT), len(CONTENT) + 5])
@pytest.mark.parametrize("known", [True, False])
def test_a_part_that_is_complete_or_longer(server: Server, store: Store, length: int, known: bool) -> None:
    part = store.folder / "edges" / "net.pth.part"
    part.parent.mkdir(parents=True)
    part.write_bytes((CONTENT + b"12345")[:length])
    assert store.fetch(wanted(server, bytes=len(CONTENT) if known else None)).read_bytes() == CONTENT


def test_a_connection_that_breaks_is_taken_up_again(server: Server, store: Store) -> None:
    server.break_after = 400_000
    assert store.fetch(wanted(server)).read_bytes() == CONTENT
    assert server.asked == ["", "bytes=400000-", "bytes=800000-"]


def test_a_server_that_truncates_for_ever_leaves_no_file(server: Server, store: Store) -> None:
    server.break_after = 10
    with pytest.raises(PreprocessorError, match=r"net.pth could not be downloaded.*the connection broke after 40"):
        store.fetch(wanted(server))
    assert files(store.folder) == {"net.pth.part"}
    assert store.find(wanted(server)) is None


def test_a_server_that_falls_silent_leaves_no_file(
    server: Server, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "TIMEOUT", 0.2)
    monkeypatch.setattr(downloads, "ATTEMPTS", 2)
    server.stalls = True
    with pytest.raises(PreprocessorError, match=r"net.pth could not be downloaded.*the connection broke after"):
        store.fetch(wanted(server))
    assert len(server.asked) == 2 and files(store.folder) == {"net.pth.part"}


@pytest.mark.parametrize("other", [b"x" * len(CONTENT), CONTENT[:-1], CONTENT + b"1", b"<html>log in</html>"])
def test_other_bytes_never_become_the_file(server: Server, store: Store, other: bytes) -> None:
    server.content = other
    with pytest.raises(PreprocessorError, match=r"another file is served|bytes there, expected"):
        store.fetch(wanted(server))
    assert files(store.folder) == set()


@pytest.mark.parametrize("known", ["size", "digest", "nothing"])
def test_a_server_that_does_not_say_how_much_it_sends(server: Server, store: Store, known: str) -> None:
    """Such an answer ends where the connection does, and that is also how it breaks."""
    server.lengths = False
    file = wanted(server, bytes=len(CONTENT) if known == "size" else None, sha256=DIGEST if known == "digest" else "")
    if known == "nothing":
        with pytest.raises(PreprocessorError, match="nobody says how long it is"):
            store.fetch(file)
        assert files(store.folder) == set()
    else:
        assert store.fetch(file).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [403, 404, 503])
def test_a_server_that_fails_is_quoted(server: Server, store: Store, status: int) -> None:
    server.status = status
    with pytest.raises(PreprocessorError, match=re.escape(f"the server answers {status}")):
        store.fetch(wanted(server))
    assert files(store.folder) == set()
    assert len(server.asked) == (downloads.ATTEMPTS if status == 503 else 1)


def test_a_circle_of_redirects_ends(server: Server, store: Store) -> None:
    server.redirect = f"{server.address}/net.pth"
    with pytest.raises(PreprocessorError, match="would lead to an infinite loop"):
        store.fetch(wanted(server))
    assert files(store.folder) == set()


def test_the_next_address_helps(server: Server, store: Store) -> None:
    addresses = ("http://127.0.0.1:1/net.pth", "ftp://example.org/x", f"{server.address}/net.pth")
    assert store.fetch(wanted(server, addresses=addresses)).read_bytes() == CONTENT


def test_a_mirror_of_the_hub_is_asked(server: Server, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.address + "/")
    address = "https://huggingface.co/somebody/weights/resolve/main/net.pth"
    assert store.fetch(wanted(server, addresses=(address,))).read_bytes() == CONTENT


def test_a_full_disk_is_said_before_and_during(server: Server, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PreprocessorError, match=r"needs 1,000,000,000,000,000 bytes, but .* has only"):
        store.fetch(wanted(server, bytes=10**15))

    def full(_file: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(downloads, "_to_disk", full)
    with pytest.raises(PreprocessorError, match=r"cannot write .*net.pth: No space left on device"):
        store.fetch(wanted(server))
    assert store.find(wanted(server)) is None


def test_what_arrived_needs_no_more_room(server: Server, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    part = store.folder / "edges" / "net.pth.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:700_000])
    rest = len(CONTENT) - 700_000
    for free in (rest - 1, rest):
        monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        if free < rest:
            with pytest.raises(PreprocessorError, match=rf"needs {rest:,} bytes, but .* has only {free:,} left"):
                store.fetch(wanted(server))
    assert store.fetch(wanted(server)).read_bytes() == CONTENT


def test_an_interrupt_leaves_only_what_can_be_resumed(server: Server, store: Store) -> None:
    class Stopped(BaseException):
        pass

    calls = iter(range(100))

    def check() -> None:
        if next(calls) == 2:
            raise Stopped

    with pytest.raises(Stopped):
        store.fetch(wanted(server), check_interrupt=check)
    assert files(store.folder) == {"net.pth.part"}
    assert store.fetch(wanted(server)).read_bytes() == CONTENT


def zipped(entries: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return stream.getvalue()


GOOD = zipped({"a/b/net.pth": CONTENT, "a/detail.json": b"{}"})


def packed(server: Server, **changes: object) -> WeightFile:
    archive = {"member": "net.pth", "bytes": len(GOOD), "sha256": hashlib.sha256(GOOD).hexdigest(), **changes}
    return wanted(server, archive=Archive(**archive))  # pyright: ignore[reportArgumentType]


def test_a_file_is_taken_out_of_an_archive(server: Server, store: Store) -> None:
    server.content, file = GOOD, packed(server)
    path = store.fetch(file)
    assert path == store.folder / "edges" / "net.pth"
    assert path.read_bytes() == CONTENT
    assert files(store.folder) == {"net.pth", "verified.json"}
    assert Store(store.folder).locate(file) == path
    with pytest.raises(PreprocessorError, match=r"put the net.pth in it at .*edges/net.pth"):
        Store(store.folder.parent / "other").locate(file)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (GOOD[:-1], r"bytes there, expected"),
        (zipped({"a/b/net.pth": CONTENT[:-1]}), "its net.pth has 1,048,575 bytes, expected 1,048,576"),
        (zipped({"a/b/net.pth": CONTENT[:-1] + b"?"}), "its net.pth is another file"),
        (zipped({"a/other.pth": CONTENT}), "it holds 0 files net.pth, expected one"),
        (zipped({"a/net.pth": CONTENT, "b/net.pth": CONTENT}), "it holds 2 files net.pth, expected one"),
        (b"x" * len(GOOD), "it is no archive that can be read"),
        (GOOD[:300] + bytes(100) + GOOD[400:], "it is no archive that can be read"),
    ],
)
def test_another_archive_never_becomes_the_file(server: Server, store: Store, content: bytes, words: str) -> None:
    """The last ones have the digest that is expected: somebody wrote down that of a bad archive."""
    server.content = content
    known = {} if len(content) < len(GOOD) and "bytes there" in words else {"bytes": None, "sha256": ""}
    with pytest.raises(PreprocessorError, match=words):
        store.fetch(packed(server, **known))
    assert files(store.folder) == set()


def test_an_archive_that_is_interrupted_goes_on(server: Server, store: Store) -> None:
    server.content, file = GOOD, packed(server)

    def check() -> None:
        if (store.folder / "edges" / "net.pth.unpacked").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.fetch(file, check_interrupt=check)
    assert files(store.folder) == {"net.pth.part"}
    assert store.find(file) is None
    assert store.fetch(file).read_bytes() == CONTENT
    assert len(server.asked) == 1


SCRIPT = f"""
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("controlstack", {str(ROOT / "__init__.py")!r})
sys.modules["controlstack"] = importlib.util.module_from_spec(spec)
from controlstack.preprocessors.networks.download import download
download([sys.argv[1]], Path(sys.argv[2]), {len(CONTENT)}, {DIGEST!r})
"""


def start(server: Server, target: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, f"{server.address}/net.pth", str(target)])


def test_a_process_that_is_killed_leaves_no_wrong_file(server: Server, store: Store) -> None:
    server.pause = 0.2
    target = store.folder / "edges" / "net.pth"
    process = start(server, target)
    while server.served < 400_000:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not target.exists()
    server.pause = 0.0
    assert store.fetch(wanted(server)).read_bytes() == CONTENT


def test_two_processes_fetch_once(server: Server, store: Store) -> None:
    server.pause = 0.05
    target = store.folder / "edges" / "net.pth"
    both = [start(server, target) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert target.read_bytes() == CONTENT
    assert server.served == len(CONTENT)


def test_the_record_is_json_of_paths(server: Server, store: Store) -> None:
    path = store.fetch(wanted(server))
    record = json.loads((store.folder / "verified.json").read_text())
    assert record[str(path)][0] == len(CONTENT)
    assert record[str(path)][2] == DIGEST


def test_the_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CONTROLSTACK_MODELS", str(tmp_path))
    assert default_folder() == tmp_path / "preprocessors"
    monkeypatch.delenv("CONTROLSTACK_MODELS")
    assert default_folder().is_relative_to(Path.home())
