"""A real AUTOMATIC1111 WebUI for tests: found by its path, started on the CPU, driven through its public API."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webui_world
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).parent
FAMILY = ("FORGE", "REFORGE", "CLASSIC")  # programs with Forge's patcher
NEO = "NEO"  # Forge Neo, which has transformers too
START = 300  # seconds that a start may take
RUN = 120
READY = "Startup time"  # in the host's output
FLAGS = (
    "--skip-prepare-environment", "--skip-torch-cuda-test", "--skip-version-check", "--skip-python-version-check",
    "--use-cpu", "all", "--opt-sdp-attention", "--do-not-download-clip", "--no-download-sd-model",
    "--disable-console-progressbars", "--server-name", "127.0.0.1",
)  # fmt: skip
FULL = ("--no-half", "--precision", "full")

Picture = NDArray[np.uint8]
Unit = dict[str, Any]


class RequestError(Exception):
    """An answer that is no 200."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status}: {body}")
        self.status, self.body = status, body


@dataclass(frozen=True)
class Evaluation:
    """One call of the U-Net inside the host; tensors in fp32."""

    x: torch.Tensor
    time: torch.Tensor
    context: torch.Tensor
    out: torch.Tensor
    y: torch.Tensor | None
    hires: bool
    call: int  # of the denoiser, which may call the U-Net several times; counted over both passes
    counted: int  # the host's own counter of steps at that time, of how many
    steps: int
    cond: tuple[bool, ...]  # which rows are cond, by the prompts they were given
    control_rows: tuple[int, ...]  # that each block of our networks was given, in turn


@dataclass(frozen=True)
class Drawing:
    """What a request came to."""

    pictures: list[Picture]
    info: dict[str, Any]
    evaluations: list[Evaluation]
    samples: torch.Tensor | None


def find() -> Path | None:
    """The WebUI named by WEBUI_PATH."""
    named = os.environ.get("WEBUI_PATH")
    return Path(named) if named and (Path(named) / "launch.py").is_file() else None


def find_peer() -> Path | None:
    """sd-webui-controlnet, named by WEBUI_PEER_PATH."""
    named = os.environ.get("WEBUI_PEER_PATH")
    return Path(named) if named and (Path(named) / "internal_controlnet").is_dir() else None


def find_tiled() -> Path | None:
    """Tiled Diffusion (multidiffusion-upscaler-for-automatic1111), named by WEBUI_TILED_PATH."""
    named = os.environ.get("WEBUI_TILED_PATH")
    return Path(named) if named and (Path(named) / "tile_methods").is_dir() else None


def find_animatediff() -> Path | None:
    """AnimateDiff (sd-webui-animatediff), named by WEBUI_ANIMATEDIFF_PATH."""
    named = os.environ.get("WEBUI_ANIMATEDIFF_PATH")
    return Path(named) if named and (Path(named) / "motion_module.py").is_file() else None


def find_adetailer() -> Path | None:
    """ADetailer, named by WEBUI_ADETAILER_PATH."""
    named = os.environ.get("WEBUI_ADETAILER_PATH")
    return Path(named) if named and (Path(named) / "controlnet_ext").is_dir() else None


def find_ultimate() -> Path | None:
    """Ultimate SD upscale, named by WEBUI_ULTIMATE_PATH."""
    named = os.environ.get("WEBUI_ULTIMATE_PATH")
    return Path(named) if named and (Path(named) / "scripts" / "ultimate-upscale.py").is_file() else None


def find_regional() -> Path | None:
    """Regional Prompter (sd-webui-regional-prompter), named by WEBUI_REGIONAL_PATH."""
    named = os.environ.get("WEBUI_REGIONAL_PATH")
    return Path(named) if named and (Path(named) / "scripts" / "rp.py").is_file() else None


def find_forge(name: str = "FORGE") -> Path | None:
    """The program of Forge's family that FORGE_PATH, REFORGE_PATH or CLASSIC_PATH names."""
    named = os.environ.get(f"{name}_PATH")
    return Path(named) if named and (Path(named) / "modules_forge").is_dir() else None


def find_neo() -> Path | None:
    """Forge Neo, named by NEO_PATH."""
    named = os.environ.get(f"{NEO}_PATH")
    return Path(named) if named and (Path(named) / "backend" / "nn" / "anima.py").is_file() else None


def name_of(path: Path) -> str:
    """The program in a folder, as the variables for it begin."""
    return next((name for name in (*FAMILY, NEO) if os.environ.get(f"{name}_PATH") == str(path)), "WEBUI")


def python_of(path: Path) -> str:
    """WEBUI_PYTHON, FORGE_PYTHON and so on, or the environment inside the folder or beside it, or ours."""
    inside = (folder / "venv" / "bin" / "python" for folder in (path, path.parent))
    named = os.environ.get(f"{name_of(path)}_PYTHON")
    return named or next((str(each) for each in inside if each.exists()), sys.executable)


@dataclass
class Host:
    """A running WebUI. `base` holds its models, extensions and outputs."""

    base: Path
    port: int
    log: Path
    auth: str = ""
    forge: bool = False
    models: Path = Path()

    def draw(
        self, *units: Unit, route: str = "txt2img", record: bool = False,
        scripts: Mapping[str, list[Any]] | None = None, **settings: Any,
    ) -> Drawing:  # fmt: skip
        """A picture with these units; RequestError if the host refuses. scripts: arguments of others, by title."""
        body: dict[str, Any] = {
            "prompt": "a cat", "negative_prompt": "a dog", "steps": 3, "width": 64, "height": 64, "seed": 1,
            "sampler_name": "Euler a", "cfg_scale": 7, **settings,
        }  # fmt: skip
        body["alwayson_scripts"] = {title: {"args": args} for title, args in (scripts or {}).items()}
        if units:
            body["alwayson_scripts"]["ControlNet"] = {"args": list(units)}
        target = Path(self.post(f"test/set?record={str(record).lower()}")["file"]) if record else None
        answer = self.post(f"sdapi/v1/{route}", body)
        pictures = [decode(each) for each in answer["images"]]
        if target is None:
            return Drawing(pictures, json.loads(answer["info"]), [], None)
        self.post("test/set")
        return Drawing(pictures, json.loads(answer["info"]), *read_record(target))

    def count(self) -> dict[str, int]:
        """Hooks, callbacks, bytes of memory."""
        return self.get("test/count")

    def get(self, path: str) -> Any:
        return self._ask(urllib.request.Request(f"{self.address}/{path}"))

    def post(self, path: str, body: Any = None) -> Any:
        data = json.dumps(body).encode()
        return self._ask(urllib.request.Request(f"{self.address}/{path}", data, {"Content-Type": "application/json"}))

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _ask(self, request: urllib.request.Request) -> Any:
        if self.auth:
            request.add_header("Authorization", "Basic " + base64.b64encode(self.auth.encode()).decode())
        try:
            with urllib.request.urlopen(request, timeout=RUN) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise RequestError(error.code, error.read().decode()) from error


def encode(picture: Picture) -> str:
    """A picture as the API takes it."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def decode(text: str) -> Picture:
    """RGB [H, W, 3] of a picture as the API gives it."""
    return np.array(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"), np.uint8)


def make_world(path: Path, models: Path, *width: int) -> None:
    """Write the small checkpoint into a folder of models; width: of its U-Net, if not the usual one."""
    script, target = HERE / "webui_world.py", models / "Stable-diffusion"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [python_of(path), "-W", "ignore", str(script), str(path), str(target), *map(str, width)]
    subprocess.run(command, check=True, env=environment, capture_output=True)


@contextmanager
def started(
    path: Path, base: Path, models: Path, extensions: Sequence[Path] = (ROOT,), flags: Sequence[str] = (),
    page: bool = False, name: str = "ControlStack", packs: Sequence[str] = (), precision: Sequence[str] = FULL,
) -> Iterator[Host]:  # fmt: skip
    """Start the host with these extensions and the test pack as its only ones; stop it at the end.

    page: with its page, not only the API. name: of our folder. packs: further files with test code. precision: flags
    that say what it computes in.
    """
    _install(base, extensions, name, ("webui_test_pack.py", *packs))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [python_of(path), "-W", "ignore", "launch.py", *FLAGS, *precision, "--api", "--port", str(port)]
    command += [] if page else ["--nowebui"]
    first = models / "Stable-diffusion" / f"{webui_world.NAME}.safetensors"
    command += ["--data-dir", str(base), "--models-dir", str(models), "--ckpt", str(first), *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    environment["IGNORE_CMD_ARGS_ERRORS"] = "1"  # Forge does not know all of FLAGS
    log = base / "host.log"
    with log.open("w") as sink:
        process = subprocess.Popen(command, cwd=path, env=environment, stdout=sink, stderr=subprocess.STDOUT)
        try:
            host = Host(base, port, log, _first_password(flags), name_of(path) == "FORGE", models)
            _wait(host, process)
            yield host
        finally:
            process.terminate()
            process.wait(30)


def _first_password(flags: Sequence[str]) -> str:
    """user:password of `--api-auth`, which takes several after commas."""
    return flags[flags.index("--api-auth") + 1].split(",")[0] if "--api-auth" in flags else ""


def _install(base: Path, extensions: Sequence[Path], ours: str, packs: Sequence[str]) -> None:
    pack = base / "extensions" / "test-pack" / "scripts"
    pack.mkdir(parents=True)
    for each in packs:
        shutil.copy(HERE / "packs" / each, pack)
    for extension in extensions:
        name = ours if extension == ROOT else extension.name
        (base / "extensions" / name).symlink_to(extension, target_is_directory=True)


def _wait(host: Host, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the WebUI ended at its start:\n{host.log.read_text()[-3000:]}")
        try:
            if READY not in host.log.read_text():  # with its page, it cannot bear a request earlier
                raise ConnectionError
            host.get("sdapi/v1/options")  # answers once a checkpoint is loaded
        except (OSError, RequestError):
            time.sleep(0.5)
        else:
            return
    raise TimeoutError(f"the WebUI did not start in {START} s; see {host.log}")


def read_record(path: Path) -> tuple[list[Evaluation], torch.Tensor | None]:
    """What was written down inside a host, and its last latents; the file goes."""
    with safe_open(path, "pt") as file:
        said = json.loads(file.metadata()["evaluations"])
        names = set(file.keys())
        evaluations = [_evaluation(file, names, i, each) for i, each in enumerate(said)]
        samples = file.get_tensor("samples") if "samples" in names else None
    path.unlink()
    return evaluations, samples


def _evaluation(file: Any, names: set[str], number: int, said: dict[str, Any]) -> Evaluation:
    tensors = {
        name: file.get_tensor(f"{number}.{name}") if f"{number}.{name}" in names else None
        for name in ("x", "time", "context", "out", "y")
    }
    rows = {name: tuple(said[name]) for name in ("cond", "control_rows")}
    return Evaluation(**tensors, **{**said, **rows})
