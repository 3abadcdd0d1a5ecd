"""Runs inside ComfyUI, for our tests alone: what its U-Net receives and answers is written down, and its weights."""

import json
from pathlib import Path

import comfy.patcher_extension
import folder_paths
from safetensors.torch import save_file

WEIGHTS = Path(folder_paths.models_dir) / "Stable-diffusion" / "small.safetensors"
PREFIX = "model.diffusion_model."


class TestRecord:
    """MODEL that writes every evaluation into a file of the output folder, and its weights into a checkpoint."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "name": ("STRING", {})}}

    def make(self, model, name):
        made, tensors, said = model.clone(), {}, []
        WEIGHTS.parent.mkdir(exist_ok=True)
        weights = model.model.diffusion_model.state_dict().items()
        save_file({PREFIX + each: value.contiguous() for each, value in weights}, WEIGHTS)
        target = Path(folder_paths.get_output_directory()) / f"{name}.safetensors"

        def record(forward, x, time, context, y, control, options, **more):
            given = {"x": x, "time": time, "context": context, "y": y}
            given = {key: value.float().clone() for key, value in given.items() if value is not None}
            out = forward(x, time, context, y, control, options, **more)
            number, per_chunk = len(said), len(x) // len(options["cond_or_uncond"])
            tensors.update({f"{number}.{key}": value for key, value in {**given, "out": out.float()}.items()})
            cond = [mark == 0 for mark in options["cond_or_uncond"] for _ in range(per_chunk)]
            steps = len(options["sample_sigmas"]) - 1
            about = {"hires": False, "call": number, "counted": number, "steps": steps, "cond": cond}
            said.append({**about, "control_rows": []})
            save_file(
                {key: value.contiguous() for key, value in tensors.items()}, target, {"evaluations": json.dumps(said)}
            )
            return out

        made.add_wrapper(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, record)
        return (made,)


NODE_CLASS_MAPPINGS = {"TestRecord": TestRecord}
