"""IP-Adapter: a picture as a prompt, through cross-attention of its own beside that of the text.

Ye et al., "IP-Adapter: Text Compatible Image Prompt Adapter for Text-to-Image Diffusion Models", 2023
(tencent-ailab/IP-Adapter). `projections.py`: what an encoder saw -> tokens; `layers.py`: where the tokens go;
`model.py`: what the stack asks; `family.py`: the files.
"""
