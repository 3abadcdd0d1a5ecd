"""A small Anima for Forge Neo: what makes its loader take one, and by `python neo_anima_pack.py NEO FOLDER` the file.

Neo takes the sizes of Anima's transformer and of its text encoder from its own code, those of the autoencoder from a
folder of descriptions. All are a small part of the real ones here; only the encoder's table of words is as long.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import importlib
import importlib.util
import json
import shutil
import sys
from dataclasses import field, make_dataclass
from functools import partial
from pathlib import Path
from typing import Any

NAME, FOLDER = "anima", "Anima"  # of the checkpoint, and of the folder of descriptions, by which Neo knows an Anima
SOURCE = Path("backend") / "huggingface" / "circlestone-labs" / "Anima"
WIDTH, BLOCKS, HEADS, CONTEXT = 64, 2, 2, 32
TEXT = 32  # width of the text encoder
TEXTS = {
    "hidden_size": TEXT, "intermediate_size": 2 * TEXT, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1,
}  # fmt: skip
HEAD = 16  # channels of a head of the text encoder; Neo compares it with no description
AUTOENCODER = {"base_dim": 16, "num_res_blocks": 1}
TRANSFORMER = {
    "in_channels": 16, "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1, "model_channels": WIDTH,
    "concat_padding_mask": True, "crossattn_emb_channels": CONTEXT, "adaln_lora_dim": 16, "num_blocks": BLOCKS,
    "num_heads": HEADS, "rope_h_extrapolation_ratio": 4.0, "rope_w_extrapolation_ratio": 4.0,
    "rope_t_extrapolation_ratio": 1.0,
}  # fmt: skip


def shrink(folder: Path) -> None:
    """Make Neo's loader take the small one, whose descriptions lie in a folder."""
    from backend.nn.llm import llama

    sizes = [(name, int, field(default=size)) for name, size in TEXTS.items()]
    llama.Qwen3_06BConfig = make_dataclass(
        "SmallText", sizes, bases=(llama.Qwen3_06BConfig,), namespace={"head_dim": HEAD}
    )
    llama.LLMAdapter = partial(
        importlib.import_module("backend.nn.anima").LLMAdapter,
        source_dim=TEXT, target_dim=CONTEXT, model_dim=CONTEXT, num_layers=1, num_heads=2,
    )  # fmt: skip
    for package in ("huggingface_guess", "modules_forge.packages.huggingface_guess"):  # Neo imports it by both names
        importlib.import_module(f"{package}.model_list").Anima.huggingface_repo = str(folder)
        detection = importlib.import_module(f"{package}.detection")
        detection.detect_unet_config = _detecting(detection.detect_unet_config)


def _detecting(theirs: Any) -> Any:
    def detect(state_dict: Any, prefix: str) -> Any:
        first = state_dict.get(f"{prefix}blocks.0.mlp.layer1.weight")
        if first is not None and first.shape[1] == WIDTH:
            return {"image_model": "anima", **TRANSFORMER}
        return theirs(state_dict, prefix)

    return detect


def describe(neo: Path, folder: Path) -> None:
    """Write the folder of descriptions."""
    shutil.copytree(neo / SOURCE, folder)
    (folder / "text_encoder" / "config.json").write_text(json.dumps({"hidden_size": TEXT}))
    path = folder / "vae" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **AUTOENCODER}))


def main(neo: Path, target: Path) -> None:
    """Write the checkpoint, from Neo's own classes with weights by chance."""
    del sys.argv[1:]
    sys.argv.append("--cpu")
    sys.path[:0] = [str(neo), str(neo / "modules_forge" / "packages")]
    import torch
    from backend.operations import using_forge_operations
    from safetensors.torch import save_file

    shrink(neo / SOURCE)
    from backend.nn.anima import Anima
    from backend.nn.llm.llama import Qwen3_06B
    from backend.nn.wan_vae import WanVAE

    settings = {**json.loads((neo / SOURCE / "vae" / "config.json").read_text()), **AUTOENCODER}
    with using_forge_operations(device=torch.device("cpu"), dtype=torch.float32):
        text = Qwen3_06B({"hidden_size": TEXT})
        networks = {
            "model.diffusion_model.": Anima(**TRANSFORMER),
            "text_encoders.qwen3_06b.transformer.": text,
            "vae.": WanVAE.from_config(settings),
        }
    generator, state = torch.Generator().manual_seed(0), dict[str, Any]()
    for prefix, network in networks.items():
        for name, weight in network.state_dict().items():
            place = "model.diffusion_model." if name.startswith("llm_adapter.") else prefix
            state[place + name] = _random(weight, generator)
    save_file(state, target / f"{NAME}.safetensors")


def _random(weight: Any, generator: Any) -> Any:
    """Numbers by chance, near 1 where they are factors of a norm, so that the answers neither vanish nor explode."""
    import torch

    size = weight[0].numel() if weight.ndim > 1 else 0
    drawn = torch.randn(weight.shape, generator=generator)
    return drawn / size**0.5 if size else 1 + 0.1 * drawn


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
elif importlib.util.find_spec("modules_forge"):  # inside Neo, and not where a test asks for the names above
    shrink(Path(__file__).resolve().parents[3] / FOLDER)
