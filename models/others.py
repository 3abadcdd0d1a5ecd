"""What a file is that no family here reads: its kind in words, and what to do with it.

Kinds are told by exact names of weights, by what stands before the first dots, and by single parts between dots; never
by what a longer name happens to contain. Layouts: the loaders of ComfyUI (`comfy/controlnet.py`, `model_detection.py`),
diffusers' classes, and the projects' own code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from .guard import shown
from .names import unwrapped

Shapes = Mapping[str, tuple[int, ...]]
Test = Callable[["Names"], bool]

FEW = 3  # names in a message
QWEN_21 = 129  # inputs of its control: latents of the hint and of the picture, 64 each, and a mask
ANIMA, PIXELS = "lllite_conditioning1", (3, 4)  # of ControlLLLite for Anima: its trunk, and the channels of a hint
HOST = "in ComfyUI load it with 'Load ControlNet Model', whose output ControlStack's units take"
PATCH = "in ComfyUI load it with 'Load Model Patch' and the node of its name"
BASE = "load it as the base model"
ITS_OWN = "use its own loader"
LORA = "a LoRA: load it where your program loads LoRAs"
VAE = "an autoencoder (VAE): load it as such"
TRANSFORMERS = ("", "transformer.", "diffusion_model.", "model.diffusion_model.")  # before a base model's names
LORA_PARTS = (
    "lora_up", "lora_down", "lora_A", "lora_B", "lora", "lora_mid", "hada_w1_a", "hada_w2_a", "lokr_w1", "lokr_w2",
    "lokr_w1_a", "lokr_w2_a", "to_q_lora", "to_k_lora", "to_v_lora", "to_out_lora", "oft_blocks", "on_input",
)  # fmt: skip


class Names:
    """The names and shapes of a file, to be asked about."""

    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes
        self._starts = {start for name in shapes for start in _starts(name)}
        self._parts = {part for name in shapes for part in name.split(".")}

    def has(self, *names: str) -> bool:
        """Return whether all of these weights are there."""
        return all(name in self._shapes for name in names)

    def under(self, *starts: str) -> bool:
        """Return whether there are weights below each of these names."""
        return all(start in self._starts for start in starts)

    def part(self, *parts: str) -> bool:
        """Return whether one of these stands between two dots of any name."""
        return any(part in self._parts for part in parts)

    def first(self, *starts: str) -> bool:
        """Return whether the first part of any name begins with one of these, as flattened names of layers do."""
        return any(start.startswith(starts) for start in self._starts if "." not in start)

    def width(self, name: str, axis: int = 1) -> int:
        """Return one side of a weight; 0 where there is none."""
        shape = self._shapes.get(name, ())
        return shape[axis] if len(shape) > axis else 0

    def base(self, *starts: str) -> bool:
        """Return whether there are weights below each of these names of a base model, whatever stands before them."""
        return any(self.under(*(prefix + start for start in starts)) for prefix in TRANSFORMERS)


# Control networks of other kinds. They are asked for first, since some of them look like ours.
CONTROLS: tuple[tuple[Test, str], ...] = (
    (
        lambda n: n.under("lllite_modules") or _of_another_version(n),
        "a ControlLLLite model for Anima in another form than version 2 with a hint of pixels, the one that is read: "
        "get it in that version, or use its own nodes in ComfyUI",
    ),
    (lambda n: n.under("control_all_x_embedder"), f"a Z-Image Fun ControlNet: {PATCH}"),
    (
        lambda n: n.has("control_img_in.weight") and n.under("control_transformer_blocks"),
        f"a FLUX.2 Fun ControlNet, which is not supported: {ITS_OWN}",
    ),
    (
        lambda n: n.width("control_img_in.weight") == QWEN_21 and n.under("control_blocks"),
        f"a Qwen-Image 2.1 Fun ControlNet: {PATCH}",
    ),
    (lambda n: n.has("control_img_in.weight") and n.under("control_blocks"), f"a Qwen-Image Fun ControlNet: {HOST}"),
    (lambda n: n.has("control_proj_in.weight"), f"a MiniMax H3 Fun ControlNet: {PATCH}"),
    (
        lambda n: n.has("controlnet_blocks.0.y_rms.weight"),
        f"a blockwise Qwen-Image ControlNet (DiffSynth): {PATCH}",
    ),
    (
        lambda n: n.under("double_blocks.0") and n.under("controlnet_blocks.0"),
        f"a FLUX.1 ControlNet (XLabs, MistoLine): {HOST}",
    ),
    (lambda n: n.has("controlnet_blocks.0.linear.weight"), f"a FLUX.1 ControlNet (MistoLine): {HOST}"),
    (
        lambda n: n.has("pos_embed_input.proj.weight") and n.has("transformer_blocks.0.adaLN_modulation.1.bias"),
        f"an SD 3.5 ControlNet: {HOST}",
    ),
    (lambda n: n.has("pos_embed_input.proj.weight"), f"an SD 3 ControlNet: {HOST}"),
    (
        lambda n: n.under("controlnet_x_embedder") and n.under("transformer_blocks.0.img_mlp"),
        f"a Qwen-Image ControlNet (InstantX): {HOST}",
    ),
    (lambda n: n.under("controlnet_x_embedder"), f"a FLUX.1 ControlNet (InstantX, Shakker, Jasper): {HOST}"),
    (
        lambda n: n.under("after_proj_list") or (n.under("controlnet_blocks.0") and n.under("blocks.0.attn1")),
        f"a HunyuanDiT ControlNet: {HOST}",
    ),
    (
        lambda n: n.under("controlnet_blocks.0") and n.under("input_block"),
        f"a Sana ControlNet, which is not supported: {ITS_OWN}",
    ),
    (
        lambda n: n.under("control_blocks.0") and n.under("patch_embed_base"),
        f"a Cosmos ControlNet, which is not supported: {ITS_OWN}",
    ),
    (lambda n: n.under("controlnet_patch_embedding"), f"a Uni3C ControlNet for Wan: {PATCH}"),
    (
        lambda n: n.base("vace_patch_embedding") or n.base("vace_blocks"),
        "a Wan VACE model: load it as the base model, whose own nodes take the hint",
    ),
    (
        lambda n: n.part("motion_modules") and (n.under("controlnet_cond_embedding") or n.under("input_hint_block")),
        "a SparseCtrl model, which needs AnimateDiff and is not supported: use its own nodes",
    ),
    (
        lambda n: n.part("temporal_res_block") and n.under("controlnet_cond_embedding"),
        "a ControlNet for Stable Video Diffusion, which is not supported: use its own nodes",
    ),
    (
        lambda n: n.under("base_conv_in") and n.part("base_to_ctrl"),
        "a ControlNet-XS fused with its base model: get the adapter alone, as diffusers saves a ControlNetXSAdapter",
    ),
    (
        lambda n: n.part("enc_zero_convs_out", "enc_zero_convs_in"),
        "a ControlNet-XS in its project's own names: get it in those of diffusers (ControlNetXSAdapter)",
    ),
    (
        lambda n: n.under("brushnet_down_blocks") or n.under("conv_in_condition"),
        "a BrushNet model, which is not supported: use its own nodes, or an inpaint ControlNet",
    ),
    (
        lambda n: n.part("project_modules"),
        "a SUPIR model, an upscaler with a control network of its own: in ComfyUI use its own nodes",
    ),
    (
        lambda n: n.under("global_adapter") and not n.under("local_adapter"),
        "the global adapter of a Uni-ControlNet alone: get uni.ckpt, which holds the local one too",
    ),
    (
        lambda n: n.part("zero_convs") and n.part("op") and not n.part("input_hint_block", "feature_extractor"),
        "the base ControlNet of CtrLoRA: choose one of its LoRAs, and put the two into one folder",
    ),
    (
        lambda n: (n.has("backbone.0.0.weight") and n.under("cnet_proj")) or n.under("backbone", "projections"),
        f"a Stable Cascade ControlNet: {HOST}",
    ),
)

# What is no control network, or none that adds to the U-Net's blocks.
OTHERS: tuple[tuple[Test, str], ...] = (
    (
        lambda n: n.under("image_proj") or n.part("ip_adapter", "ip_adapter_proj_model", "adapter_modules"),
        "an IP-Adapter of a kind that is not supported: use its own loader",
    ),
    (
        lambda n: n.part("ip_adapter_double_stream_k_proj", "ip_adapter_double_stream_v_proj"),
        "an IP-Adapter for FLUX.1, which is not supported: use its own loader",
    ),
    (
        lambda n: n.part("pulid_encoder", "pulid_ca", "id_adapter", "id_adapter_attn_layers"),
        "a PuLID model, which is not supported: use its own loader",
    ),
    (lambda n: n.under("id_encoder"), "a PhotoMaker model, which is not supported: use its own loader"),
    (lambda n: n.under("redux_up"), "a FLUX.1 Redux model: in ComfyUI load it with 'Load Style Model'"),
    (
        lambda n: any(n.width(f"{prefix}first.weight") == 128 for prefix in TRANSFORMERS) and n.part(*LORA_PARTS),
        "a Control-LoRA for Krea 2, which is not supported: use its own nodes",
    ),
    (
        lambda n: any(
            n.width(f"{prefix}{layer}.lora_A.weight") == 128 and n.width(f"{prefix}{layer}.lora_A.weight", 0) > 0
            for prefix in TRANSFORMERS
            for layer in ("img_in", "x_embedder")
        ),
        "a Control-LoRA for FLUX.1 (Canny, Depth): load it as a LoRA, with the nodes that give its hint as latents",
    ),
    (
        lambda n: n.base("input_blocks.0.0.weight"),  # names below a weight: its 8-bit values and their bounds
        "the inpaint patch of Fooocus for the base model: choose fooocus_inpaint_head, and put the two into one folder",
    ),
    (lambda n: n.first("lora_", "lycoris_") or n.part(*LORA_PARTS), LORA),
    (
        lambda n: n.part("to_out") and not n.part("to_q", "to_k", "to_v", "proj_in"),
        "what a ControlNeXt changes in its base model: choose the control itself, and put the two into one folder",
    ),
    (
        lambda n: n.part("motion_modules"),
        "a motion module (AnimateDiff): load it as such",
    ),
    (lambda n: n.under("model.diffusion_model"), "a checkpoint without a control model: load it as the base model"),
    (lambda n: n.under("first_stage_model"), VAE),
    (lambda n: n.under("decoder.up") or n.under("decoder.up_blocks"), VAE),
    (
        lambda n: n.under("decoder.layers.0") or n.under("encoder.layers.0", "decoder.layers"),
        "an autoencoder (VAE, the small TAESD): load it as such",
    ),
    (
        lambda n: n.under("up_blocks.0.resnets"),
        "a U-Net of diffusers without a control model: give it as part of the base model",
    ),
    (lambda n: n.base("output_blocks.0"), "a U-Net without a control model: give it as part of the base model"),
    (
        lambda n: (n.part("text_model") and not n.part("vision_model")) or n.under("embeddings.token_embedding"),
        "a text encoder: load it as such",
    ),
    (lambda n: n.under("transformer.resblocks"), "a text encoder (OpenCLIP): load it as such"),
    (
        lambda n: n.under("encoder.block.0.layer.0.SelfAttention"),
        "a text encoder (T5): load it as such",
    ),
    (
        lambda n: n.under("model.layers.0.self_attn", "model.embed_tokens") or n.part("language_model"),
        "a text encoder (a language model): load it as such",
    ),
    (lambda n: n.part("vision_model"), "an image encoder (CLIP): load it as such"),
    (lambda n: n.part("RDB1", "rdb1") or n.under("conv_first"), "an upscaler: load it as such"),
    (lambda n: n.has("clip_g") or n.has("clip_l"), "a textual-inversion embedding: load it as such"),
    (lambda n: n.has("emb_params") or n.under("string_to_param"), "a textual-inversion embedding: load it as such"),
    (lambda n: n.base("double_stream_modulation_img"), f"a FLUX.2 base model: {BASE}"),
    (lambda n: n.base("distilled_guidance_layer"), f"a Chroma base model: {BASE}"),
    (lambda n: n.base("double_blocks.0.img_attn"), f"a FLUX.1 or Hunyuan base model: {BASE}"),
    (lambda n: n.base("single_transformer_blocks", "transformer_blocks", "x_embedder"), f"a FLUX.1 base model: {BASE}"),
    (lambda n: n.base("joint_blocks.0") or n.base("pos_embed", "context_embedder"), f"an SD 3 base model: {BASE}"),
    (lambda n: n.base("transformer_blocks.0.img_mod", "img_in"), f"a Qwen-Image base model: {BASE}"),
    (lambda n: n.base("text_fusion") or n.base("txtfusion"), f"a Krea 2 base model: {BASE}"),
    (lambda n: n.base("llm_adapter"), f"an Anima base model: {BASE}"),
    (lambda n: n.base("noise_refiner", "context_refiner"), f"a Z-Image or Lumina base model: {BASE}"),
    (lambda n: n.base("patch_embedding", "blocks.0"), f"a Wan base model: {BASE}"),
    (lambda n: n.base("caption_projection", "transformer_blocks"), f"a Sana, PixArt or LTX base model: {BASE}"),
    (lambda n: n.base("adaln_single", "transformer_blocks"), f"a PixArt or LTX base model: {BASE}"),
    (
        lambda n: n.under("pose_embedding") or n.first("model0", "model1_1", "Mconv1_stage2"),
        "a network of a preprocessor: put it into the folder of the preprocessors' weights",
    ),
)


def control_of_others(shapes: Shapes) -> str | None:
    """Return what a control network of another kind is, with what to do with it; None: it is none."""
    names = Names(shapes)
    return next((what for test, what in CONTROLS if test(names)), None)


def no_control(shapes: Shapes) -> str:
    """Return what a file is that is no control network, with what to do with it."""
    for _, inner in unwrapped(shapes):
        names = Names(inner)
        if what := next((what for test, what in OTHERS if test(names)), None):
            return what
    return f"a file of an unknown kind (it holds {', '.join(map(shown, list(shapes)[:FEW])) or 'nothing'})"


def _of_another_version(names: Names) -> bool:
    """Return whether a ControlLLLite for Anima is not of version 2, or reads no pixels, of a hole neither."""
    trunk, modules = names.under(ANIMA), names.first("lllite_dit_")
    return (trunk or modules) and not (modules and names.width(f"{ANIMA}.conv1.weight") in PIXELS)


def _starts(name: str) -> Iterable[str]:
    """`a.b.c` -> `a`, `a.b`."""
    at = name.find(".")
    while at >= 0:
        yield name[:at]
        at = name.find(".", at + 1)
