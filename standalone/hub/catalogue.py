"""Known models by short names, each one file: where it is, how large, under which licence.

Exact sizes and digests are the hub's own, read when a file is fetched.
"""

from __future__ import annotations

from dataclasses import dataclass

SD15_CONTROLS = "comfyanonymous/ControlNet-v1-1_fp16_safetensors"
IP_ADAPTERS = "h94/IP-Adapter"
BASE, CONTROL = "base model", "control model"


@dataclass(frozen=True, slots=True)
class Known:
    """A model of the catalogue."""

    name: str
    kind: str
    about: str
    repository: str
    file: str
    size: str  # about
    licence: str


def _controlnet(kind: str, file: str) -> Known:
    about = f"ControlNet 1.1 for SD 1.5: {kind}"
    name = f"controlnet-{kind}"
    return Known(name, CONTROL, about, SD15_CONTROLS, f"{file}_fp16.safetensors", "723 MB", "CreativeML OpenRAIL-M")


def _ip_adapter(name: str, about: str, file: str, size: str) -> Known:
    return Known(name, CONTROL, about, IP_ADAPTERS, file, size, "Apache-2.0")


CATALOGUE: tuple[Known, ...] = (
    Known(
        "sd15", BASE, "Stable Diffusion 1.5", "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "v1-5-pruned-emaonly.safetensors", "4.3 GB", "CreativeML OpenRAIL-M",
    ),
    Known(
        "sdxl", BASE, "Stable Diffusion XL 1.0", "stabilityai/stable-diffusion-xl-base-1.0",
        "sd_xl_base_1.0.safetensors", "6.9 GB", "CreativeML OpenRAIL++-M",
    ),
    _controlnet("canny", "control_v11p_sd15_canny"),
    _controlnet("depth", "control_v11f1p_sd15_depth"),
    _controlnet("openpose", "control_v11p_sd15_openpose"),
    _controlnet("softedge", "control_v11p_sd15_softedge"),
    _controlnet("scribble", "control_v11p_sd15_scribble"),
    _controlnet("lineart", "control_v11p_sd15_lineart"),
    _controlnet("lineart-anime", "control_v11p_sd15s2_lineart_anime"),
    _controlnet("mlsd", "control_v11p_sd15_mlsd"),
    _controlnet("normalbae", "control_v11p_sd15_normalbae"),
    _controlnet("seg", "control_v11p_sd15_seg"),
    _controlnet("inpaint", "control_v11p_sd15_inpaint"),
    _controlnet("tile", "control_v11f1e_sd15_tile"),
    _controlnet("shuffle", "control_v11e_sd15_shuffle"),
    _controlnet("ip2p", "control_v11e_sd15_ip2p"),
    Known(
        "controlnet-union-sdxl", CONTROL, "ControlNet-Union ProMax for SDXL", "xinsir/controlnet-union-sdxl-1.0",
        "diffusion_pytorch_model_promax.safetensors", "2.5 GB", "Apache-2.0",
    ),
    Known(
        "uni-controlnet", CONTROL, "Uni-ControlNet for SD 1.5: seven kinds of hints, and content",
        "shihaozhao/uni-controlnet", "uni.ckpt", "6 GB", "MIT",
    ),
    _ip_adapter("ip-adapter", "IP-Adapter for SD 1.5", "models/ip-adapter_sd15.safetensors", "45 MB"),
    _ip_adapter("ip-adapter-plus", "IP-Adapter Plus for SD 1.5", "models/ip-adapter-plus_sd15.safetensors", "98 MB"),
    _ip_adapter("ip-adapter-sdxl", "IP-Adapter for SDXL", "sdxl_models/ip-adapter_sdxl_vit-h.safetensors", "698 MB"),
)  # fmt: skip


def find_known(name: str) -> Known | None:
    """Return the model of a short name; None for other names."""
    return next((each for each in CATALOGUE if each.name == name.strip().lower()), None)
