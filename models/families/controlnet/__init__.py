"""ControlNet: a trainable copy of the U-Net's encoder whose outputs pass zero convolutions into the skips.

Zhang, Rao and Agrawala, "Adding Conditional Control to Text-to-Image Diffusion Models", ICCV 2023. `config.py`: what
the shapes of a file tell of its network; `network.py`: the network; `model.py`: what the stack asks; `family.py`: the
files.
"""
