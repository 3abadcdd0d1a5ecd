"""The side of ComfyUI: its controls, runs, clock, regions, tiles and model loading."""
