"""Uni-ControlNet: one ControlNet for SD 1.x that reads up to seven hints, and an adapter for a picture's content.

Zhao et al., "Uni-ControlNet: All-in-One Control to Text-to-Image Diffusion Models", NeurIPS 2023. `network.py`: the two
adapters; `model.py`: what the stack asks; `family.py`: the files.
"""
