"""A real ComfyUI for tests: found by its path, started once on the CPU, driven through its public HTTP interface."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).parent
PACKS = [
    HERE / "packs" / name
    for name in (
        *("comfyui_test_pack.py", "comfyui_world_pack.py", "comfyui_estimators_pack.py"),
        *("comfyui_effects_pack.py", "comfyui_transformers_pack.py", "comfyui_record_pack.py"),
    )
]
MEMORY_PACK = HERE / "packs" / "comfyui_memory_pack.py"
USUAL = (Path.home() / "ComfyUI", Path.home() / "comfy" / "ComfyUI")  # of git clone, of comfy-cli
START = 300  # seconds that a first start may take
RUN = 300

Node = dict[str, Any]
Link = list[Any]


class RunError(Exception):
    """A prompt that the host refused or failed on; the message is what a user sees."""


def find() -> Path | None:
    """The ComfyUI named by COMFYUI_PATH, or one where its installers put it."""
    named = os.environ.get("COMFYUI_PATH")
    places = (Path(named),) if named else USUAL
    return next((place for place in places if (place / "main.py").is_file()), None)


def python_of(path: Path) -> str:
    """COMFYUI_PYTHON, or the environment inside the host's folder, or ours."""
    inside = (path / name / "bin" / "python" for name in (".venv", "venv"))
    return os.environ.get("COMFYUI_PYTHON") or next((str(each) for each in inside if each.exists()), sys.executable)


@dataclass(slots=True)
class Graph:
    """A prompt under construction; `add` returns the link to a node's first output."""

    nodes: dict[str, Node] = field(default_factory=dict)

    def add(self, kind: str, /, **inputs: Any) -> Link:
        name = str(len(self.nodes) + 1)
        self.nodes[name] = {"class_type": kind, "inputs": inputs}
        return [name, 0]


def output(link: Link, index: int) -> Link:
    """Another output of the same node."""
    return [link[0], index]


@dataclass(slots=True)
class Host:
    """A running ComfyUI. `base` holds its models, inputs and outputs."""

    base: Path
    port: int
    log: Path
    pid: int

    def memory(self) -> int:
        """Bytes of resident memory."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))

    def seconds(self) -> float:
        """CPU time that it has used; other programs on the machine do not count."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def run(self, graph: Graph | Mapping[str, Node], timeout: float = RUN, client: str | None = None) -> dict[str, Any]:
        """Queue a prompt and wait; returns its history entry. RunError holds what the user would see.

        client: whose prompt it is; None is nobody who listens.
        """
        nodes = graph.nodes if isinstance(graph, Graph) else graph
        prompt = self._post("prompt", {"prompt": nodes, "client_id": client or uuid.uuid4().hex})["prompt_id"]
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            entry = self.get(f"history/{prompt}").get(prompt)
            if entry is not None and entry["status"]["completed"]:
                return entry
            if entry is not None and entry["status"]["status_str"] == "error":
                raise RunError(_reason(entry))
            time.sleep(0.02)
        raise TimeoutError(f"no result in {timeout} s; see {self.log}")

    def interrupt(self) -> None:
        """What the Cancel button does."""
        self._post("interrupt", {})

    def latent(self, graph: Graph, samples: Link) -> torch.Tensor:
        """Run, and return these latents in fp32."""
        saver = graph.add("SaveLatent", samples=samples, filename_prefix=f"t{uuid.uuid4().hex}")
        entry = self.run(graph)
        saved = entry["outputs"][saver[0]]["latents"][0]
        return load_file(self.base / "output" / saved.get("subfolder", "") / saved["filename"])["latent_tensor"]

    def get(self, path: str) -> Any:
        return self._ask(urllib.request.Request(f"{self.address}/{path}"))

    def knows(self, path: str) -> bool:
        """Whether this host answers there."""
        try:
            self.get(path)
        except RunError:
            return False
        return True

    def has(self, kind: str) -> bool:
        """Whether this host knows a node."""
        return bool(self.get(f"object_info/{kind}"))

    def defaults(self, kind: str) -> dict[str, Any]:
        """What a node's required widgets show at first; newer hosts have more of them."""
        given = self.get(f"object_info/{kind}")[kind]["input"]["required"]
        return {
            name: options[0]["default"] for name, (_, *options) in given.items() if options and "default" in options[0]
        }

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _post(self, path: str, body: Any) -> Any:
        data = json.dumps(body).encode()
        return self._ask(urllib.request.Request(f"{self.address}/{path}", data, {"Content-Type": "application/json"}))

    def _ask(self, request: urllib.request.Request) -> Any:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise RunError(error.read().decode()) from error


@contextmanager
def started(
    path: Path, base: Path, flags: Sequence[str] = (), peers: Sequence[Path] = (), vram_state: str | None = None
) -> Iterator[Host]:
    """Start the host with our folder, the test packs and `peers` as its only custom nodes; stop it at the end.

    vram_state: of the host's names, as if the CPU were an accelerator with little memory.
    """
    packs = base / "custom_nodes"
    for folder in ("custom_nodes", "input", "output", "temp", "user", "models/controlnet"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    (packs / "ControlStack").symlink_to(ROOT, target_is_directory=True)
    for peer in peers:
        (packs / peer.name).symlink_to(peer, target_is_directory=True)
    for pack in PACKS if vram_state is None else (*PACKS, MEMORY_PACK):
        shutil.copy(pack, packs)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [python_of(path), "main.py", "--cpu", "--port", str(port), "--base-directory", str(base)]
    command += ["--disable-auto-launch", "--disable-api-nodes", "--use-pytorch-cross-attention", *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TEST_VRAM_STATE": vram_state or ""}
    log = base / "host.log"
    with log.open("w") as sink:
        process = subprocess.Popen(command, cwd=path, env=environment, stdout=sink, stderr=subprocess.STDOUT)
        try:
            host = Host(base, port, log, process.pid)
            _wait(host, process)
            yield host
        finally:
            process.terminate()
            process.wait(30)


def _wait(host: Host, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"ComfyUI ended at its start:\n{host.log.read_text()[-3000:]}")
        try:
            host.get("system_stats")
        except (OSError, RunError):
            time.sleep(0.5)
        else:
            return
    raise TimeoutError(f"ComfyUI did not start in {START} s; see {host.log}")


def _reason(entry: Mapping[str, Any]) -> str:
    """The message of the node that failed."""
    for name, data in entry["status"]["messages"]:
        if name == "execution_error":
            return f"{data['node_type']}: {data['exception_message']} [{data['exception_type']}]"
        if name == "execution_interrupted":
            return f"{data['node_type']}: interrupted"
    return str(entry["status"])
