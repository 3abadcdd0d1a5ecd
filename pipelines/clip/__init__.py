"""Words for Stable Diffusion: the weights in a prompt, tokens in chunks of 75, and what CLIP makes of them."""
