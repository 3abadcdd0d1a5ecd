"""Runs inside ComfyUI, for our tests alone: small transformers, controls of the host's kinds, and a VAE."""

from contextlib import nullcontext
from functools import partial
from unittest.mock import patch

import comfy.cldm.dit_embedder
import comfy.controlnet
import comfy.latent_formats
import comfy.ldm.flux.controlnet
import comfy.ldm.qwen_image.controlnet
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import folder_paths
import torch
from safetensors.torch import save_file

FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 1280,
    "context_in_dim": 64,
    "hidden_size": 64,
    "mlp_ratio": 2.0,
    "num_heads": 4,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [4, 6, 6],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": True,
    "txt_ids_dims": [],
}
QWEN = {
    "image_model": "qwen_image",
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "joint_attention_dim": 64,
    "axes_dims_rope": (4, 6, 6),
}
SD3 = {
    "in_channels": 16,
    "patch_size": 2,
    "input_size": None,
    "depth": 2,
    "adm_in_channels": 2048,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 64, "out_features": 128}},
    "pos_embed_scaling_factor": None,
    "pos_embed_max_size": 32,
    "num_patches": 1024,
    "qk_norm": "rms",
}
ANIMA = {
    "image_model": "anima",
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 64,
    "concat_padding_mask": True,
    "crossattn_emb_channels": 64,
    "num_blocks": 2,
    "num_heads": 4,
    "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True,
    "pos_emb_interpolation": "crop",
    "use_adaln_lora": True,
    "adaln_lora_dim": 16,
    "extra_per_block_abs_pos_emb": False,
    "rope_enable_fps_modulation": False,
}
KINDS = {
    "Flux": (comfy.supported_models.Flux, FLUX, comfy.latent_formats.Flux),
    "Qwen": (comfy.supported_models.QwenImage, QWEN, comfy.latent_formats.Wan21),
    "SD3": (comfy.supported_models.SD3, SD3, comfy.latent_formats.SD3),
}
if hasattr(comfy.supported_models, "Anima"):
    KINDS["Anima"] = (comfy.supported_models.Anima, ANIMA, comfy.latent_formats.Wan21)


def _fill(network, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1:
            norm = "norm" in name or "rms" in name
            parameter.data = torch.ones_like(parameter) if norm else torch.zeros_like(parameter)
        else:
            fan = parameter[0].numel()
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.7 / fan**0.5
    for buffer in network.buffers():  # SD3's table of positions is made without values
        buffer.data = torch.randn(buffer.shape, generator=generator).to(buffer.dtype)
    return network.eval()


def _small_adapter():
    """Let Anima's adapter of texts, whose sizes are no part of the configuration, be a small one."""
    if "Anima" not in KINDS:
        return nullcontext()
    from comfy.ldm.anima import model

    small = {"source_dim": 64, "target_dim": 64, "model_dim": 64, "num_layers": 1, "num_heads": 4}
    return patch.object(model, "LLMAdapter", partial(model.LLMAdapter, **small))


class TestTransformer:
    """MODEL with seeded random weights."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"kind": (list(KINDS),), "seed": ("INT", {"default": 0})}}

    def make(self, kind, seed):
        family, config, _ = KINDS[kind]
        chosen = family(dict(config))
        chosen.set_inference_dtype(torch.float32, None)
        with _small_adapter():
            model = chosen.get_model({})
        _fill(model.diffusion_model, seed)
        device, offload = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
        return (comfy.model_patcher.ModelPatcher(model.eval(), load_device=device, offload_device=offload),)


class TestTransformerControl:
    """CONTROL_NET of the host's own kind, with seeded random weights; invents: it reads a mask beside the picture."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("CONTROL_NET",)

    @classmethod
    def INPUT_TYPES(cls):
        how = {"kind": (list(KINDS),), "seed": ("INT", {"default": 1}), "invents": ("BOOLEAN", {"default": False})}
        return {"required": how, "optional": {"bent": ("BOOLEAN", {"default": False})}}

    def make(self, kind, seed, invents, bent=False):
        if kind == "SD3":
            return (_sd3(seed),)
        _, config, latents = KINDS[kind]
        given = {**config, "operations": comfy.ops.manual_cast, "dtype": torch.float32}
        if kind == "Flux":
            network = comfy.ldm.flux.controlnet.ControlNetFlux(
                latent_input=True, control_latent_channels=17 if invents else 16, **given
            )
        else:
            network = comfy.ldm.qwen_image.controlnet.QwenImageControlNetModel(
                extra_condition_channels=4 if invents else 0, **given
            )
        made = (_Bent if bent else comfy.controlnet.ControlNet)(
            _fill(network, seed),
            compression_ratio=1,
            latent_format=latents(),
            concat_mask=invents,
            load_device=comfy.model_management.get_torch_device(),
            extra_conds=["y", "guidance"] if kind == "Flux" else [],
        )
        return (made,)


def _sd3(seed):
    """A control as the host makes it of files for SD 3.5, whose blocks carry no text."""
    network = comfy.cldm.dit_embedder.ControlNetEmbedder(
        img_size=None,
        patch_size=2,
        in_chans=16,
        num_layers=2,
        main_model_double=2,
        double_y_emb=False,
        attention_head_dim=64,
        num_attention_heads=2,
        adm_in_channels=2048,
        device=torch.device("cpu"),
        dtype=torch.float32,
        operations=comfy.ops.manual_cast,
    )
    device = comfy.model_management.get_torch_device()
    return comfy.controlnet.ControlNetSD35(
        _fill(network, seed), compression_ratio=1, latent_format=comfy.latent_formats.SD3(), load_device=device
    )


class TestSaveControl:
    """A file for SD 3.5 among the host's control models."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "tests", "make", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"name": ("STRING", {"default": "sd35"}), "seed": ("INT", {"default": 1})}}

    def make(self, name, seed):
        folder = folder_paths.get_folder_paths("controlnet")[0]
        save_file(_sd3(seed).control_model.state_dict(), f"{folder}/{name}.safetensors")
        return ()


class TestModelPatch:
    """MODEL_PATCH for the Qwen model, as the host's loader makes it of a DiffSynth file."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MODEL_PATCH",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def make(self):
        from comfy_extras.nodes_model_patch import QwenImageBlockWiseControlNet

        network = QwenImageBlockWiseControlNet(
            num_layers=QWEN["num_layers"], dim=64, operations=comfy.ops.manual_cast, dtype=torch.float32
        )
        device, rest = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
        return (comfy.model_patcher.ModelPatcher(_fill(network, 3), load_device=device, offload_device=rest),)


class TestAnimaPatch:
    """MODEL_PATCH for the Anima model: a LLLite of all its targets, as the host's loader makes it of a file."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MODEL_PATCH",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def make(self):
        from comfy.ldm.anima.lllite import AnimaLLLite

        width, seen, hint, inner = ANIMA["model_channels"], 8, 16, 12
        shapes = {
            "lllite_conditioning1.conv1.weight": (hint // 2, 3, 4, 4),
            "lllite_conditioning1.conv3.weight": (hint, hint // 2, 4, 4),
            "lllite_conditioning1.proj.weight": (seen, hint, 1, 1),
            "lllite_conditioning1.resblocks.0.conv1.weight": (hint, hint, 3, 3),
        }
        targets = ("self_attn_q_proj", "self_attn_k_proj", "self_attn_v_proj", "cross_attn_q_proj", "mlp_layer1")
        for name in (f"lllite_dit_blocks_{i}_{each}" for i in range(ANIMA["num_blocks"]) for each in targets):
            shapes |= {f"{name}.down.weight": (inner, width), f"{name}.cond_to_film.weight": (2 * inner, seen)}
        state = {name: torch.zeros(shape) for name, shape in shapes.items()}
        network = AnimaLLLite(state, {"lllite.version": "2"}, dtype=torch.float32, operations=comfy.ops.manual_cast)
        device, rest = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
        return (comfy.model_patcher.ModelPatcher(_fill(network, 3), load_device=device, offload_device=rest),)


class TestElsewhere:
    """MODEL with a patch where no unit can weigh it."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def make(self, model):
        made = model.clone()
        made.set_model_patch(_Bent.get_control, "post_input")
        return (made,)


class TestControlLora:
    """CONTROL_NET as the host makes it of a Control-LoRA: a network that it completes from the base model."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("CONTROL_NET",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def make(self):
        weights = {"lora_controlnet": torch.zeros(0), "input_hint_block.0.weight": torch.zeros(16, 3, 3, 3)}
        return (comfy.controlnet.ControlLora(weights),)


class _Bent(comfy.controlnet.ControlNet):
    """One whose strength is not linear, as the host has some."""

    def get_control(self, *arguments):
        strength, self.strength = self.strength, self.strength**0.5
        try:
            return super().get_control(*arguments)
        finally:
            self.strength = strength

    def copy(self):
        made = _Bent(None, load_device=self.load_device)
        made.control_model, made.control_model_wrapped = self.control_model, self.control_model_wrapped
        self.copy_to(made)
        return made


class _Vae:
    """What the host's controls ask of a VAE."""

    def __init__(self, frames):
        self.layer = _fill(torch.nn.Conv2d(3, 16, 8, stride=8, bias=False), 9)
        self.frames = frames

    def spacial_compression_encode(self):
        return 8

    def encode(self, pixels):
        with torch.no_grad():
            latents = self.layer(pixels.movedim(-1, 1)[:, :3] * 4 - 2)
        return latents.unsqueeze(2) if self.frames else latents


class TestTransformerVAE:
    """VAE of seeded random weights."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("VAE",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"kind": (list(KINDS),)}}

    def make(self, kind):
        return (_Vae(kind == "Qwen"),)


NODES = (
    *(TestTransformer, TestTransformerControl, TestTransformerVAE, TestSaveControl, TestControlLora),
    *(TestModelPatch, TestAnimaPatch, TestElsewhere),
)
NODE_CLASS_MAPPINGS = {each.__name__: each for each in NODES}
