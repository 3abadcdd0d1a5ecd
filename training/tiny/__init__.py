"""The tiny world: scenes whose edges, depth and colours are known exactly, and a base model that draws them.

Small enough to be trained on a CPU and to be shipped, so that control can be measured without any download.
"""
