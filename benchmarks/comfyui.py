"""What units add to a run in a real ComfyUI, ours beside the host's own nodes and Advanced-ControlNet.

    export COMFYUI_PATH=...
    PYTHONPATH=tests/hosts:tests/hosts/comfyui python benchmarks/comfyui.py [--rounds N] [--steps N] [--peer FOLDER]

Full-size SD 1.5 and control models of random weights, 256 px, batch 2, one thread, in one host process. The cases take
turns, in alternating order, each kind of run beside one without control. Counted is the host's CPU time, so that other
programs do not count; each share is a median over rounds. 12 GB of memory and 5 GB of disk are needed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import comfyui_host
import control_files
from comfyui_host import Graph, Host, Link, output

SIZE = 256
MODELS = ("full-1", "full-2", "full-3")
Prompts = tuple[Link, Link]
Case = Callable[[Graph, Prompts], Prompts]
Times = dict[str, dict[str, float]]  # kind, program: seconds
PROGRAMS = ("ours", "host", "advanced")


def main() -> None:
    options = _options()
    path = comfyui_host.find()
    if path is None:
        raise SystemExit("no ComfyUI: set COMFYUI_PATH to its folder (and COMFYUI_PYTHON to its Python)")
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        control_files.write_full(base / "models" / "controlnet")
        with comfyui_host.started(path, base, peers=[options.peer] if options.peer else []) as host:
            rounds = measure(host, _kinds(bool(options.peer)), options.rounds, options.steps)
    added = relative(rounds)
    print(table(added))
    if options.json:
        options.json.write_text(json.dumps({"added": added, "rounds": rounds}, indent=1) + "\n", encoding="utf-8")


def measure(host: Host, kinds: Mapping[str, Mapping[str, Case]], rounds: int, steps: int) -> list[Times]:
    """Return CPU seconds of each kind and program in each round, each kind beside a run without control of its own."""
    found: list[Times] = []
    for turn in range(rounds):
        found.append({})
        for kind, programs in kinds.items():
            cases = {"none": _nothing, **programs}
            order = list(cases) if turn % 2 else list(reversed(cases))
            found[-1][kind] = {name: timed(host, cases[name], turn, steps) for name in order}
            print(f"round {turn}, {kind}: {found[-1][kind]}", flush=True)
    return found


def timed(host: Host, case: Case, turn: int, steps: int) -> float:
    """Return the seconds of a run, after one of a single step has loaded what the host dropped since."""
    _run(host, case, seed=2 * turn, steps=1)
    return _run(host, case, seed=2 * turn + 1, steps=steps)


def _run(host: Host, case: Case, seed: int, steps: int) -> float:
    graph = Graph()
    model = graph.add("TestModel", kind="full SD", seed=0)
    prompts = case(graph, (graph.add("TestPrompt", seed=1, width=768), graph.add("TestPrompt", seed=2, width=768)))
    sample = graph.add(
        "KSampler",
        model=model,
        positive=prompts[0],
        negative=prompts[1],
        latent_image=graph.add("EmptyLatentImage", width=SIZE, height=SIZE, batch_size=1),
        seed=seed,
        steps=steps,
        cfg=7.0,
        sampler_name="euler",
        scheduler="normal",
        denoise=1.0,
    )
    before = host.seconds()
    host.latent(graph, sample)
    return host.seconds() - before


def relative(rounds: list[Times]) -> dict[str, dict[str, float]]:
    """Return what each program adds to the run without control, as a share of that run: medians over rounds."""
    return {
        kind: {
            program: statistics.median(each[kind][program] / each[kind]["none"] - 1 for each in rounds)
            for program in PROGRAMS
            if program in rounds[0][kind]
        }
        for kind in rounds[0]
    }


def table(added: Mapping[str, Mapping[str, float]]) -> str:
    """Return a Markdown row for each kind of run, a column for each program."""
    programs = [program for program in PROGRAMS if any(program in each for each in added.values())]
    rows = [f"| added to the run by | {' | '.join(programs)} |", "|---" * (len(programs) + 1) + "|"]
    for kind, each in added.items():
        cells = [f"{100 * each[program]:.1f} %" if program in each else "" for program in programs]
        rows.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(rows)


def ours(*models: str, **settings: object) -> Case:
    def add(graph: Graph, prompts: Prompts) -> Prompts:
        units: dict[str, Link] = {}
        for number, model in enumerate(models):
            load = graph.add("ControlStackLoadControlModel", name=f"{model}.safetensors")
            unit = graph.add(
                "ControlStackControlUnit", control_net=load, image=_picture(graph, number), **UNIT | settings, **units
            )
            units = {"units": unit}
        made = graph.add("ControlStackApplyControlUnits", positive=prompts[0], negative=prompts[1], **units)
        return made, output(made, 1)

    return add


def theirs(loader: str, apply: str, *models: str, end: float = 1.0, positive_only: bool = False) -> Case:
    def add(graph: Graph, prompts: Prompts) -> Prompts:
        positive, negative = prompts
        for number, model in enumerate(models):
            load = graph.add(loader, control_net_name=f"{model}.safetensors")
            settings = {"strength": 1.0, "start_percent": 0.0, "end_percent": end}
            made = graph.add(
                apply, positive=positive, negative=negative, control_net=load, image=_picture(graph, number), **settings
            )
            positive, negative = made, negative if positive_only else output(made, 1)
        return positive, negative

    return add


def _picture(graph: Graph, seed: int) -> Link:
    return graph.add("TestPicture", seed=seed, count=1, width=SIZE, height=SIZE)


UNIT = {
    "preprocessor": "none",
    "weight": 1.0,
    "start": 0.0,
    "end": 1.0,
    "basis": "noise",
    "mode": "balanced",
    "resize": "crop and resize",
    "resolution": 0,
    "enabled": True,
}
HOST = ("ControlNetLoader", "ControlNetApplyAdvanced")
ADVANCED = ("ControlNetLoaderAdvanced", "ACN_AdvancedControlNetApply_v2")


def _nothing(_graph: Graph, prompts: Prompts) -> Prompts:
    return prompts


def _kinds(peer: bool) -> dict[str, dict[str, Case]]:
    """Return the kinds of runs that are compared, each by program."""
    others = {"host": HOST, "advanced": ADVANCED} if peer else {"host": HOST}

    def kind(models: tuple[str, ...], settings: dict[str, object], **further: Any) -> dict[str, Case]:
        programs = {name: theirs(*nodes, *models, **further) for name, nodes in others.items()}
        return {"ours": ours(*models, **settings), **programs}

    return {
        "one unit": kind(MODELS[:1], {}),
        "three units": kind(MODELS, {}),
        "one unit, range 0 to 0.5": kind(MODELS[:1], {"end": 0.5}, end=0.5),
        "one unit, on the positive prompt alone": kind(MODELS[:1], {"mode": "control"}, positive_only=True),
        "one T2I-Adapter": kind(("full-t2i",), {}),
        "one unit of weight 0": {"ours": ours(*MODELS[:1], weight=0.0)},
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--peer", type=Path, help="folder of Advanced-ControlNet")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
