"""Runs inside ComfyUI, for our tests alone: `--novram` and `--lowvram` on a machine without an accelerator.

The host takes these options for an accelerator only, and the CPU is never short of memory to it. Here `cpu:0` is its
accelerator and `cpu` the memory of the machine, so that its own code decides what is loaded and what is streamed.
"""

import os

import comfy.model_management
import torch

ACCELERATOR = torch.device("cpu", 0)
FITS = 8 << 20  # bytes of the weights of each network with --lowvram: half of a control model of the tests


def _is_cpu(device):
    return getattr(device, "type", None) == "cpu" and device.index is None


def _free_memory(dev=None, torch_free_too=False):
    free = int(comfy.model_management.minimum_inference_memory()) + FITS
    return (free, free) if torch_free_too else free


comfy.model_management.get_torch_device = lambda: ACCELERATOR
comfy.model_management.is_device_cpu = _is_cpu
comfy.model_management.get_free_memory = _free_memory
comfy.model_management.vram_state = comfy.model_management.VRAMState[os.environ["TEST_VRAM_STATE"]]


class TestWhere:
    """LATENT, after it was written into the log how many bytes of the weights of a control model are loaded."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"samples": ("LATENT",), "control_net": ("CONTROL_NET",)}}

    def make(self, samples, control_net):
        (patcher,) = control_net.get_models()
        held = any(each.model is patcher for each in comfy.model_management.current_loaded_models)
        print(f"{held=} {patcher.loaded_size()} of {patcher.model_size()} bytes are loaded", flush=True)
        return (samples,)


NODE_CLASS_MAPPINGS = {"TestWhere": TestWhere}
