"""One request means the same unit on every edge: the command line, a node, a client of the WebUI, a picture's text.

Each row says in every edge's own words the same thing. What is compared is what the stack runs, tensors included.
"""

from __future__ import annotations

import base64
import importlib
import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from controlstack.core.control import ControlModel
from controlstack.core.errors import ControlError
from controlstack.core.unit import ControlUnit
from controlstack.models.families.union import UnionNet
from controlstack.models.layers import Kit
from controlstack.models.registry import load_control_model
from controlstack.pipelines.tiny_world import CONTROLS
from controlstack.preprocessors.images import write_image
from controlstack.preprocessors.networks.pool import PlainManager, Pool
from controlstack.preprocessors.networks.store import Store
from controlstack.preprocessors.perform import Runtime
from controlstack.scripts.webui.host.cache import ModelCache
from controlstack.scripts.webui.host.files import ModelFiles
from controlstack.scripts.webui.request.arguments import SLOTS, units_of
from controlstack.scripts.webui.request.needs import Services
from controlstack.scripts.webui.request.passes import Passes
from controlstack.scripts.webui.request.preparing import prepare, write_text
from controlstack.scripts.webui.request.preprocessing import Preprocessing
from controlstack.standalone.units import load_units, parse_unit
from controlstack.units.convention import said_by
from controlstack.units.webui import infotext
from numpy.typing import NDArray
from PIL import Image as Pillow
from safetensors.torch import save_file
from stand_ins import Settings, WebUI, comfyui, webui_request

Image = NDArray[np.uint8]

SIDE = 64
LINES = "0 1\n0.25 0.5 ease-in\n1 0"
TENTHS = tuple(k / 10 for k in range(13))
MANY = " ".join(map(str, TENTHS))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One request in the words of four edges. Further words of a text are those of the client, if it has none."""

    cli: str = ""
    node: dict[str, Any] = field(default_factory=dict)
    choice: dict[str, Any] = field(default_factory=lambda: {"preprocessor": "none"})
    client: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    curve: str | None = None  # of the node
    blocks: dict[str, Any] | None = None  # of the node
    effect: bool = False  # a mask of where it acts
    inpaint: bool = False  # a mask of what is to be invented
    size: int = SIDE  # of the result
    model: str = "canny"  # or "union"
    host: list[int] | None = None  # what ComfyUI's own node says of a union


def canny(**numbers: int) -> dict[str, Any]:
    return {"preprocessor": "canny", "low": 100, "high": 200, **numbers}


OWN = {"resolution": 0}  # a client's word for the picture's own size
PAST = "Resolution: 0"  # a text's

ROWS: dict[str, Row] = {
    "nothing said": Row(),
    # bounds of the weight are the same everywhere
    **{
        f"weight {weight}": Row(
            cli=f"weight={weight}", node={"weight": weight}, client={"weight": weight}, text=f"Weight: {weight}"
        )
        for weight in (0.35, 1.0, 2.0, 2.5, 10.0, -3.0, -10.0)
    },
    # ranges
    **{
        f"range {start} to {end}": Row(
            cli=f"start={start},end={end}",
            node={"start": start, "end": end},
            client={"guidance_start": start, "guidance_end": end},
            text=f"Guidance Start: {start}, Guidance End: {end}",
        )
        for start, end in ((0.0, 0.5), (0.2, 0.8), (0.5, 0.5), (0.0, 0.0))
    },
    **{
        f"basis {basis}": Row(
            cli=f"basis={basis},end=0.6",
            node={"basis": basis, "end": 0.6},
            client={"range_basis": said, "guidance_end": 0.6},
            text=f"Range Basis: {basis}, Guidance End: 0.6",
        )
        for basis, said in (("webui", 0), ("steps", "steps"), ("noise", 2))
    },
    # modes and resize modes in the words of each
    **{
        f"mode {mode}": Row(
            cli=f"mode={mode}", node={"mode": mode}, client={"control_mode": client}, text=f"Control Mode: {text}"
        )
        for mode, client, text in (
            ("balanced", "Balanced", "ControlMode.BALANCED"),
            ("prompt", 1, "My prompt is more important"),
            ("control", "ControlNet is more important", "Prefer ControlNet"),
            ("control", "2", "ControlMode.CONTROL"),
        )
    },
    **{
        f"resize {cli}": Row(
            cli=f"resize={cli}", node={"resize": node}, client={"resize_mode": client}, text=f"Resize Mode: {text}"
        )
        for cli, node, client, text in (
            ("stretch", "just resize", 0, "Just Resize"),
            ("crop", "crop and resize", "Inner Fit (Scale to Fit)", "Crop and Resize"),
            ("fill", "resize and fill", "2", "ResizeMode.OUTER_FIT"),
        )
    },
    # curves: one grammar
    "curve in lines": Row(
        cli=f"curve={LINES}", curve=LINES, client={"curve": LINES}, text="Curve: 0%3A 1; 0.25%3A 0.5 ease-in; 1%3A 0"
    ),
    "curve with colons": Row(
        cli="curve=0: 1; 0.5: 0.3 hold; 1: -0.5",
        curve="0: 1; 0.5: 0.3 hold; 1: -0.5",
        client={"curve": [[0, 1], {"at": 0.5, "weight": 0.3, "easing": "hold"}, [1, -0.5]]},
        text="Curve: 0%3A 1%2C 0.5%3A 0.3 hold%2C 1%3A -0.5",
    ),
    "curve, range and weight": Row(
        cli="curve=0 1;1 0,weight=0.5,start=0.25,basis=noise",
        curve="0, 1\n1, 0",
        node={"weight": 0.5, "start": 0.25, "basis": "noise"},
        client={"curve": "0: 1, 1: 0", "weight": "0.5", "guidance_start": 0.25, "range_basis": "noise"},
        text="Curve: 0 1; 1 0, Weight: 0.5, Guidance Start: 0.25, Range Basis: noise",
    ),
    # block weights are multiplied by the weight
    "block weights and a weight": Row(
        cli=f"block_weights={MANY},weight=0.5",
        blocks={"preset": "custom", "weights": MANY},
        node={"weight": 0.5},
        client={"block_weights": list(TENTHS), "weight": 0.5},
        text=f"Block Weights: {MANY}, Weight: 0.5",
    ),
    "block weights of sd-webui-controlnet replace the weight": Row(
        cli=f"block_weights={MANY}",
        blocks={"preset": "custom", "weights": MANY.replace(" ", ", ")},
        client={"advanced_weighting": list(TENTHS), "weight": 0.5},
        text=f"Advanced Weighting: {MANY}, Weight: 0.5",
    ),
    "block weights replace the mode": Row(
        cli=f"block_weights={MANY},mode=prompt",
        blocks={"preset": "custom", "weights": MANY},
        node={"mode": "prompt"},
        client={"block_weights": MANY, "control_mode": 1},
        text=f"Block Weights: {MANY}, Control Mode: Prefer Prompt",
    ),
    "block weights by a base": Row(
        cli="block_weights=soft:0.7,weight=2",
        blocks={"preset": "soft", "base": 0.7},
        node={"weight": 2.0},
        client={"block_weights": "soft:0.7", "weight": 2},
        text="Block Weights: soft%3A0.7, Weight: 2",
    ),
    **{
        f"block weights: {shape}": Row(
            cli=f"block_weights={shape}",
            blocks={"preset": shape},
            client={"block_weights": shape},
            text=f"Block Weights: {shape}",
        )
        for shape in ("shallow half", "deep half", "middle only", "all but the middle", "rising", "falling")
    },
    "all blocks 0": Row(
        cli=f"block_weights={' '.join('0' * 13)}",
        blocks={"preset": "custom", "weights": ",".join("0" * 13)},
        client={"advanced_weighting": [0] * 13},
        text=f"Advanced Weighting: {' '.join('0' * 13)}",
    ),
    # masks: where it acts, and what is to be invented
    "effect mask": Row(effect=True),
    "effect mask, weight and mode": Row(
        effect=True, cli="weight=0.7,mode=control", node={"weight": 0.7, "mode": "control"},
        client={"weight": 0.7, "control_mode": 2}, text="Weight: 0.7, Control Mode: ControlNet is more important",
    ),
    **{
        name: Row(
            cli=f"preprocessor={name}", choice={"preprocessor": name}, client={"module": name},
            text=f"Module: {name}", inpaint=True, effect=effect,
        )
        for name, effect in (("inpaint_only", False), ("inpaint_global_harmonious", True), ("inpaint_black", False))
    },
    "inpaint by its other name": Row(
        cli="preprocessor=inpaint", choice={"preprocessor": "inpaint_global_harmonious"},
        client={"module": "inpaint"}, text="Module: inpaint", inpaint=True,
    ),
    "outpaint invents from half on": Row(
        cli="preprocessor=outpaint,left=32,top=32,right=32,bottom=32,feather=24",
        choice={"preprocessor": "outpaint", "left": 32, "top": 32, "right": 32, "bottom": 32, "feather": 24},
        client={"module": "outpaint", "threshold_a": 32, "threshold_b": 32,
                "parameters": {"right": 32, "bottom": 32, "feather": 24}},
        text="Module: outpaint, Threshold A: 32, Threshold B: 32, Parameters: right=32; bottom=32; feather=24",
        size=2 * SIDE,
    ),
    # preprocessors: their numbers, resolutions and seeds
    "canny": Row(
        cli="preprocessor=canny", choice=canny(), client={"module": "canny", **OWN}, text=f"Module: canny, {PAST}"
    ),
    "canny at the resolution of the picture": Row(
        cli="preprocessor=canny,resolution=64", choice=canny(), node={"resolution": 64},
        client={"module": "canny", "processor_res": 64}, text="Module: canny, Processor Res: 64",
    ),
    "canny at twice the resolution": Row(
        cli="preprocessor=canny,resolution=128", choice=canny(), node={"resolution": 128},
        client={"module": "canny", "processor_res": 128.0}, text="Module: canny, Processor Res: 128", size=2 * SIDE,
    ),
    "canny at a resolution that the WebUI's slider lacks": Row(
        cli="preprocessor=canny,resolution=16,low=20", choice=canny(low=20), node={"resolution": 16},
        client={"module": "canny", "resolution": 16, "threshold_a": 20},
        text="Module: canny, Processor Res: 16, Resolution: 16, Threshold A: 20", size=16,
    ),
    "pixel perfect": Row(
        cli="preprocessor=canny,pixel_perfect=yes", choice=canny(), node={"latent": True},
        client={"module": "canny", "pixel_perfect": True, "processor_res": 512},
        text="Module: canny, Pixel Perfect: True",
    ),
    "pixel perfect and larger": Row(
        cli="preprocessor=canny,pixel_perfect=true,resize=stretch", choice=canny(),
        node={"latent": True, "resize": "just resize"},
        client={"module": "canny", "pixel_perfect": "True", "resize_mode": 0},
        text="Module: canny, Pixel Perfect: True, Resize Mode: Just Resize", size=2 * SIDE,
    ),
    "canny with its numbers": Row(
        cli="preprocessor=canny,low=50,high=60", choice=canny(low=50, high=60),
        client={"module": "canny", "threshold_a": 50, "threshold_b": 60.0, **OWN},
        text=f"Module: canny, Threshold A: 50, Threshold B: 60, {PAST}",
    ),
    "numbers of 64 that no slider of a preprocessor has": Row(
        cli="preprocessor=lineart_standard",
        choice={"preprocessor": "lineart_standard", "sigma": 6.0, "threshold": 8.0},
        client={"module": "lineart_standard", "threshold_a": 64, "threshold_b": 64, **OWN},
        text=f"Module: lineart_standard, Threshold A: 64, Threshold B: 64, {PAST}",
    ),
    "numbers by name": Row(
        cli="preprocessor=lineart_standard,sigma=3,threshold=9",
        choice={"preprocessor": "lineart_standard", "sigma": 3.0, "threshold": 9.0},
        client={"module": "lineart_standard", "parameters": {"sigma": "3", "threshold": 9}, **OWN},
        text=f"Module: lineart_standard, Parameters: sigma=3; threshold=9, {PAST}",
    ),
    "a preprocessor with a seed": Row(
        cli="preprocessor=shuffle,seed=7", choice={"preprocessor": "shuffle", "seed": 7},
        client={"module": "shuffle", "preprocessor_seed": 7, **OWN},
        text=f"Module: shuffle, Preprocessor Seed: 7, {PAST}",
    ),
    "tiles, which have no resolution there": Row(
        cli="preprocessor=tile_resample,rate=2", choice={"preprocessor": "tile_resample", "rate": 2.0},
        client={"module": "tile_resample", "threshold_a": 2, "processor_res": 512},
        text="Module: tile_resample, Threshold A: 2, Processor Res: 512",
    ),
    "invert by its long name": Row(
        cli="preprocessor=invert", choice={"preprocessor": "invert"},
        client={"module": "invert (from white bg & black line)", **OWN},
        text=f"Module: invert (from white bg & black line), {PAST}",
    ),
    "the preprocessor that the model's file names": Row(
        cli="preprocessor=auto", choice={"preprocessor": "auto"}, client={"module": "auto", **OWN},
        text=f"Module: auto, {PAST}",
    ),
    "the same, with a number of one's own": Row(
        cli="preprocessor=auto,low=70", choice={"preprocessor": "auto", "low": 70},
        client={"module": "auto", "parameters": {"low": 70}, **OWN}, text=f"Module: auto, Parameters: low=70, {PAST}",
    ),
    "a strength of its own for weights of the base model": Row(
        cli="delta_strength=0.5", node={"delta_strength": 0.5}, client={"delta_strength": 0.5},
        text="Delta Strength: 0.5",
    ),
    # a union: the kind of its hint, as the preprocessor shows it or as it is said
    **{
        f"union of {words[0]}": Row(
            cli=f"options=union_control_type={words[0]}",
            node={"options": f"union_control_type={words[1]}"},
            client={"union_control_type": words[2]},
            text=f"Union Control Type: {words[3]}",
            model="union",
        )
        for words in (
            ("depth", "Depth", "Depth", "Depth"),
            ("mlsd", "canny/lineart/anime_lineart/mlsd", 3, "Hard Edge"),
            ("repaint", "inpaint", "Inpaint", "inpaint"),
        )
    },
    "a union's kind by the preprocessor": Row(
        cli="preprocessor=canny", choice=canny(), client={"module": "canny", **OWN}, text=f"Module: canny, {PAST}",
        model="union",
    ),
    "a union that shall find out": Row(
        cli="preprocessor=canny,options=union_control_type=auto", choice=canny(), host=[],
        client={"module": "canny", "options": {"union_control_type": "auto"}, **OWN},
        text=f"Module: canny, Options: union_control_type=auto, {PAST}",
        model="union",
    ),
    "a union's kind by ComfyUI's own node": Row(
        cli="preprocessor=canny,options=union_control_type=depth", choice=canny(), host=[1],
        client={"module": "canny", "union_control_type": "Depth", **OWN},
        text=f"Module: canny, Union Control Type: Depth, {PAST}",
        model="union",
    ),
    "several kinds in one pass": Row(
        cli="types=depth:1+tile:0.5,weight=0.8",
        node={"options": "union_control_type=Depth:1+tile:0.50", "weight": 0.8},
        client={"options": {"union_control_type": "depth + blur:0.5"}, "weight": 0.8},
        text="Options: union_control_type=depth+tile%3A0.5, Weight: 0.8",
        model="union",
    ),
    "less on the negative prompt": Row(
        cli="uncond_weight=0.25", node={"uncond_weight": 0.25}, client={"uncond_weight": 0.25},
        text="Uncond Weight: 0.25",
    ),
    "reuse by a name": Row(
        cli="reuse=strong", node={"reuse": "strong"}, client={"reuse": "strong"}, text="Reuse: strong",
    ),
    "reuse by the steps that are computed": Row(
        cli="reuse=0 1 2 5", node={"reuse": "0, 1, 2, 5"}, client={"reuse": [0, 1, 2, 5]}, text="Reuse: 0 1 2 5",
    ),
    "reuse by the steps of which some are shallow": Row(
        cli="reuse=0 2s 5", node={"reuse": "0, 2S, 5"}, client={"reuse": [0, "2s", 5]}, text="Reuse: 0 2s 5",
    ),
    "reuse while little changes": Row(
        cli="reuse=change:0.1", node={"reuse": "change:0.1"}, client={"reuse": "CHANGE:0.10"},
        text="Reuse: change%3A0.1",
    ),
    # the whole
    "everything at once": Row(
        cli=f"preprocessor=canny,low=40,high=90,resolution=64,weight=0.8,start=0.1,end=0.9,basis=steps,curve=0 1;1 0.5,"
        f"mode=control,resize=fill,block_weights={MANY}",
        choice=canny(low=40, high=90),
        node={"resolution": 64, "weight": 0.8, "start": 0.1, "end": 0.9, "basis": "steps", "mode": "control",
              "resize": "resize and fill"},
        curve="0 1\n1 0.5",
        blocks={"preset": "custom", "weights": MANY},
        client={"module": "canny", "processor_res": 64, "threshold_a": 40, "threshold_b": 90, "weight": 0.8,
                "guidance_start": 0.1, "guidance": 0.9, "range_basis": "steps", "curve": "0: 1; 1: 0.5",
                "control_mode": 2, "resize_mode": "Resize and Fill", "block_weights": MANY},
        text=f"Module: canny, Processor Res: 64, Threshold A: 40, Threshold B: 90, Weight: 0.8, Guidance Start: 0.1, "
        f"Guidance End: 0.9, Range Basis: steps, Curve: 0%3A 1; 1%3A 0.5, Control Mode: ControlNet is more important, "
        f"Resize Mode: Resize and Fill, Block Weights: {MANY}",
        effect=True,
    ),
}  # fmt: skip

REFUSED: dict[str, Row] = {
    "what an image encoder sees": Row(
        cli="preprocessor=ip-adapter-auto", choice={"preprocessor": "image_embedding"},
        client={"module": "ip-adapter_clip_sd15"}, text="Module: ip-adapter_clip_sd15",
    ),
    "a change beyond the bounds": Row(
        cli="reuse=change:1.5", node={"reuse": "change:1.5"}, client={"reuse": "change:1.5"},
        text="Reuse: change%3A1.5",
    ),
    "reuse by a word that means nothing": Row(
        cli="reuse=much", node={"reuse": "much"}, client={"reuse": "much"}, text="Reuse: much",
    ),
    "reuse from half a step": Row(
        cli="reuse=0 1.5", node={"reuse": "0 1.5"}, client={"reuse": [0, 1.5]}, text="Reuse: 0 1.5",
    ),
    "a weight beyond the bounds": Row(
        cli="weight=10.5", node={"weight": 10.5}, client={"weight": 10.5}, text="Weight: 10.5"
    ),
    "too few block weights": Row(
        cli="block_weights=1 2", blocks={"preset": "custom", "weights": "1 2"}, client={"advanced_weighting": [1, 2]},
        text="Block Weights: 1 2",
    ),
    "a range upside down": Row(
        cli="start=0.8,end=0.2", node={"start": 0.8, "end": 0.2}, client={"guidance_start": 0.8, "guidance_end": 0.2},
        text="Guidance Start: 0.8, Guidance End: 0.2",
    ),
    "a curve that is none": Row(cli="curve=up", curve="up", client={"curve": "up"}, text="Curve: up"),
    "a kind that a union does not know": Row(
        cli="options=union_control_type=fog", node={"options": "union_control_type=fog"},
        client={"options": {"union_control_type": "fog"}}, text="Options: union_control_type=fog", model="union",
    ),
    "an inpainting preprocessor's number": Row(
        cli="preprocessor=canny,low=0", choice=canny(low=0), client={"module": "canny", "parameters": {"low": 0}},
        text="Module: canny, Parameters: low=0",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """A photograph and two soft masks, as pixels and as files, and one control model."""

    folder: Path
    photograph: Image
    effect: Image
    inpaint: Image
    models: dict[str, ControlModel]
    services: Services

    def file(self, name: str) -> Path:
        path = self.folder / f"{name}.png"
        if not path.exists():
            write_image(path, getattr(self, name))
        return path

    def text(self, name: str) -> str:
        """In base64, as clients send pictures."""
        buffer = io.BytesIO()
        Pillow.fromarray(getattr(self, name)).save(buffer, "PNG")
        return base64.b64encode(buffer.getvalue()).decode()

    def tensor(self, name: str) -> torch.Tensor:
        """A batch of one, in 0..1, as ComfyUI has pictures and masks."""
        return torch.tensor(getattr(self, name)).float()[None] / 255


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (9, 9, 3), np.uint8)
    photograph = np.asarray(Pillow.fromarray(coarse).resize((SIDE, SIDE), Pillow.Resampling.BICUBIC), np.uint8)
    ramp = np.tile(np.linspace(0, 255, SIDE).round().astype(np.uint8), (SIDE, 1))
    folder = tmp_path_factory.mktemp("scene")
    (folder / "models").mkdir()
    shutil.copy(CONTROLS / "canny.safetensors", folder / "models")
    write_union(folder / "models" / "union.safetensors")
    files = (folder / "models").glob("*.safetensors")
    models = {each.stem: load_control_model(each, dtype=torch.float32) for each in files}
    services = Services(
        host=WebUI(),  # type: ignore[arg-type]
        program=Settings(),  # type: ignore[arg-type]
        files=ModelFiles([folder / "models"]),
        models=ModelCache(2**30),
        preprocess=Preprocessing(Runtime(store=Store(folder), pool=Pool(PlainManager("cpu")))),
    )
    return Scene(folder, photograph, ramp.T.copy(), ramp, models, services)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    with comfyui(tmp_path_factory.mktemp("comfyui")):
        unit = importlib.import_module("controlstack.nodes.node_unit")
        shape = importlib.import_module("controlstack.nodes.shapes.node_shape")
        yield SimpleNamespace(unit=unit, shape=shape)


def write_union(path: Path) -> None:
    """A union with the widths of the canny model, and random weights for what it has beside it."""
    canny = load_control_model(CONTROLS / "canny.safetensors", dtype=torch.float32)
    config = canny.network.config
    state = UnionNet(config, kinds=8, sinusoids=8, layers=1, kit=Kit(groups=config.groups)).state_dict()
    tensors = {**{name: torch.rand(each.shape) for name, each in state.items()}, **canny.network.state_dict()}
    metadata = {"controlstack.heads": str(config.heads), "controlstack.norm_groups": str(config.groups)}
    save_file(tensors, path, metadata)


def by_command_line(scene: Scene, row: Row) -> ControlUnit:
    said = [f"image={scene.file('photograph')}", f"model={scene.folder / 'models' / row.model}.safetensors"]
    said += [f"mask={scene.file('effect')}"] if row.effect else []
    said += [f"inpaint={scene.file('inpaint')}"] if row.inpaint else []
    said += [] if "basis=" in row.cli else ["basis=webui"]
    (loaded,) = load_units([parse_unit(",".join([*said, *filter(None, [row.cli])]))], (row.size,) * 2, torch.float32)
    return loaded.unit


def by_node(scene: Scene, row: Row, nodes: SimpleNamespace) -> ControlUnit:
    model = scene.models[row.model]
    own = SimpleNamespace(model=model, says=said_by(Path(model.source)))
    told = {} if row.host is None else {"control_type": row.host}
    said: dict[str, Any] = {
        "weight": 1.0, "start": 0.0, "end": 1.0, "basis": "webui", "mode": "balanced", "resize": "crop and resize",
        "resolution": 0, "enabled": True, **row.node,
    }  # fmt: skip
    if said.pop("latent", False):
        said["latent"] = {"samples": torch.zeros(1, 4, row.size // 8, row.size // 8)}
    if row.curve is not None:
        said["schedule"] = nodes.shape.ControlSchedule.execute({"shape": "keyframes", "keyframes": row.curve}).values[0]
    if row.blocks is not None:
        said["block_weights"] = nodes.shape.BlockWeightsNode.execute(row.blocks).values[0]
    nodes.unit.ControlUnit.validate_inputs(said["start"], said["end"], row.choice, True, said["weight"])
    output = nodes.unit.ControlUnit.execute(
        preprocessor=row.choice,
        control_net=SimpleNamespace(own=own, extra_args=told),
        image=scene.tensor("photograph"),
        mask=scene.tensor("effect") if row.effect else None,
        inpaint_mask=scene.tensor("inpaint") if row.inpaint else None,
        **said,
    )
    (spec,) = output.values[0]
    return spec.unit(model, spec.hint.movedim(-1, 1)[:, :3], spec.mask)


def by_client(scene: Scene, row: Row) -> ControlUnit:
    return _in_webui(scene, row, {"module": "none", "model": row.model, **row.client})


def by_text(scene: Scene, row: Row) -> ControlUnit:
    known = row.text if "Module" in row.text else ", ".join(filter(None, ("Module: none", row.text)))
    return _in_webui(scene, row, infotext.read({"ControlNet 0": f"{known}, Model: {row.model} [01234567]"})[0])


def _in_webui(scene: Scene, row: Row, said: dict[str, Any]) -> ControlUnit:
    services = scene.services
    pictures = {"image": scene.text("photograph")}
    pictures |= {"mask": scene.text("inpaint")} if row.inpaint else {}
    pictures |= {"effective_region_mask": scene.text("effect")} if row.effect else {}
    p = webui_request(row.size, row.size)
    args = [{"enabled": True, **said, **pictures}, *[None] * (SLOTS - 1)]
    units = write_text(services, p, units_of(args, services.program.basis))
    prepared = [prepare(services, p, unit, index) for index, unit in enumerate(units)]
    (unit,) = Passes(prepared, p, services.host, lambda: (True,)).present.stack.units
    return unit


Make = Callable[[str, Row], ControlUnit]
EDGES = ("command line", "node", "client", "text")


@pytest.fixture(scope="module")
def make(scene: Scene, nodes: SimpleNamespace) -> Make:
    """The unit of a row on an edge; each is made once."""
    by_edge: dict[str, Callable[[Row], ControlUnit]] = {
        "command line": lambda row: by_command_line(scene, row),
        "node": lambda row: by_node(scene, row, nodes),
        "client": lambda row: by_client(scene, row),
        "text": lambda row: by_text(scene, row),
    }
    made: dict[tuple[str, int], ControlUnit] = {}

    def once(edge: str, row: Row) -> ControlUnit:
        key = edge, id(row)
        return made[key] if key in made else made.setdefault(key, by_edge[edge](row))

    return once


def differing(a: ControlUnit, b: ControlUnit) -> list[str]:
    """The fields in which two units differ; models are the same if their networks hold the same weights.

    Where a unit comes from (`origin`) is no part of what it does.
    """
    names = [each.name for each in fields(ControlUnit) if each.name not in ("model", "origin")]
    found = [name for name in names if not _same(getattr(a, name), getattr(b, name))]
    return found if _same_model(a.model, b.model) else ["model", *found]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and bool(a == b)


def _same_model(a: ControlModel, b: ControlModel) -> bool:
    mine, theirs = a.network.state_dict(), b.network.state_dict()
    promises = [(each.name, each.base, each.points, dict(each.options), each.hint_space) for each in (a, b)]
    return promises[0] == promises[1] and all(_same(mine[name], theirs[name]) for name in mine | theirs)


def test_there_are_enough_rows() -> None:
    assert len(ROWS) >= 50


@pytest.mark.parametrize("name", ROWS)
def test_a_request_is_one_unit_on_every_edge(name: str, make: Make) -> None:
    first, *others = [make(edge, ROWS[name]) for edge in EDGES]
    assert {edge: differing(first, other) for edge, other in zip(EDGES[1:], others, strict=True)} == {
        edge: [] for edge in EDGES[1:]
    }


def test_the_rows_differ_from_one_another(make: Make) -> None:
    """Equality that sees nothing would let every row pass."""
    units = {name: make("command line", row) for name, row in ROWS.items()}
    plain = units.pop("nothing said")
    same = {name for name, unit in units.items() if not differing(plain, unit)}
    assert same == {"weight 1.0", "mode balanced", "resize crop"}


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_refused_on_every_edge(edge: str, name: str, make: Make) -> None:
    with pytest.raises(ControlError):
        make(edge, REFUSED[name])


def test_an_option_that_the_model_lacks_is_refused_and_none_is_not(make: Make) -> None:
    said = Row(
        cli="options=union_control_type=Depth",
        node={"options": "union_control_type=Depth"},
        client={"union_control_type": "Depth"},
        text="Union Control Type: Depth",
    )
    for edge in EDGES:
        with pytest.raises(ControlError, match="'canny' has no option 'union_control_type'"):
            make(edge, said)
    for number in ("Unknown", 8):
        assert make("client", Row(client={"union_control_type": number})).model.options == {}


def test_masks_are_two_things(make: Make) -> None:
    """The same picture as either of the two."""
    acts, invents = make("command line", Row(effect=True)), make("command line", ROWS["inpaint_only"])
    assert acts.mask is not None and acts.hint.min() >= 0
    assert invents.mask is None
    gaps = (invents.hint == -1).all(dim=1)[0]
    assert gaps.sum() == SIDE * SIDE // 2  # from half on, of a ramp from 0 to 255
    assert not gaps[:, : SIDE // 2].any()
