"""IP-Adapter: a picture as a prompt, through cross-attention of its own beside that of the text.

Ye et al., "IP-Adapter: Text Compatible Image Prompt Adapter for Text-to-Image Diffusion Models", 2023
(tencent-ailab/IP-Adapter), with its FaceID, and the adapter of InstantID (Wang et al., "InstantID: Zero-shot
Identity-Preserving Generation in Seconds", 2024), which is one more of them. `projections.py`: what an encoder saw ->
tokens; `layers.py`: where the tokens go; `lora.py`: what a file changes in the base; `model.py`: what the stack asks;
`family.py`: the files.
"""
