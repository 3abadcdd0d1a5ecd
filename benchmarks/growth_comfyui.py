"""Runs of a narrow SD 1.5 in a real ComfyUI, for `growth.py`: bare, ours, the host's own nodes, Advanced-ControlNet.

A picture in tiles has its prompts set on areas of 128 pixels beside each other, which the host computes in one call.
Its own nodes and Advanced-ControlNet show the whole hint to all areas at once, ours to each its part, one by one.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import comfyui_host
import control_files
from comfyui import ADVANCED, HOST, UNIT
from comfyui_host import Graph, Host, Link, output
from growth_inside import CONTEXT, TILE, memory

WIDTH = 64
REST, BUSY = 0.3, 0.001  # seconds; a thread that waits uses less
Prompts = tuple[Link, Link]


@contextmanager
def started(most: int, peer: Path | None) -> Iterator[Host]:
    """Start the host with so many control models. peer: folder of Advanced-ControlNet."""
    path = comfyui_host.find()
    if path is None:
        raise SystemExit(
            "no ComfyUI: set COMFYUI_PATH to its folder (and COMFYUI_PYTHON to its Python), or say --alone"
        )
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        control_files.write_narrow(base / "models" / "controlnet", most, WIDTH, CONTEXT)
        with comfyui_host.started(path, base, peers=[peer] if peer else []) as host:
            yield host


class Run:
    """A run of so many units on so many pictures, which can be drawn by each program."""

    def __init__(self, host: Host, units: int, pictures: int, side: int, frames: int, tiles: int) -> None:
        """frames: as many pictures, each with a hint of its own. tiles: of which a picture is made, a square number."""
        self._host, self._units, self._frames = host, units, frames
        self._pictures, self._across = max(pictures, frames), math.isqrt(tiles)
        self._side = TILE * self._across if tiles > 1 else side
        self._seed = 0

    def seconds(self, program: str, steps: int) -> float:
        """Return CPU time of a run over its steps, after a run of one step has loaded what the host dropped since."""
        self._draw(program, 1)
        begin = rested(self._host.pid)
        self._draw(program, steps)
        return (worked(self._host.pid) - begin) / steps

    def mebibytes(self, program: str) -> float:
        """Return how much memory a run of one step takes at most, beyond what is held before it."""
        self._draw(program, 1)
        before = memory(self._host.pid, "VmRSS", reset=True)
        self._draw(program, 1)
        return memory(self._host.pid, "VmHWM") - before

    def _draw(self, program: str, steps: int) -> None:
        graph, self._seed = Graph(), self._seed + 1
        model = graph.add("TestModel", kind="narrow SD", seed=0)
        prompts = tuple(graph.add("TestPrompt", seed=seed, width=CONTEXT) for seed in (1, 2))
        positive, negative = self._in_tiles(graph, self._controlled(graph, program, (prompts[0], prompts[1])))
        latent = graph.add("EmptyLatentImage", width=self._side, height=self._side, batch_size=self._pictures)
        said = {"cfg": 7.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
        sample = graph.add(
            "KSampler", model=model, positive=positive, negative=negative, latent_image=latent, seed=self._seed,
            steps=steps, **said,
        )  # fmt: skip
        self._host.latent(graph, sample)

    def _controlled(self, graph: Graph, program: str, prompts: Prompts) -> Prompts:
        if program == "none":
            return prompts
        if program == "ours":
            return self._ours(graph, prompts)
        return self._theirs(graph, prompts, HOST if program == "host" else ADVANCED)

    def _ours(self, graph: Graph, prompts: Prompts) -> Prompts:
        units: dict[str, Link] = {}
        for number in range(self._units):
            control = graph.add("ControlStackLoadControlModel", name=_file(number))
            unit = graph.add(
                "ControlStackControlUnit", control_net=control, image=self._hint(graph, number), **UNIT, **units
            )
            units = {"units_before": unit}
        made = graph.add(
            "ControlStackApplyControlUnits", positive=prompts[0], negative=prompts[1], units=units["units_before"]
        )
        return made, output(made, 1)

    def _theirs(self, graph: Graph, prompts: Prompts, nodes: Sequence[str]) -> Prompts:
        loader, apply = nodes
        for number in range(self._units):
            made = graph.add(
                apply, positive=prompts[0], negative=prompts[1], image=self._hint(graph, number), strength=1.0,
                control_net=graph.add(loader, control_net_name=_file(number)), start_percent=0.0, end_percent=1.0,
            )  # fmt: skip
            prompts = made, output(made, 1)
        return prompts

    def _hint(self, graph: Graph, seed: int) -> Link:
        return graph.add("TestPicture", seed=seed, count=self._frames, width=self._side, height=self._side)

    def _in_tiles(self, graph: Graph, prompts: Prompts) -> Prompts:
        return (self._areas(graph, prompts[0]), self._areas(graph, prompts[1])) if self._across > 1 else prompts

    def _areas(self, graph: Graph, prompt: Link) -> Link:
        places = range(0, self._side, TILE)
        areas = [
            graph.add("ConditioningSetArea", conditioning=prompt, width=TILE, height=TILE, x=left, y=top, strength=1.0)
            for top in places
            for left in places
        ]
        whole = areas[0]
        for area in areas[1:]:
            whole = graph.add("ConditioningCombine", conditioning_1=whole, conditioning_2=area)
        return whole


def worked(process: int) -> float:
    """Return the CPU time of a process' threads but the first, which answers the questions whether a run has ended."""
    threads = Path(f"/proc/{process}/task").iterdir()
    return sum(int((each / "schedstat").read_text().split()[0]) for each in threads if each.name != str(process)) / 1e9


def rested(process: int) -> float:
    """Return the same once it has stopped growing: the host collects garbage behind a run, for half a second."""
    before = worked(process)
    time.sleep(REST)
    while (now := worked(process)) > before + BUSY:
        before = now
        time.sleep(REST)
    return now


def _file(number: int) -> str:
    return f"narrow-{number}.safetensors"
