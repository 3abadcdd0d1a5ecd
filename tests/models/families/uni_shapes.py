"""Names and shapes of Uni-ControlNet's adapters, written down from the published classes, at any size."""

from __future__ import annotations

from controlstack.models.kinds.unis import NAMES

Shapes = dict[str, tuple[int, ...]]
STEM = (32, 64, 64, 128, 128)  # channels of the extractor's first convolutions


def conv(name: str, out: int, width: int, side: int = 3) -> Shapes:
    return {f"{name}.weight": (out, width, side, side), f"{name}.bias": (out,)}


def line(name: str, out: int, width: int, *, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (out, width)} | ({f"{name}.bias": (out,)} if bias else {})


def pair(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def transformer(name: str, width: int, context: int) -> Shapes:
    block = f"{name}.transformer_blocks.0"
    shapes = (
        pair(f"{name}.norm", width)
        | conv(f"{name}.proj_in", width, width, 1)
        | conv(f"{name}.proj_out", width, width, 1)
    )
    for attention, keys in (("attn1", width), ("attn2", context)):
        shapes |= line(f"{block}.{attention}.to_q", width, width, bias=False)
        shapes |= line(f"{block}.{attention}.to_k", width, keys, bias=False)
        shapes |= line(f"{block}.{attention}.to_v", width, keys, bias=False)
        shapes |= line(f"{block}.{attention}.to_out.0", width, width)
    shapes |= line(f"{block}.ff.net.0.proj", 8 * width, width) | line(f"{block}.ff.net.2", width, 4 * width)
    return shapes | {k: v for norm in (1, 2, 3) for k, v in pair(f"{block}.norm{norm}", width).items()}


def residual(name: str, width: int, out: int, emb: int, seen: int | None) -> Shapes:
    """seen: channels of the map that modulates it; None for an ordinary one."""
    shapes = conv(f"{name}.in_layers.2", out, width) | line(f"{name}.emb_layers.1", out, emb)
    shapes |= conv(f"{name}.out_layers.3", out, out)
    shapes |= {} if width == out else conv(f"{name}.skip_connection", out, width, 1)
    if seen is None:
        return shapes | pair(f"{name}.in_layers.0", width) | pair(f"{name}.out_layers.0", out)
    for norm, channels in (("norm_in", width), ("norm_out", out)):
        shapes |= conv(f"{name}.{norm}.conv_gamma", channels, seen) | conv(f"{name}.{norm}.conv_beta", channels, seen)
    return shapes


def local_adapter(widths: tuple[int, ...], context: int, features: tuple[int, ...]) -> Shapes:
    """The names and shapes of `LocalAdapter` (configs/uni_v15.yaml): two residual blocks a level, one modulated."""
    emb, width = 4 * widths[0], widths[0]
    shapes = line("time_embed.0", emb, width) | line("time_embed.2", emb, emb) | conv("input_blocks.0.0", width, 4)
    for number, (before, out) in enumerate(zip((3 * len(NAMES), *STEM[:-1]), STEM, strict=True)):
        shapes |= conv(f"feature_extractor.pre_extractor.{2 * number}", out, before)
    for number, (before, out) in enumerate(zip((STEM[-1], *features[:-1]), features, strict=True)):
        shapes |= conv(f"feature_extractor.extractors.{number}.0", out, before)
        shapes |= conv(f"feature_extractor.zero_convs.{number}", out, out)
    channels = [width]
    for level, out in enumerate(widths):
        for number in range(2):
            name = f"input_blocks.{len(channels)}"
            shapes |= residual(f"{name}.0", width, out, emb, None if number else features[level])
            shapes |= transformer(f"{name}.1", out, context) if level < 3 else {}
            width = out
            channels.append(width)
        if level < 3:
            shapes |= conv(f"input_blocks.{len(channels)}.0.op", width, width)
            channels.append(width)
    shapes |= {k: v for i, each in enumerate(channels) for k, v in conv(f"zero_convs.{i}.0", each, each, 1).items()}
    shapes |= residual("middle_block.0", width, width, emb, None) | transformer("middle_block.1", width, context)
    shapes |= residual("middle_block.2", width, width, emb, None)
    return shapes | conv("middle_block_out.0", width, width, 1)


def global_adapter(width: int) -> Shapes:
    """The names and shapes of `GlobalAdapter`: widths twice and four times as large, each feed-forward four times."""
    shapes = pair("norm1", width) | pair("norm2", 2 * width)
    shapes |= line("ff1.net.0.proj", 8 * width, width) | line("ff1.net.2", 2 * width, 4 * width)
    return shapes | line("ff2.net.0.proj", 16 * width, 2 * width) | line("ff2.net.2", 4 * width, 8 * width)


def both(local: Shapes, content: Shapes) -> Shapes:
    return {f"local_adapter.{k}": v for k, v in local.items()} | {f"global_adapter.{k}": v for k, v in content.items()}
