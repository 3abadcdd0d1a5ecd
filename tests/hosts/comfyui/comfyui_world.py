"""Our tiny world inside a real ComfyUI: its files where the host looks, and the pictures that come back."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from comfyui_host import ROOT, Graph, Host, Link, Node, output
from numpy.typing import NDArray

Image = NDArray[np.uint8]
TINY = ROOT / "pipelines" / "tiny"
LOADERS = ("CheckpointLoaderSimple", "DiffusersLoader")
SIDE = 128  # pixels, at which it was trained
SHRINK = 4  # from 512 pixels
WRITTEN = {  # the same, in the text of a WebUI
    r"Model: control\S+ \[\w+\]": "Model: tiny-canny",
    "Processor Res: 512": f"Processor Res: {SIDE}",
    "Threshold A: 100, Threshold B: 200": "Threshold A: 50, Threshold B: 100",
}
TRAINED = {"preprocessor.low": 50, "preprocessor.high": 100, "preprocessor.cell": 8}  # as its controls saw hints


def put_into(base: Path) -> None:
    """Its controls as tiny-canny.safetensors and so on, its example pictures, into a host's folders."""
    (base / "input").mkdir(parents=True, exist_ok=True)
    for file in (TINY / "controls").glob("*.safetensors"):
        (base / "models" / "controlnet" / f"tiny-{file.name}").symlink_to(file)
    for file in (TINY / "images").glob("*.png"):
        shutil.copy(file, base / "input")
    shutil.copy(TINY / "images" / "scene-1.png", base / "input" / "example.png")


def sampled(graph: Graph, prompts: tuple[Link, Link], world: Link, seed: int, steps: int = 20) -> Link:
    """VAE-decoded pictures of a run with the scheduler that the tiny world was trained for."""
    samples = graph.add(
        "KSampler",
        model=world,
        positive=prompts[0],
        negative=prompts[1],
        latent_image=graph.add("EmptyLatentImage", width=SIDE, height=SIDE, batch_size=1),
        seed=seed,
        steps=steps,
        cfg=1.0,
        sampler_name="euler",
        scheduler="normal",
        denoise=1.0,
    )
    return graph.add("VAEDecode", samples=samples, vae=output(world, 2))


def seen(host: Host, graph: Graph, picture: Link) -> Image:
    """Run, and return the picture, uint8 RGB [H, W, 3]."""
    saver = graph.add("SaveImage", images=picture, filename_prefix="world")
    saved = host.run(graph)["outputs"][saver[0]]["images"][0]
    bgr = cv2.imread(str(host.base / "output" / saved.get("subfolder", "") / saved["filename"]))
    assert bgr is not None
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def scene(name: str) -> Image:
    """An example picture, uint8 RGB."""
    bgr = cv2.imread(str(TINY / "images" / name))
    assert bgr is not None
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def in_tiny(nodes: Mapping[str, Node], prompt: str = "") -> dict[str, Node]:
    """A graph for real checkpoints as one for the tiny world: other files, smaller sizes, its own scale of guidance."""
    return {name: {**node, "inputs": _tiny(node, prompt)} | _loader(node) for name, node in nodes.items()}


def _loader(node: Node) -> Node:
    return {"class_type": "TestWorld"} if node["class_type"] in LOADERS else {}


def _tiny(node: Node, prompt: str) -> dict[str, Any]:
    inputs = dict(node["inputs"])
    if node["class_type"] in LOADERS:
        return {"folder": str(TINY / "base")}
    if node["class_type"] == "ControlStackLoadControlModel":
        return {**inputs, "name": f"tiny-{'color' if 'color' in inputs['name'] else 'canny'}.safetensors"}
    if node["class_type"] == "KSampler":
        return {**inputs, "cfg": 2.0}
    if "infotext" in inputs:
        text = re.sub(r"^.*(?=\nNegative)", prompt, inputs["infotext"])
        for old, new in WRITTEN.items():
            text = re.sub(old, new, text)
        return {**inputs, "infotext": text}
    if isinstance(inputs.get("text"), str) and inputs["text"]:
        return {**inputs, "text": prompt}
    scaled = {key: inputs[key] // SHRINK for key in ("width", "height", "x", "y") if key in inputs}
    trained = {name: value for name, value in TRAINED.items() if name in inputs}
    return inputs | scaled | trained
