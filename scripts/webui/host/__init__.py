"""The side of the WebUI: its U-Net and patcher, its denoiser, its memory, and the folders of models."""
