"""Runs inside ComfyUI, for our tests alone: the test families as control nets, and the same changes made by hand."""

import contextlib
import importlib.util
import sys
from pathlib import Path

import comfy.clip_vision
import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import folder_paths
import torch
import torch.nn.functional as F

IN_DECODER = 4  # an output block of the test models that has attention


def _ours(name):
    """A module of the pack under test, by its end: the host names the pack by the path of its folder."""
    return next(module for full, module in sys.modules.items() if full.endswith(f".{name}"))


def _families():
    """The test families, built on the very modules that the host has loaded."""
    if "controlstack_test_families" not in sys.modules:
        package = _ours("nodes.host.control").__name__.removesuffix(".nodes.host.control")
        for name, module in list(sys.modules.items()):
            if name == package or name.startswith(f"{package}."):
                sys.modules["controlstack" + name[len(package) :]] = module
        path = Path(__file__).with_name("ControlStack") / "tests" / "effects" / "families.py"
        spec = importlib.util.spec_from_file_location("controlstack_test_families", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    return sys.modules["controlstack_test_families"]


def _latents(families, width):
    """A family that reads latents: they are mapped and added to the stream after an input block."""
    points, control = _ours("core.network.points"), _ours("core.control")

    class Latents(families.Family):
        hint_space, hint_channels = control.HintSpace.LATENTS, 4

        def prepare(self, hint):
            return (self.network(hint),)

        def __call__(self, step, prepared, prompt, wanted):
            yield from ((point, prepared[0]) for point in self.points if point in wanted)

    layer = families.random_layer(torch.nn.Conv2d(4, width, 3, padding=1), 6, scale=0.3)
    return Latents("latents", layer, points.stream(1))


def _family(model, kind):
    """One family for the widths of a model; the same object means the same weights."""
    families, points = _families(), _ours("core.network.points")
    base = _ours("nodes.host.base").base_of(model.model)
    network = model.model.diffusion_model
    shapes = {name: tuple(each.shape) for name, each in network.state_dict().items()}
    attends = min(int(name.split(".")[1]) for name in shapes if name.startswith("input_blocks") and ".attn1." in name)
    last = len(network.output_blocks) - 1

    def normed(point, layer):
        made = families.CrossNormed(layer)
        made.points = (point,)
        return made

    def tap(point):
        made = families.QueryTap(_attention(network, point).to_q.in_features)
        made.points = (point,)
        return made

    def queries(block, index, depth=0):
        return points.Point(block, index, points.Part.ATTN1_Q, depth)

    decoder = lambda index: network.output_blocks[index][0].out_channels  # noqa: E731
    special = {
        "middle": lambda: normed(points.MIDDLE, base.blocks[-1]),
        "skip": lambda: normed(points.skip(2), base.blocks[2]),
        "onward": lambda: normed(points.onward(0), base.blocks[0]),
        "decoder": lambda: normed(points.Point(points.Block.OUTPUT, IN_DECODER), decoder(IN_DECODER)),
        "last decoder": lambda: normed(points.Point(points.Block.OUTPUT, last), decoder(last)),
        "deep query": lambda: tap(queries(points.Block.MIDDLE, 0, 1)),
        "decoder query": lambda: tap(queries(points.Block.OUTPUT, IN_DECODER)),
        "heads": lambda: families.at(
            families.CrossOut(base.blocks[attends]),
            points.Point(points.Block.INPUT, attends, points.Part.ATTN2_HEADS),
        ),
        "no attention": lambda: families.QueryTap(base.blocks[0], 0),
        "wrong delta": lambda: _wrong(families, shapes),
        "latents": lambda: _latents(families, base.blocks[1]),
        "next": lambda: _next(families),
    }
    return special[kind]() if kind in special else families.make_families(base, shapes, attends)[kind]


def _wrong(families, shapes):
    made = families.Delta(shapes)
    name = "input_blocks.1.0.in_layers.2.weight"
    made.delta = type(made.delta)(tensors={name: torch.zeros(3, 3)})
    return made


def _next(families):
    """What is done with the answer of a ControlNeXt, as its authors write it."""

    class Next(families.Family):
        time = None

        def prepare(self, hint):
            return (hint,)

        def change(self, h, hint):
            c = self.network(self.network.stem(hint), self.time[:1])
            c = F.adaptive_avg_pool2d(c, h.shape[-2:])
            over = {"dim": (1, 2, 3), "keepdim": True}
            return (c - c.mean(**over)) * (h.std(**over) / (c.std(**over) + 1e-12)) + h.mean(**over)

    path = folder_paths.get_full_path("controlnet", "next.safetensors")
    model = _ours("models.registry").load_control_model(Path(path))
    return Next("next", model.network, model.points[0])


class TestFamily:
    """CONTROL_NET of one of the test families, for the widths of a model."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("CONTROL_NET",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "kind": ("STRING", {})}}

    def make(self, model, kind):
        family = _family(model, kind)
        device, rest = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()

        def own(device):
            patcher = comfy.model_patcher.ModelPatcher(family.network, load_device=device, offload_device=rest)
            return _ours("nodes.host.member").Own(family, patcher, own)

        return (_ours("nodes.host.control").LoadedControl(own(device)),)


class TestByHand:
    """MODEL that makes a family's change by hooks of this pack on the modules of the host's U-Net.

    The formula's value is added times `weight`, from step `first` on, on the left `share` of the picture, and on the
    cond rows alone where `positive` says so. Runs two evaluations for the family that asks for one more.
    """

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        how = {
            "weight": ("FLOAT", {"default": 1.0}),
            "first": ("INT", {"default": 0}),
            "share": ("FLOAT", {"default": 1.0}),
            "positive": ("BOOLEAN", {"default": False}),
        }
        what = {"model": ("MODEL",), "kind": ("STRING", {}), "image": ("IMAGE",)}
        return {"required": what, "optional": {**how, "vae": ("VAE",)}}

    def make(self, model, kind, image, weight=1.0, first=0, share=1.0, positive=False, vae=None):
        made, family, hint = model.clone(), _family(model, kind), image.movedim(-1, 1)
        network = model.model.diffusion_model

        def factor(added, options):
            how = {"weight": weight, "first": first, "share": share, "uncond": 0.0 if positive else 1.0}
            return _factor(added, options, image.shape[1:3], **how)

        def wrapper(apply_model, given):
            x, sigma, c = given["input"], given["timestep"], given["c"]
            options = c["transformer_options"]
            with contextlib.ExitStack() as exits:
                if family.delta is not None:
                    weights = dict(network.named_parameters())
                    for name in family.delta.names:
                        exits.callback(weights[name].data.copy_, weights[name].data.clone())
                        weights[name].data.add_(family.delta.of(name) * weight)
                    return apply_model(x, sigma, **c)
                if kind == "latents":
                    prepared = family.prepare(model.model.process_latent_in(vae.encode(image)))
                else:
                    prepared = family.prepare(hint)
                family.time = model.model.model_sampling.timestep(sigma).float()
                seen = {}
                if kind == "again":
                    seen["h"] = _second(network, model.model, family, prepared, (x, sigma, c))

                def change(h):
                    if kind == "latents":
                        added = prepared[0]
                    elif kind == "again":
                        added = family.change(seen["h"])
                    else:
                        added = family.change(h, prepared[0])
                    added = added.expand(len(h), *added.shape[1:])
                    return added * factor(added, options)

                exits.callback(
                    _hook(network, family.points[0], change, getattr(family.network, "out_channels", 0)).remove
                )
                return apply_model(x, sigma, **c)

        made.set_model_unet_function_wrapper(wrapper)
        return (made,)


def _factor(added, options, size, *, weight, first, share, uncond):
    """What is left of a change: of the weight from step `first` on, in the left `share`, on rows of each prompt."""
    sigmas = options["sample_sigmas"]
    step = int((sigmas[:-1] - options["sigmas"][0]).abs().argmin())
    rows = torch.tensor([1.0 if mark == 0 else uncond for mark in options["cond_or_uncond"]])
    per_chunk = len(added) // len(rows)
    mask = torch.zeros(1, 1, *size)
    mask[..., : round(share * mask.shape[-1])] = 1
    side = added.shape[-1] if added.ndim == 4 else round(added.shape[1] ** 0.5)
    small = F.interpolate(mask, (side, side), mode="bilinear")
    small = small if added.ndim == 4 else small.flatten(2).transpose(1, 2)
    on = weight * (step >= first) * rows.repeat_interleave(per_chunk)
    return small * on.reshape(-1, *[1] * (added.ndim - 1))


class TestReference:
    """MODEL that looks at another picture, in two passes by hooks: one writes banks, the other reads them."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        what = {"model": ("MODEL",), "kind": ("STRING", {}), "image": ("IMAGE",), "vae": ("VAE",)}
        how = {"weight": ("FLOAT", {"default": 1.0}), "first": ("INT", {"default": 0})}
        how |= {"share": ("FLOAT", {"default": 1.0}), "uncond": ("FLOAT", {"default": 1.0})}
        return {"required": what, "optional": how}

    def make(self, model, kind, image, vae, weight=1.0, first=0, share=1.0, uncond=1.0):
        made, network = model.clone(), model.model.diffusion_model
        latents = model.model.process_latent_in(vae.encode(image))
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        signal = (1 - betas).cumprod(0)
        noise = torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(0))
        attentions = [each for name, each in network.named_modules() if name.endswith(".attn1")]
        moved = {12: (10, 11, 4), 9: (8, 3)}[len(network.input_blocks)]
        blocks = [network.input_blocks[k] for k in moved[:-1]]
        blocks += [network.middle_block, *network.output_blocks[: moved[-1]]]
        attentions = [] if kind == "reference_adain" else attentions
        streams = [] if kind == "reference_only" else [block[-1] for block in blocks]

        def wrapper(apply_model, given):
            x, sigma, c = given["input"], given["timestep"], given["c"]
            options, banks = c["transformer_options"], {}
            time = model.model.model_sampling.timestep(sigma).float()
            at = signal[time.round().long()][:, None, None, None].float()
            handles = [each.register_forward_pre_hook(lambda m, a: banks.update({m: a[0]})) for each in attentions]
            handles += [each.register_forward_hook(lambda m, _a, out: banks.update({m: out})) for each in streams]
            seen = at.sqrt() * latents + (1 - at).sqrt() * noise
            network(seen, time, context=c["c_crossattn"], y=c.get("y"), transformer_options={})
            for handle in handles:
                handle.remove()

            def weighed(added):
                how = {"weight": weight, "first": first, "share": share, "uncond": uncond}
                return added * _factor(added, options, image.shape[1:3], **how)

            def attend(module, arguments, out):
                n = arguments[0]
                return out + weighed(module.forward(n, context=torch.cat([n, banks[module]], 1)) - out)

            def move(module, _, h):
                over, bank = {"dim": (2, 3), "keepdim": True}, banks[module]
                even = (h - h.mean(**over)) / h.std(**over, correction=0)
                return h + weighed(even * bank.std(**over, correction=0) + bank.mean(**over) - h)

            with contextlib.ExitStack() as exits:
                for each in attentions:
                    exits.callback(each.register_forward_hook(attend).remove)
                for each in streams:
                    exits.callback(each.register_forward_hook(move).remove)
                return apply_model(x, sigma, **c)

        made.set_model_unet_function_wrapper(wrapper)
        return (made,)


def _second(network, model, family, prepared, call):
    """What stands at the family's point when the U-Net sees its other latents, by calling the U-Net itself."""
    (x, sigma, c), found = call, {}
    handle = _hook(network, family.points[0], lambda h: found.setdefault("h", h) * 0)
    scaled = model.model_sampling.calculate_input(sigma, x)
    time = model.model_sampling.timestep(sigma).float()
    network(family.other(scaled, prepared[0]), time, context=c["c_crossattn"], y=c.get("y"), transformer_options={})
    handle.remove()
    return found["h"]


def _block(network, point):
    kinds = {"input": network.input_blocks, "middle": [network.middle_block], "output": network.output_blocks}
    return kinds[point.block.value][point.index]


def _attention(network, point):
    layer = next(each for each in _block(network, point) if hasattr(each, "transformer_blocks"))
    return getattr(layer.transformer_blocks[point.depth], point.part.value.partition(".")[0])


class _Both:
    """Two hooks that are removed together."""

    def __init__(self, *handles):
        self.handles = handles

    def remove(self):
        for handle in self.handles:
            handle.remove()


def _hook(network, point, change, width=0):
    """Add `change` of what stands at a point by a hook on the module that it lies behind or before."""
    part = point.part.value
    if part == "skip":  # of this width, behind the decoder's stream

        def joined(_module, args):
            stream, skip = args[0][:, :-width], args[0][:, -width:]
            return (torch.cat([stream, skip + change(skip)], 1), *args[1:])

        decoder = network.output_blocks[len(network.output_blocks) - 1 - point.index]
        return decoder[0].register_forward_pre_hook(joined)
    if part == "onward":
        return network.input_blocks[point.index + 1][0].register_forward_pre_hook(
            lambda _m, args: (args[0] + change(args[0]), *args[1:])
        )
    if part == "stream":
        return _block(network, point)[-1].register_forward_hook(lambda _m, _a, out: out + change(out))
    attention, value = _attention(network, point), part.partition(".")[2]
    if value == "out":
        return attention.register_forward_hook(lambda _m, _a, out: out + change(out))
    if value == "heads":  # of the queries, before the output projection
        seen = []
        queries = attention.to_q.register_forward_hook(lambda _m, _a, out: seen.append(out))
        joined = attention.to_out[0].register_forward_pre_hook(
            lambda _m, args: (args[0] + change(seen.pop()), *args[1:])
        )
        return _Both(queries, joined)
    layer = getattr(attention, f"to_{value}")
    return layer.register_forward_pre_hook(lambda _m, args: (args[0] + change(args[0]), *args[1:]))


class TestEmbedding:
    """CLIP_VISION_OUTPUT of seeded random numbers, as wide as the test's style adapter and IP-Adapter read."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("CLIP_VISION_OUTPUT",)

    @classmethod
    def INPUT_TYPES(cls):
        counts = {"count": ("INT", {"default": 1}), "width": ("INT", {"default": 64}), "seen": ("INT", {"default": 48})}
        return {"required": {"seed": ("INT", {"default": 0})}, "optional": counts}

    def make(self, seed, count=1, width=64, seen=48):
        found = comfy.clip_vision.Output()
        generator = torch.Generator().manual_seed(seed)
        found.last_hidden_state = torch.randn(count, 257, width, generator=generator)
        found.image_embeds = torch.randn(count, seen, generator=generator)
        return (found,)


class TestAdapted:
    """MODEL with an IP-Adapter's second attention in place of each cross-attention, as packs of the host write it."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        what = {"model": ("MODEL",), "adapter": ("CONTROL_NET",), "embedding": ("CLIP_VISION_OUTPUT",)}
        return {"required": {**what, "weight": ("FLOAT", {"default": 1.0})}}

    def make(self, model, adapter, embedding, weight):
        made, network = model.clone(), adapter.own.model.network
        seen = embedding.image_embeds[:, None]
        cond, uncond = network.image_proj(seen), network.image_proj(torch.zeros_like(seen))
        blocks = [*(("input", k) for k in (1, 2, 4, 5, 7, 8)), *(("output", k) for k in range(3, 12)), ("middle", 0)]
        for block, pair in zip(blocks, network.ip_adapter.values(), strict=True):
            made.set_model_attn2_replace(_adapted(pair, cond, uncond, weight), *block)
        return (made,)


def _adapted(pair, cond, uncond, weight):
    def attend(q, k, v, options):
        tokens = torch.cat(
            [
                (uncond if mark else cond).expand(len(q) // len(options["cond_or_uncond"]), -1, -1)
                for mark in options["cond_or_uncond"]
            ]
        )
        split = lambda h: h.unflatten(-1, (options["n_heads"], -1)).transpose(1, 2)  # noqa: E731
        answers = [
            F.scaled_dot_product_attention(split(q), split(keys), split(values)).transpose(1, 2).flatten(2)
            for keys, values in ((k, v), pair(tokens))
        ]
        return answers[0] + weight * answers[1]

    return attend


class TestStyled:
    """CONDITIONING with a style adapter's tokens times `weight` beside it."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):
        what = {"prompt": ("CONDITIONING",), "style": ("CONTROL_NET",), "embedding": ("CLIP_VISION_OUTPUT",)}
        return {"required": {**what, "weight": ("FLOAT", {"default": 1.0, "min": 0.0})}}

    def make(self, prompt, style, embedding, weight):
        tokens = style.own.model.prepare(embedding.last_hidden_state)[0] * weight
        return ([[torch.cat([text, tokens], dim=1), options] for text, options in prompt],)


class TestPooled:
    """CONDITIONING with an embedding times `weight` in place of its pooled prompt; silent: its tokens are zeros."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):
        what = {"prompt": ("CONDITIONING",), "embedding": ("CLIP_VISION_OUTPUT",)}
        return {"required": {**what, "weight": ("FLOAT", {"default": 1.0, "min": -9.0}), "silent": ("BOOLEAN", {})}}

    def make(self, prompt, embedding, weight, silent):
        pooled = embedding.image_embeds * weight
        return ([[text * (not silent), {**options, "pooled_output": pooled}] for text, options in prompt],)


class TestChanged:
    """MODEL with a LoRA of random numbers on the attention of its encoder."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "strength": ("FLOAT", {"default": 1.0})}}

    def make(self, model, strength):
        made, generator = model.clone(), torch.Generator().manual_seed(12)
        names = [name for name in made.model.diffusion_model.state_dict() if name.endswith("attn1.to_q.weight")]
        shapes = {name: made.model.diffusion_model.state_dict()[name].shape for name in names}
        patches = {name: ("diff", (torch.randn(shapes[name], generator=generator) * 0.1,)) for name in names}
        made.add_patches({f"diffusion_model.{name}": each for name, each in patches.items()}, strength)
        return (made,)


class TestNoHooks:
    """MODEL whose prompts lose their hooks before it is sampled, as in packs that sample by themselves."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def make(self, model):
        made = model.clone()

        def without(sample, *arguments, **settings):
            for prompts in sample.class_obj.conds.values():
                for prompt in prompts:
                    prompt.pop("hooks", None)
            return sample(*arguments, **settings)

        made.add_wrapper(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, without)
        return (made,)


NODES = (
    TestFamily,
    TestByHand,
    TestReference,
    TestEmbedding,
    TestAdapted,
    TestStyled,
    TestPooled,
    TestChanged,
    TestNoHooks,
)
NODE_CLASS_MAPPINGS = {each.__name__: each for each in NODES}
