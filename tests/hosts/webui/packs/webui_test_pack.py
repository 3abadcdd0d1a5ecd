"""An extension of the WebUI for tests: it writes down what the U-Net did, counts hooks, and breaks runs on demand.

It needs nothing of ControlStack, and stands beside it or beside another extension of the same purpose.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import pkgutil
import time
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from modules import paths, script_callbacks, scripts, shared
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

STATE: dict[str, Any] = {
    "record": False,
    "fail": None,
    "handle": None,
    "witness": None,
    "watched": lambda: None,
    "calls": 0,
    "visit": None,
    "timed": False,
    "cut": False,
    "meddled": 0,
}
RECORD: dict[str, Any] = {
    "tensors": {},
    "evaluations": [],
    "hooks": 0,
    "times": [],
    "loads": 0,
    "denoiser": {},
    "rows": [],
    "operations": {},
    "takes turns": False,
}
TOKENS = 77  # of a prompt's first chunk; the host may repeat or cut what follows
TARGET = Path(paths.data_path) / "record.safetensors"


class Recorder(scripts.Script):
    """Watches the U-Net of every request after everybody else has prepared it."""

    sorting_priority = 1000

    def title(self) -> str:
        return "Test pack"

    def show(self, is_img2img: bool) -> object:
        return scripts.AlwaysVisible

    def before_process(self, p: Any, *args: Any) -> None:
        visit, STATE["visit"] = STATE["visit"], None
        if visit:
            add_unit(p, visit["path"], visit["model"])

    def process(self, p: Any, *args: Any) -> None:
        RECORD.update(tensors={}, evaluations=[], hooks=0, times=[], denoiser={}, rows=[])
        STATE["calls"] = 0
        if STATE["record"]:
            torch.manual_seed(0)  # the host encodes pictures with random numbers of whoever came before

    def process_before_every_sampling(self, p: Any, *args: Any, **kwargs: Any) -> None:
        remove_handle()
        RECORD["hooks"] = hooks_of(unet_of(p.sd_model))
        RECORD["takes turns"] = bool(getattr(p.sd_model, "lowvram", False))
        if STATE["record"] or STATE["fail"] or STATE["timed"]:
            watch(p)
        if STATE["cut"]:
            STATE["cut"] = False
            cut_once(unet_of(p.sd_model))

    def post_sample(self, p: Any, ps: Any, *args: Any) -> None:
        if STATE["record"] and hasattr(ps.samples, "detach"):
            RECORD["tensors"]["samples"] = ps.samples.detach().float().contiguous().clone()

    def postprocess(self, p: Any, processed: Any, *args: Any) -> None:
        remove_handle()
        if STATE["record"]:
            write_record()


def watch(p: Any) -> None:
    """Observe every call of the U-Net that computes now."""
    remove_handle()
    unet = unet_of(p.sd_model)
    STATE["handle"] = unet.register_forward_hook(lambda *given: observe(p, *given), with_kwargs=True)
    STATE["watched"] = weakref.ref(unet)
    if STATE["record"]:
        STATE["witness"] = register_module_forward_pre_hook(witness)


def witness(module: Any, args: tuple[Any, ...]) -> None:
    """Note the rows that every block of our networks is given."""
    kind = type(module)
    if kind.__name__ == "ResBlock" and kind.__module__ == "controlstack.models.layers":
        RECORD["rows"].append(len(args[0]))


def observe(p: Any, _unet: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    """One evaluation of the U-Net is over."""
    fail = STATE["fail"]
    STATE["calls"] += 1
    if fail and STATE["calls"] == fail["call"]:
        STATE["fail"] = None
        act(fail["how"])
    if STATE["timed"]:
        RECORD["times"].append(time.process_time())
    if STATE["record"]:
        given = dict(zip(("x", "timesteps", "context", "y"), args, strict=False)) | kwargs
        number = len(RECORD["evaluations"])
        named = {"x": given["x"], "time": given["timesteps"], "context": given["context"], "out": output}
        if given.get("y") is not None:
            named["y"] = given["y"]
        for name, value in named.items():
            RECORD["tensors"][f"{number}.{name}"] = value.detach().float().contiguous().clone()
        said = RECORD["denoiser"]
        rows, RECORD["rows"] = RECORD["rows"], []
        RECORD["evaluations"].append(
            {
                "hires": bool(getattr(p, "is_hr_pass", False)),
                "call": said.get("call", 0),
                "counted": said.get("step", 0),
                "steps": said.get("steps", 1),
                "cond": rows_of(given, said.get("uncond")),
                "control_rows": rows,
            }
        )


def listen(params: Any) -> None:
    """The denoiser is about to evaluate the U-Net: count its calls, and keep what it says."""
    if STATE["record"]:
        if STATE["watched"]() is not unet_of(shared.sd_model):  # a refiner took over
            watch(params.denoiser.p)
        uncond = params.text_uncond
        RECORD["denoiser"] = {
            "call": RECORD["denoiser"].get("call", -1) + 1,
            "step": params.sampling_step,
            "steps": params.total_sampling_steps,
            "uncond": uncond["crossattn"] if isinstance(uncond, dict) else uncond,
        }


def rows_of(given: dict[str, Any], uncond: Any) -> list[bool]:
    """Which rows are cond: as Forge and reForge say for each part, else those that no negative prompt has."""
    kinds = given.get("transformer_options", {}).get("cond_or_uncond")
    if kinds is not None:
        return [kind == 0 for kind in kinds for _ in range(len(given["x"]) // len(kinds))]
    negative = [] if uncond is None else [each[:TOKENS] for each in uncond]
    return [not any(torch.equal(row[:TOKENS], each.to(row)) for each in negative) for row in given["context"]]


def add_unit(p: Any, path: str, model: str) -> None:
    """What extensions such as ADetailer do: import a module of sd-webui-controlnet by its path, and set a unit."""
    code = importlib.import_module(path)
    found = next(name for name in code.get_models() if name.startswith(model))
    unit = code.ControlNetUnit(
        model=found,
        weight=0.8,
        control_mode=code.ControlMode.PROMPT,
        module=None,
        guidance_start=0.0,
        guidance_end=0.9,
        enabled=True,
    )
    code.update_cn_script_in_processing(p, [unit], is_img2img=True, is_ui=False)
    assert [each.weight for each in code.get_all_units_in_processing(p)] == [0.8]


def cut_once(unet: Any) -> None:
    """The next evaluation sees the left half of the latents, as with extensions that draw in tiles."""

    def cut(_unet: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        before.remove()
        return (args[0][..., : args[0].shape[-1] // 2], *args[1:])

    def mend(_unet: Any, _args: tuple[Any, ...], output: Any) -> Any:
        after.remove()
        return torch.cat([output, output], dim=-1)

    before = unet.register_forward_pre_hook(cut, prepend=True)
    after = unet.register_forward_hook(mend)


def write_record() -> None:
    from safetensors.torch import save_file

    about = {"evaluations": json.dumps(RECORD["evaluations"])}
    save_file(RECORD["tensors"], TARGET, about)


def remove_handle() -> None:
    for name in ("handle", "witness"):
        if STATE[name] is not None:
            STATE[name].remove()
            STATE[name] = None


def unet_of(model: Any) -> Any:
    """The U-Net of a checkpoint, also where it belongs to a patcher (Forge)."""
    owner = model.forge_objects.unet if hasattr(model, "forge_objects") else model
    return owner.model.diffusion_model


def controls_of(model: Any) -> list[Any]:
    """What has joined the patcher of a program that has one."""
    return model.forge_objects.unet.list_controlnets() if hasattr(model, "forge_objects") else []


def hooks_of(network: Any) -> int:
    """Hooks on any module of a network, and modules whose forward somebody replaced."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    modules = list(network.modules())
    return sum(len(getattr(each, kind)) for each in modules for kind in kinds) + sum(
        "forward" in vars(each) for each in modules
    )


def count() -> dict[str, int]:
    """What must not grow."""
    remove_handle()
    gc.collect()
    return {
        "hooks": hooks_of(unet_of(shared.sd_model)),
        "callbacks": sum(map(len, script_callbacks.callback_map.values())),
        "memory": resident(),
        "heap": heap(),
        "hints": sum(each.bytes for each in gc.get_objects() if is_hint_cache(each)),
        "tensors": sum(isinstance(each, torch.Tensor) for each in gc.get_objects()),
        "during": RECORD["hooks"],
        "controls": len(controls_of(shared.sd_model)),
        "takes turns": RECORD["takes turns"],
    }


def resident() -> int:
    """Bytes of resident memory."""
    lines = Path(f"/proc/{os.getpid()}/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmRSS")))


class MallInfo(ctypes.Structure):
    """What glibc tells of its heap, in bytes: `mallinfo2`."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    )  # fmt: skip


def heap() -> int:
    """Bytes that are in use, without what is free and not given back; 0 where there is no glibc."""
    told = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if told is None:
        return 0
    told.restype = MallInfo
    info = told()
    return info.uordblks + info.hblkhd


def is_hint_cache(each: Any) -> bool:
    return f"{type(each).__module__}.{type(each).__qualname__}" == "controlstack.preprocessors.cache.ResultCache"


def meddle(function: str, how: str = "raise", call: int = 1) -> None:
    """One of the next calls of a function, named by its path, raises, or is the moment at which a user acts."""
    path, _, name = function.rpartition(".")
    owner = pkgutil.resolve_name(path)
    original = getattr(owner, name)
    calls: list[None] = []
    STATE["meddled"] += 1

    def meddled(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        if len(calls) == call:
            STATE["meddled"] -= 1
            setattr(owner, name, original)
            act(how)
        return original(*args, **kwargs)  # somebody may have kept this function

    setattr(owner, name, meddled)


def act(how: str) -> None:
    """What goes wrong, or what a user does."""
    if how == "raise":
        raise RuntimeError("the test asked for a failure")
    {"interrupt": shared.state.interrupt, "skip": shared.state.skip, "stop": shared.state.stop_generating}[how]()


def change(path: str, values: dict[str, Any]) -> None:
    """Give entries of a dictionary of the process, named by its path, other values."""
    pkgutil.resolve_name(path).update(values)


def count_loads() -> None:
    """Count how often any network of the process is filled with weights."""
    original = torch.nn.Module.load_state_dict

    def counted(*args: Any, **kwargs: Any) -> Any:
        RECORD["loads"] += 1
        return original(*args, **kwargs)

    torch.nn.Module.load_state_dict = counted


class Operations(TorchDispatchMode):
    """Counts tensor operations, each with the shapes that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shapes = [list(each.shape) for each in args if isinstance(each, torch.Tensor)]
        self.counts[f"{func} {shapes}"] += 1
        return func(*args, **(kwargs or {}))


def operations(count: bool) -> dict[str, int]:
    """Tensor operations of the last request that was counted; whether the next one is."""
    from modules.api import api

    original, counted = api.process_images, dict(RECORD["operations"])

    def process(p: Any) -> Any:
        api.process_images = original
        with Operations() as mode:
            RECORD["operations"] = mode.counts
            return original(p)

    if count:
        api.process_images = process
    return counted


def add_routes(_demo: Any, app: Any) -> None:
    def set_state(record: bool = False, how: str = "", call: int = 0) -> dict[str, str]:
        STATE.update(record=record, fail={"how": how, "call": call} if how else None)
        return {"file": str(TARGET)}

    def timed(on: bool) -> None:
        STATE["timed"] = on
        if on and torch.nn.Module.load_state_dict.__name__ != "counted":
            count_loads()

    def times() -> dict[str, Any]:
        """CPU seconds of the process at the end of each evaluation of the last request; networks filled so far."""
        return {"seconds": RECORD["times"], "loads": RECORD["loads"]}

    app.add_api_route("/test/timed", timed, methods=["POST"])
    app.add_api_route("/test/times", times, methods=["GET"])

    def visit(path: str, model: str) -> None:
        STATE["visit"] = {"path": path, "model": model}

    def tile() -> None:
        STATE["cut"] = True

    app.add_api_route("/test/tile", tile, methods=["POST"])
    app.add_api_route("/test/visit", visit, methods=["POST"])
    app.add_api_route("/test/meddle", meddle, methods=["POST"])
    app.add_api_route("/test/change", change, methods=["POST"])
    app.add_api_route("/test/meddled", lambda: STATE["meddled"], methods=["GET"])
    app.add_api_route("/test/act", act, methods=["POST"])
    app.add_api_route("/test/operations", operations, methods=["POST"])
    app.add_api_route("/test/set", set_state, methods=["POST"])
    app.add_api_route("/test/count", count, methods=["GET"])


script_callbacks.on_app_started(add_routes)
script_callbacks.on_cfg_denoiser(listen)
