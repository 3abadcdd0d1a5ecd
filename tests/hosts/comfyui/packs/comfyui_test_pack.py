"""Runs inside ComfyUI, for our tests alone: base models small enough for a CPU, and prompts without a text encoder."""

import contextlib
import copy
import json
import sys

import comfy.cldm.cldm
import comfy.controlnet
import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import comfy.utils
import folder_paths
import torch

SD = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "use_spatial_transformer": True,
    "legacy": False,
    "model_channels": 32,
    "context_dim": 64,
    "adm_in_channels": None,
    "use_linear_in_transformer": False,
    "use_temporal_attention": False,
    "channel_mult": [1, 2, 4, 4],
    "num_res_blocks": [2, 2, 2, 2],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
}
SDXL = {
    **SD,
    "model_channels": 64,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "use_linear_in_transformer": True,
    "channel_mult": [1, 2, 2],
    "num_res_blocks": [2, 2, 2],
    "transformer_depth": [0, 0, 1, 1, 2, 2],
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    "transformer_depth_middle": 2,
}
FULL = {**SD, "model_channels": 320, "context_dim": 768}
NARROW = {**FULL, "model_channels": 64}


def _known(config):
    """What the host's detection compares."""
    names = ("context_dim", "model_channels", "use_linear_in_transformer", "adm_in_channels", "use_temporal_attention")
    return {name: config[name] for name in names}


class TinySD(comfy.supported_models.SD15):
    unet_config = _known(SD)
    unet_extra_config = {"num_heads": 4, "num_head_channels": -1}


class TinySDXL(comfy.supported_models.SDXL):
    unet_config = {**_known(SDXL), "transformer_depth": SDXL["transformer_depth"]}
    unet_extra_config = {"num_heads": -1, "num_head_channels": 16}


class NarrowSD(comfy.supported_models.SD15):
    unet_config = _known(NARROW)
    unet_extra_config = {"num_heads": 8, "num_head_channels": -1}


class FullSD(comfy.supported_models.SD15):
    unet_extra_config = {"num_heads": 8, "num_head_channels": -1}


comfy.supported_models.models[:0] = [TinySD, TinySDXL, NarrowSD]
EIGHT = torch.float8_e4m3fn
KINDS = {
    "SD": (TinySD, SD),
    "SD in 8 bits": (TinySD, SD),
    "SD of 8 bits": (TinySD, SD),
    "SDXL": (TinySDXL, SDXL),
    "narrow SD": (NarrowSD, NARROW),
    "full SD": (FullSD, FULL),
}


def _fill(network, seed):
    """The host's layers begin with whatever lies in memory."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1:
            value = torch.ones_like(parameter) if name.endswith("weight") else torch.zeros_like(parameter)
        else:
            fan = parameter[0].numel()
            value = torch.randn(parameter.shape, generator=generator) * 0.7 / fan**0.5
        parameter.data = value


class TestModel:
    """MODEL with seeded random weights."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"kind": (list(KINDS),), "seed": ("INT", {"default": 0})}}

    def make(self, kind, seed):
        family, config = KINDS[kind]
        chosen = family({**config, **family.unet_extra_config})
        in_eight = kind == "SD in 8 bits"  # stored so; "of 8 bits" has the same values in fp32
        chosen.set_inference_dtype(EIGHT if in_eight else torch.float32, torch.float32 if in_eight else None)
        model = chosen.get_model({})
        _fill(model.diffusion_model, seed)
        if "8 bits" in kind:
            for parameter in model.diffusion_model.parameters():
                parameter.data = parameter.data.to(EIGHT) if in_eight else parameter.data.to(EIGHT).float()
        device, offload = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
        return (comfy.model_patcher.ModelPatcher(model.eval(), load_device=device, offload_device=offload),)


class TestPrompt:
    """CONDITIONING of seeded random tokens."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):
        sizes = {"width": ("INT", {"default": 64}), "pooled": ("INT", {"default": 1280})}
        return {"required": {"seed": ("INT", {"default": 0})}, "optional": sizes}

    def make(self, seed, width=64, pooled=1280):
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randn(1, 77, width, generator=generator)
        return ([[tokens, {"pooled_output": torch.randn(1, pooled, generator=generator)}]],)


class TestPicture:
    """IMAGE batch of seeded shapes, so that hints differ."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        size = ("INT", {"default": 128})
        counts = {"seed": ("INT", {"default": 0}), "count": ("INT", {"default": 1})}
        return {"required": {**counts, "width": size, "height": size}}

    def make(self, seed, count, width, height):
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(count, 3, 8, 8, generator=generator)
        return (torch.nn.functional.interpolate(coarse, (height, width)).movedim(1, -1).contiguous(),)


class TestMask:
    """MASK: 1 left of a share of the width, 0 right of it."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MASK",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"share": ("FLOAT", {"default": 0.5}), "size": ("INT", {"default": 128})}}

    def make(self, share, size):
        mask = torch.zeros(1, size, size)
        mask[..., : round(share * size)] = 1
        return (mask,)


class TestFailure:
    """MODEL that fails, or asks to be interrupted, at a chosen call of its network."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        when = {"call": ("INT", {"default": 1}), "token": ("INT", {"default": 0})}
        return {"required": {"model": ("MODEL",), "how": (["raise", "interrupt"],), **when}}

    def make(self, model, how, call, token):
        made, calls = model.clone(), []

        def wrapper(apply_model, arguments):
            calls.append(None)
            if len(calls) == call:
                if how == "raise":
                    raise RuntimeError("a failure that the test asked for")
                comfy.model_management.interrupt_current_processing()
                comfy.model_management.throw_exception_if_processing_interrupted()
            return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

        made.set_model_unet_function_wrapper(wrapper)
        return (made,)


class TestTile:
    """CONDITIONING as a tiled upscaler hands it to one tile: its control's hint is cut and resized."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):
        side = ("INT", {"default": 0})
        return {"required": {"prompt": ("CONDITIONING",), "top": side, "left": side, "size": side, "canvas": side}}

    def make(self, prompt, top, left, size, canvas):
        out = []
        for tokens, options in prompt:
            control = options["control"].copy()
            hint = control.cond_hint_original
            k = hint.shape[-1] / canvas
            part = hint[..., round(top * k) : round((top + size) * k), round(left * k) : round((left + size) * k)]
            control.cond_hint_original = torch.nn.functional.interpolate(part, (size, size), mode="nearest-exact")
            out.append([tokens, {**options, "control": control}])
        return (out,)


@contextlib.contextmanager
def _casts():
    """The layers whose weights the host casts or copies to the device as they are used."""
    seen, cast = set(), comfy.ops.cast_bias_weight

    def recording(layer, *arguments, **settings):
        seen.add(layer)
        return cast(layer, *arguments, **settings)

    comfy.ops.cast_bias_weight = recording
    try:
        yield seen
    finally:
        comfy.ops.cast_bias_weight = cast


def _dynamic(network):
    """The patcher of newer hosts that never loads a network; on a CPU they do not use it, so it is made by hand."""
    kind = comfy.model_patcher.ModelPatcherDynamic
    patcher, device = object.__new__(kind), torch.device("cpu")
    nothing = (None, [], [-1], [0], [0], {})  # pinned; the buffers of its library are for GPUs
    network.dynamic_pins = {device: {"weights": nothing, "patches": nothing, "hostbufs_initialized": True}}
    patcher.__init__(network, load_device=device, offload_device=device)
    return patcher


class TestPartialLoad:
    """CONTROL_NET, after its network has given the same residuals with its weights streamed in as when loaded whole.

    how: "half" of the bytes may be loaded, "none", or the patcher is "dynamic".
    """

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("CONTROL_NET",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"control_net": ("CONTROL_NET",), "how": (["half", "none", "dynamic"],)}}

    def make(self, control_net, how):
        (patcher,) = control_net.get_models()
        network, device = patcher.model, patcher.load_device
        layers = {module for module in network.modules() if next(module.parameters(recurse=False), None) is not None}
        strangers = {type(layer).__name__ for layer in layers if not hasattr(layer, "comfy_cast_weights")}
        assert not strangers, f"the host cannot stream the weights of {strangers}"
        generator = torch.Generator().manual_seed(0)
        x, hint = torch.randn(2, 4, 16, 16, generator=generator), torch.rand(2, 3, 128, 128, generator=generator)
        arguments = (x, torch.tensor([500.0, 500.0]), hint, torch.randn(2, 77, 64, generator=generator))
        patcher.detach()
        patcher.load(device, full_load=True)
        with _casts() as seen:
            whole = network(*arguments)
        assert not seen, f"{len(seen)} layers are cast although they are loaded"
        patcher.detach()
        if how == "dynamic":
            patcher = _dynamic(network)
            patcher.load(device)
        else:
            patcher.load(device, lowvram_model_memory=1 if how == "none" else patcher.model_size() // 2)
        with _casts() as seen:
            streamed = network(*arguments)
        assert (seen == layers) if how != "half" else (set() < seen < layers), f"{len(seen)} of {len(layers)} layers"
        assert all((a == b).all() for a, b in zip(whole, streamed, strict=True)), "streamed weights, other residuals"
        if how == "dynamic":
            for layer in layers:
                layer.comfy_cast_weights = False  # as it was; the hand-made patcher ends here
        else:
            patcher.detach()
        return (control_net,)


class TestWitness:
    """CONTROL_NET of ours that writes into the log how many rows its network begins with, and how many it ends with."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("CONTROL_NET",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"control_net": ("CONTROL_NET",), "token": ("STRING", {"default": ""})}}

    def make(self, control_net, token):
        network = control_net.get_models()[0].model
        for layer in (network.input_blocks[0][0], network.middle_block_out[0]):
            layer.register_forward_pre_hook(lambda _layer, args: print(f"{token}: {len(args[0])} rows", flush=True))
        return (control_net,)


class TestTwoDevices:
    """MODEL that the host shares between two devices, which are the CPU under two names."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return TestModel.INPUT_TYPES()

    def make(self, kind, seed):
        (made,), (other,) = (TestModel().make(kind, seed) for _ in range(2))
        other.load_device, other.is_multigpu_base_clone = torch.device("cpu", 0), True
        made.set_additional_models("multigpu", [other])
        return (made,)


class TestPose:
    """POSE_KEYPOINT frames from text, as an editor hands them over."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("POSE_KEYPOINT",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"frames": ("STRING", {"default": "[]"})}}

    def make(self, frames):
        return (json.loads(frames),)


class TestUnion:
    """CONTROL_NET that says of itself that it has types."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("CONTROL_NET",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"control_net": ("CONTROL_NET",), "typed": ("BOOLEAN", {"default": False})}}

    def make(self, control_net, typed):
        made = copy.copy(control_net)
        made.control_model, made.extra_args = (
            copy.copy(control_net.control_model),
            {"control_type": []} if typed else {},
        )
        made.control_model.num_control_type = 6
        return (made,)


class TestTheirUnion:
    """A union file in the network of the host, whose own loader takes such files at full width alone."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("CONTROL_NET",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"file": ("STRING", {"default": ""})}}

    def make(self, file):
        path = folder_paths.get_full_path_or_raise("controlnet", file)
        control, state = comfy.controlnet.load_controlnet(path), comfy.utils.load_torch_file(path)
        network = control.control_model
        layers = {"operations": comfy.ops.disable_weight_init, "dtype": torch.float32, "device": "cpu"}
        kinds, width = state["task_embedding"].shape
        config = {
            name: value for name, value in SDXL.items() if name not in ("out_channels", "transformer_depth_output")
        }
        whole = comfy.cldm.cldm.ControlNet(
            **config, **layers, hint_channels=3, num_head_channels=16, union_controlnet_num_control_type=kinds
        )  # of which the part that is as wide as in this file is taken
        network.num_control_type, network.control_add_embedding = kinds, whole.control_add_embedding
        network.task_embedding = torch.nn.Parameter(torch.empty(kinds, width))
        network.transformer_layes = torch.nn.Sequential(comfy.cldm.cldm.ResBlockUnionControlnet(width, 8, **layers))
        network.spatial_ch_projs = comfy.ops.disable_weight_init.Linear(width, width)
        lacking, unexpected = network.load_state_dict(state, strict=False)
        assert not lacking and not unexpected, (lacking, unexpected)
        return (control,)


class _Unknown(comfy.controlnet.ControlBase):
    """A control of a kind that nobody has heard of: constant residuals for SD's twelve skips."""

    calls_left = -1  # until it fails; below zero it never does

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        self.calls_left -= 1
        if self.calls_left == 0:
            raise RuntimeError("a unit that fails")
        generator = torch.Generator().manual_seed(5)
        widths = [32] * 4 + [64] * 3 + [128] * 5
        sides = [x_noisy.shape[-1] // k for k in (1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8)]
        lists = {"input": [], "middle": [None], "output": []}
        for width, side in zip(widths, sides, strict=True):
            residual = torch.randn(1, width, side, side, generator=generator).expand(len(x_noisy), -1, -1, -1)
            lists["output"].append(residual * self.strength)
        return lists

    def copy(self):
        copied = _Unknown()
        copied.calls_left = self.calls_left
        self.copy_to(copied)
        return copied


class TestUnknown:
    """CONTROL_NET of a class that only the test knows."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("CONTROL_NET",)

    @classmethod
    def INPUT_TYPES(cls):
        failing = {"fails_at": ("INT", {"default": -1, "min": -1})}
        return {"required": {"needs_vae": ("BOOLEAN", {"default": False})}, "optional": failing}

    def make(self, needs_vae, fails_at=-1):
        control = _Unknown()
        control.calls_left = fails_at
        control.latent_format = comfy.latent_formats.SD15() if needs_vae else None
        return (control,)


class _Deaf(torch.nn.Module):
    """A network that takes no control."""

    dtype = torch.float32

    def forward(self, x, timesteps, context=None, transformer_options=None):
        return torch.zeros_like(x)


class TestDeaf:
    """MODEL whose network ignores control."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def make(self, model):
        made = model.clone()
        made.add_object_patch("diffusion_model", _Deaf())
        return (made,)


class TestCompiled:
    """MODEL as the host's own node compiles it, with another backend: "eager" has dynamo alone at work."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "backend": (["eager", "inductor"],)}}

    def make(self, model, backend):
        from comfy_api.torch_helpers import set_torch_compile_wrapper
        from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

        torch.compiler.reset()
        made = model.clone()
        options = {"guard_filter_fn": skip_torch_compile_dict}
        set_torch_compile_wrapper(model=made, backend=backend, options=options)
        return (made,)


class TestNetwork:
    """MASK of what a preprocessor's network computes where the host has put it; it is unloaded at the end."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MASK",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"factor": ("FLOAT", {"default": 0.5})}}

    def make(self, factor):
        annotators = next(module for name, module in sys.modules.items() if name.endswith("nodes.host.annotators"))
        networks = sys.modules[annotators.Runtime.__module__.replace(".runtime", ".networks.network")]
        layer = torch.nn.Linear(1, 1, bias=False)
        layer.weight.data.fill_(factor)
        network = networks.Network(id=f"test-{factor}", files=(), load=lambda: layer)
        runtime = annotators.runtime()
        with torch.no_grad(), runtime.ready(network) as ready:
            held = [loaded.model.model for loaded in comfy.model_management.current_loaded_models]
            assert any(each is ready for model in held for each in model.modules()), "the host does not hold it"
            result = ready(torch.ones(1, 8, 8, 1, device=comfy.model_management.get_torch_device())).cpu()[..., 0]
        runtime.pool.unload()
        assert not runtime.pool.names
        return (result,)


NODES = (
    TestModel,
    TestPrompt,
    TestPicture,
    TestMask,
    TestFailure,
    TestTile,
    TestPartialLoad,
    TestWitness,
    TestUnion,
    TestTheirUnion,
    TestUnknown,
    TestDeaf,
    TestCompiled,
    TestNetwork,
    TestPose,
)
if hasattr(comfy.controlnet.ControlBase, "deepclone_multigpu"):
    NODES = (*NODES, TestTwoDevices)
NODE_CLASS_MAPPINGS = {each.__name__: each for each in NODES}
