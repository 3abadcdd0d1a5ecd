"""ControlStack: stacked control units for Stable Diffusion, with one meaning on every host.

The repository root is the package root, so that a host can load this folder whatever its name. Nothing of ours, and
nothing of a host, is imported here: each host reaches its own edge through its own entry point.
"""

__version__ = "0.1.0"

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """ComfyUI's way in."""
    from .nodes.extension import ControlStackExtension

    return ControlStackExtension()
