"""diffusers for the standalone edge and for training: base models, control attached to their U-Nets, and drawing."""
