"""Runs inside ComfyUI, for our tests alone: our tiny world as a checkpoint, so that the host draws real pictures."""

import json
from pathlib import Path

import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import comfy.utils
import torch
from comfy.clip_model import CLIPTextModel_
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTokenizer

MAGNITUDE = 3  # at which the autoencoder's latents are clamped


def _config(unet):
    widths = unet["block_out_channels"]
    levels = [1 if kind.startswith("CrossAttn") else 0 for kind in unet["down_block_types"]]
    return {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "use_spatial_transformer": True,
        "legacy": False,
        "model_channels": widths[0],
        "context_dim": unet["cross_attention_dim"],
        "adm_in_channels": None,
        "use_linear_in_transformer": False,
        "use_temporal_attention": False,
        "channel_mult": [width // widths[0] for width in widths],
        "num_res_blocks": [2] * len(widths),
        "transformer_depth": [level for level in levels for _ in range(2)],
        "transformer_depth_output": [level for level in levels for _ in range(3)],
        "transformer_depth_middle": 1,
        "num_heads": unet["attention_head_dim"],
        "num_head_channels": -1,
    }


class _Scaled(comfy.latent_formats.SD15):
    def __init__(self, factor):
        super().__init__()
        self.scale_factor = factor


def _model(folder):
    unet = json.loads((folder / "unet" / "config.json").read_text())
    config = _config(unet)
    names = ("context_dim", "model_channels", "use_linear_in_transformer", "adm_in_channels", "use_temporal_attention")
    known = {name: config[name] for name in names}
    family = type("TinyWorld", (comfy.supported_models.SD15,), {"unet_config": known})
    chosen = family(config)
    chosen.latent_format = _Scaled(json.loads((folder / "vae" / "config.json").read_text())["scaling_factor"])
    chosen.set_inference_dtype(torch.float32, None)
    model = chosen.get_model({}).eval()
    state = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    map_ = comfy.utils.unet_to_diffusers(config)
    model.diffusion_model.load_state_dict({map_[name]: value.float() for name, value in state.items()})
    for module in model.diffusion_model.modules():
        if isinstance(module, nn.GroupNorm):
            module.num_groups = unet["norm_num_groups"]
    device, offload = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=offload)
    (patched,) = ModelSamplingDiscrete().patch(patcher, "v_prediction", True)
    return patched


class _Clip:
    """What the host's text nodes ask of a CLIP."""

    def __init__(self, folder):
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        config = json.loads((folder / "text_encoder" / "config.json").read_text())
        self.length = config["max_position_embeddings"]
        self.encoder = CLIPTextModel_(config, torch.float32, "cpu", comfy.ops.disable_weight_init)
        words = comfy.ops.disable_weight_init.Embedding(config["vocab_size"], config["hidden_size"])
        self.encoder.embeddings.token_embedding = words
        state = load_file(folder / "text_encoder" / "model.safetensors")
        self.encoder.load_state_dict({name.removeprefix("text_model."): each.float() for name, each in state.items()})

    def tokenize(self, text):
        return self.tokenizer(
            text, padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        ).input_ids

    def encode_from_tokens_scheduled(self, tokens):
        with torch.no_grad():
            return [[self.encoder(tokens)[0], {"pooled_output": None}]]


class _Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        convs = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])

    def forward(self, x):
        return torch.relu(self.conv(x) + x)


def _decoder(config):
    width, counts = config["decoder_block_out_channels"][0], config["num_decoder_blocks"]
    layers = [nn.Conv2d(config["latent_channels"], width, 3, padding=1), nn.ReLU()]
    for level, count in enumerate(counts):
        last = level == len(counts) - 1
        layers += [_Block(width) for _ in range(count)]
        layers += [] if last else [nn.Upsample(scale_factor=2)]
        layers += [nn.Conv2d(width, 3 if last else width, 3, padding=1, bias=last)]
    return nn.Sequential(*layers)


def _encoder(config):
    width, layers = config["encoder_block_out_channels"][0], []
    for level, count in enumerate(config["num_encoder_blocks"]):
        halving = {"stride": 2, "bias": False} if level else {}
        layers += [nn.Conv2d(width if level else 3, width, 3, padding=1, **halving)]
        layers += [_Block(width) for _ in range(count)]
    return nn.Sequential(*layers, nn.Conv2d(width, config["latent_channels"], 3, padding=1))


class _Vae:
    """What the host's VAE Decode, and a control that reads latents, ask of a VAE."""

    def __init__(self, folder):
        config = json.loads((folder / "vae" / "config.json").read_text())
        self.decoder, self.encoder = _decoder(config).eval(), _encoder(config).eval()
        state = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
        for network, prefix in ((self.decoder, "decoder.layers."), (self.encoder, "encoder.layers.")):
            network.load_state_dict(
                {name[len(prefix) :]: value.float() for name, value in state.items() if name.startswith(prefix)}
            )
        self.factor = config["scaling_factor"]

    def encode(self, pixels):
        with torch.no_grad():
            return self.encoder(pixels.movedim(-1, 1))

    def decode(self, latents):
        with torch.no_grad():
            return self.decoder(torch.tanh(latents / MAGNITUDE) * MAGNITUDE).clamp(0, 1).movedim(1, -1)


class TestWorld:
    """MODEL, CLIP and VAE of the tiny world."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MODEL", "CLIP", "VAE")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"folder": ("STRING", {"default": ""})}}

    def make(self, folder):
        place = Path(folder)
        return _model(place), _Clip(place), _Vae(place)


NODE_CLASS_MAPPINGS = {"TestWorld": TestWorld}
