"""What preprocessors cost: processor time of one thread per picture, beside cv2 and controlnet-aux where installed.

    python benchmarks/preprocessors.py [--json FILE] [--sizes 512 1024 2048] [--batches 1 8] [--networks]

Programs take turns, call by call, so that whatever else the machine does hits all alike; the table shows medians of
processor time. Networks (`--networks`) have random weights of the true shapes: the cost is right, the picture is not.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
ALIAS = "controlnet_aux_without_init"  # the package's own start fails beside a recent mediapipe
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # what numpy's libraries read
ROUNDS, LEAST = 7, 0.05  # calls of each program, and seconds of processor time below which more are made
PLAIN = (
    "canny", "lineart_standard", "shuffle", "scribble_xdog", "pyracanny", "threshold", "binary", "color_grid",
    "recolor_luminance", "recolor_intensity", "tile_resample", "blur_gaussian",
)  # fmt: skip
THEIRS = {"canny": "CannyDetector", "lineart_standard": "LineartStandardDetector", "shuffle": "ContentShuffleDetector"}
GOALS = {
    "a later call over its network, at worst, %": 5.0,
    "canny over cv2 at 1024": 1.2,
    "OpenPose's points at 512, ms": 100.0,
    "import of the registry, ms": 50.0,
}

MOST_PIXELS = 2048**2  # of all pictures that a network gets; a thread of a processor takes seconds for each

Run = Callable[[], object]


def load_checkout() -> None:
    """Make `controlstack` this very checkout, whatever its folder is called."""
    spec = importlib.util.spec_from_file_location("controlstack", ROOT / "__init__.py")
    assert spec is not None and spec.loader is not None
    sys.modules["controlstack"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def peer(module: str) -> Any:
    """Return a file of controlnet-aux, None where the package or what it needs is not installed."""
    spec = importlib.util.find_spec("controlnet_aux")
    if spec is None or not spec.submodule_search_locations:
        return None
    package = types.ModuleType(ALIAS)
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules.setdefault(ALIAS, package)
    try:
        return importlib.import_module(f"{ALIAS}.{module}")
    except ImportError as error:
        print(f"controlnet-aux without {module}: {error}")
        return None


def in_turns(programs: Mapping[str, Run], rounds: int = ROUNDS) -> dict[str, float]:
    """Return milliseconds of processor time of each, the median of many calls that alternate."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    while True:
        for name, run in programs.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
        enough = all(len(each) >= rounds and sum(each) >= LEAST for each in times.values())
        if enough:
            return {name: 1000 * median(each) for name, each in times.items()}


def photos(size: int, count: int) -> np.ndarray:
    """Return pictures [count, size, size, 3] of a photograph, each a little different."""
    from skimage import data

    photo = cv2.resize(data.astronaut(), (size, size), interpolation=cv2.INTER_CUBIC)
    return np.stack([np.roll(photo, 7 * number, axis=1) for number in range(count)])


def plain(size: int, batch: int) -> list[dict[str, Any]]:
    """Return the times of preprocessors without networks, per picture."""
    rows = []
    for name in PLAIN:
        images = photos(size, batch)
        programs = {"ours": call_of(name, images), **peers_of(name, images)}
        found = {key: value / batch for key, value in in_turns(programs).items()}
        rows.append({"name": name, "size": size, "batch": batch, **found, "peak": peak(programs["ours"]) / batch})
    return rows


def call_of(name: str, images: np.ndarray) -> Run:
    from controlstack.preprocessors import find

    preprocessor = find(name)
    given = images if len(images) > 1 else images[0]
    return lambda: preprocessor(given)


def peers_of(name: str, images: np.ndarray) -> dict[str, Run]:
    """Return cv2 alone, and controlnet-aux, picture by picture as it works."""
    size = images.shape[1]
    programs: dict[str, Run] = {}
    if name == "canny":
        programs["cv2"] = lambda: [cv2.Canny(image, 100, 200) for image in images]
    if name in THEIRS and (module := peer(name)) is not None:
        detector = getattr(module, THEIRS[name])()
        options = {"detect_resolution": size, "output_type": "np"}
        if name != "lineart_standard":
            options["image_resolution"] = size
        programs["controlnet-aux"] = lambda: [detector(image, **options) for image in images]
    return programs


def peak(run: Run) -> float:
    """Return the MiB by which a call lets this process grow; not a number where the system does not say."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return float("nan")

    def field(name: str) -> float:
        line = next(line for line in status.read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) / 1024

    gc.collect()
    with suppress(OSError, AttributeError):  # what the allocator kept would hide what a call needs
        ctypes.CDLL(None).malloc_trim(0)
    reset.write_text("5")
    before = field("VmRSS")
    run()
    return max(0.0, field("VmHWM") - before)


def people() -> dict[str, float]:
    """Return milliseconds from OpenPose's maps of a picture of 512 x 512 with three people to their points."""
    from controlstack.preprocessors.poses.people import find_people

    heat, fields = crowd()
    programs: dict[str, Run] = {"ours": lambda: find_people(heat, fields, (512, 512), (184, 184))}
    if (module := peer("open_pose")) is not None:
        import torch

        body = module.Body.__new__(module.Body)
        maps = torch.from_numpy(fields)[None], torch.from_numpy(heat)[None]

        class Painted(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.anywhere = torch.nn.Parameter(torch.zeros(1))

            def forward(self, _: torch.Tensor) -> Any:
                return maps

        body.model = Painted()
        programs["controlnet-aux"] = lambda: body(np.zeros((512, 512, 3), np.uint8))
    return in_turns(programs)


def crowd() -> tuple[np.ndarray, np.ndarray]:
    """Return maps of points [19, 23, 23] and of limbs [38, 23, 23] with three people, and a little noise."""
    from controlstack.preprocessors.poses.people import FIELDS, LIMBS

    rng = np.random.default_rng(0)
    heat = rng.normal(0, 0.01, (19, 23, 23)).astype(np.float32)
    fields = rng.normal(0, 0.02, (38, 23, 23)).astype(np.float32)
    rows, columns = np.mgrid[:23, :23]
    for middle in (4, 11, 18):
        points = [(middle + rng.uniform(-2, 2), 2 + rng.uniform(0, 18)) for _ in range(18)]
        for plane, (x, y) in zip(heat, points, strict=False):
            plane += np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 2)
        for (first, second), field in zip(LIMBS, FIELDS, strict=True):
            (x, y), (u, v) = points[first], points[second]
            length = max(1e-3, float(np.hypot(u - x, v - y)))
            for step in np.linspace(0, 1, 20):
                near = np.hypot(columns - x - step * (u - x), rows - y - step * (v - y)) < 1
                fields[field][near], fields[field + 1][near] = (u - x) / length, (v - y) / length
    return heat, fields


def registry_import() -> float:
    """Return milliseconds that a fresh Python needs for the list of all preprocessors."""
    code = f"""if True:
        import importlib.util, sys, time
        spec = importlib.util.spec_from_file_location("controlstack", {str(ROOT / "__init__.py")!r})
        sys.modules["controlstack"] = importlib.util.module_from_spec(spec)
        start = time.process_time()
        import controlstack.preprocessors
        print(1000 * (time.process_time() - start))
    """
    with tempfile.TemporaryDirectory() as folder:  # of bytecode, which every start but the first finds
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}
        command = [sys.executable, "-c", code]
        times = [
            float(subprocess.run(command, capture_output=True, check=True, env=environment).stdout) for _ in range(8)
        ]
    return median(times[1:])


def networks(size: int, batch: int) -> list[dict[str, Any]]:
    """Return the times of the first call, which loads, of later ones, and of the network alone, in ms per picture."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, write in writers().items():
            if not write(Path(folder)):
                continue
            rows.append(
                {"name": name, "size": size, "batch": batch, **network(name, Path(folder), photos(size, batch))}
            )
    return rows


def network(name: str, folder: Path, images: np.ndarray) -> dict[str, float]:
    from controlstack.preprocessors import find
    from controlstack.preprocessors.cache import ResultCache
    from controlstack.preprocessors.networks.pool import PlainManager, Pool
    from controlstack.preprocessors.networks.store import Store
    from controlstack.preprocessors.perform import Runtime

    preprocessor = unsigned(find(name))
    runtime = Runtime(store=Store(folder), pool=Pool(PlainManager("cpu")), cache=ResultCache(0))

    def call() -> None:
        preprocessor(images, runtime=runtime)

    start = time.process_time()
    call()
    first = time.process_time() - start
    totals: list[float] = []
    insides: list[float] = []
    with runtime.ready(preprocessor.networks[0]) as loaded, watched(type(loaded)) as spent:

        def later() -> None:
            start, before = time.process_time(), spent()
            call()
            insides.append(spent() - before)
            totals.append(time.process_time() - start)

        theirs = detector_of(name, loaded, images)
        times = in_turns({"later": later, "controlnet-aux": theirs} if theirs else {"later": later}, rounds=5)
    return {
        "first": 1000 * first / len(images),
        "later": 1000 * median(totals) / len(images),
        "network": 1000 * median(insides) / len(images),
        "over, %": 100 * (median(total / inside for total, inside in zip(totals, insides, strict=True)) - 1),
        **{key: value / len(images) for key, value in times.items() if key != "later"},
        "peak": peak(call) / len(images),
    }


def detector_of(name: str, network: Any, images: np.ndarray) -> Run | None:
    """Return controlnet-aux's own detector on the same network, without its loading."""
    where = {"softedge_hed": ("hed", "HEDdetector"), "softedge_teed": ("teed", "TEEDdetector")}
    if name not in where or (module := peer(where[name][0])) is None:
        return None
    detector, size = getattr(module, where[name][1])(network), images.shape[1]
    return lambda: [detector(image, detect_resolution=size, output_type="np") for image in images]


@contextmanager
def watched(kind: type) -> Iterator[Callable[[], float]]:
    """Yield what tells how many seconds of processor time calls of a class took since the context was entered.

    The network and the call around it are measured in one and the same run: apart, the machine's mood differs by more
    than what lies around a network.
    """
    original, own = kind.__call__, "__call__" in vars(kind)
    seconds = 0.0

    def timed(*given: Any, **named: Any) -> Any:
        nonlocal seconds
        start = time.process_time()
        result = original(*given, **named)
        seconds += time.process_time() - start
        return result

    kind.__call__ = timed
    try:
        yield lambda: seconds
    finally:
        if own:
            kind.__call__ = original
        else:
            del kind.__call__


def unsigned(preprocessor: Any) -> Any:
    """Return the same preprocessor with files of any content."""
    parts = tuple(
        replace(each, files=tuple(replace(file, bytes=None, sha256="") for file in each.files))
        for each in preprocessor.networks
    )
    return replace(preprocessor, networks=parts)


def writers() -> dict[str, Callable[[Path], bool]]:
    """Write random weights of the true shapes; False where a package is missing."""
    return {
        "softedge_teed": lambda folder: write_peer(folder / "7_model.pth", "teed.ted", "TED"),
        "softedge_hed": lambda folder: write_peer(folder / "ControlNetHED.pth", "hed", "ControlNetHED_Apache2"),
        "depth_anything_v2": write_depth_anything,
    }


def write_peer(path: Path, module: str, name: str) -> bool:
    import torch

    found = peer(module)
    if found is not None:
        torch.manual_seed(0)
        torch.save(getattr(found, name)().state_dict(), path)
    return found is not None


def write_depth_anything(folder: Path) -> bool:
    if importlib.util.find_spec("transformers") is None:
        return False
    import transformers

    backbone = transformers.Dinov2Config(
        hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14, out_indices=[3, 6, 9, 12],
        reshape_hidden_states=False,
    )  # fmt: skip
    config = transformers.DepthAnythingConfig(backbone_config=backbone)
    target = folder / "depth-anything" / "Depth-Anything-V2-Small-hf"
    transformers.DepthAnythingForDepthEstimation(config).save_pretrained(target)
    return True


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table in Markdown; columns are what the rows have."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for row in rows:
        cells = (row.get(column, "") for column in columns)
        lines.append(
            "| " + " | ".join(f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in cells) + " |"
        )
    return "\n".join(lines)


def verdicts(
    rows: Sequence[Mapping[str, Any]], slow: Sequence[Mapping[str, Any]], posing: Mapping[str, float], importing: float
) -> dict[str, float]:
    """Return what the goals speak of."""
    found = {"OpenPose's points at 512, ms": posing["ours"], "import of the registry, ms": importing}
    if slow:
        found["a later call over its network, at worst, %"] = max(row["over, %"] for row in slow)
    for row in rows:
        if (row["name"], row["size"], row["batch"]) == ("canny", 1024, 1):
            found["canny over cv2 at 1024"] = row["ours"] / row["cv2"]
    return found


def with_one_thread() -> None:
    """Begin the program again with one thread: BLAS reads their number when numpy is imported.

    Further threads wait busily, and all of that is processor time: small products then cost ten times as much.
    """
    if any(os.environ.get(name) != "1" for name in THREADS):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **dict.fromkeys(THREADS, "1")})


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--networks", action="store_true", help="measure networks too")
    args = parser.parse_args()
    load_checkout()
    cv2.setNumThreads(1)
    import torch

    torch.set_num_threads(1)
    rows = [row for size in args.sizes for batch in args.batches for row in plain(size, batch)]
    posing, importing = people(), registry_import()
    slow = [
        row
        for size in args.sizes
        for batch in args.batches
        if args.networks and size * size * batch <= MOST_PIXELS
        for row in networks(size, batch)
    ]
    reached = verdicts(rows, slow, posing, importing)
    tables = [rows, slow, [{"name": "OpenPose's points", **posing}]]
    print(*(table(each) for each in tables if each), sep="\n\n")
    for name, value in reached.items():
        print(f"{name}: {value:.2f} (goal {GOALS[name]:g}: {'reached' if value <= GOALS[name] else 'MISSED'})")
    if args.json:
        result = {"plain": rows, "networks": slow, "people": posing, "goals": reached}
        args.json.write_text(json.dumps(result, indent=2), encoding="utf-8")


if __name__ == "__main__":
    with_one_thread()
    main()
