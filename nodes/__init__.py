"""The ComfyUI edge: the only code that imports comfy. `extension.py` is where the host enters."""
