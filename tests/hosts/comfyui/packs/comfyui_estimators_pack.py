"""Runs inside ComfyUI, for our tests alone: what its own estimators, where it has some, find on scenes that we know."""

import importlib.util

import torch

PERSON = [(64, 30), (58, 26), (70, 26), (52, 28), (76, 28), (44, 50), (84, 50), (36, 72), (92, 72), (30, 92), (98, 92)]
PERSON += [
    (50, 90),
    (78, 90),
    (48, 112),
    (80, 112),
    (46, 126),
    (82, 126),
]  # COCO's points, in pixels of a square of 128


def ball(size):
    """A ball before a wall, in camera coordinates (right, down, away): normals [1, H, W, 3], depth [1, H, W]."""
    down, right = torch.meshgrid(*(torch.linspace(-1.2, 1.2, size),) * 2, indexing="ij")
    towards = (1 - right**2 - down**2).clamp(min=0).sqrt()
    inside = (right**2 + down**2 < 1)[..., None]
    normal = torch.where(inside, torch.stack([right, down, -towards], -1), torch.tensor([0.0, 0.0, -1.0]))
    return normal[None], (3 - towards)[None]


class TestBall:
    """The geometry of a ball, as the host's estimators give it out."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MOGE_GEOMETRY", "DA3_GEOMETRY")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"size": ("INT", {"default": 128})}}

    def make(self, size):
        normal, depth = ball(size)
        return {"normal": normal, "depth": depth}, {"depth": depth}


class TestMoGe:
    """A small MoGe with random weights."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MOGE_MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def make(self):
        from comfy.ldm.moge.model import MoGeModel, MoGeModelV1

        backbone = {"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 4, "layer_norm_eps": 1e-6}
        network = MoGeModelV1({**backbone, "use_swiglu_ffn": False}, dim_upsample=[8, 8, 8])
        generator = torch.Generator().manual_seed(0)
        state = {
            name: torch.randn(tensor.shape, generator=generator) * (0.5 / max(1, tensor[0].numel())) ** 0.5
            if tensor.ndim
            else tensor
            for name, tensor in network.state_dict().items()
        }
        made = MoGeModel(state)
        made.dtype, made.model = torch.float32, made.model.float()  # a CPU does not resize in half precision
        return (made,)


class TestSDPose:
    """POSE_KEYPOINT of one person, as SDPose's node writes down what its network finds; unsure: the last points."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("POSE_KEYPOINT",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"unsure": ("INT", {"default": 0})}}

    def make(self, unsure):
        from comfy_extras.nodes_sdpose import _to_openpose_frames

        count = 133 - len(PERSON)
        places = torch.tensor(PERSON + [(5, 5)] * count).float().numpy()
        scores = torch.tensor([1.0] * (len(PERSON) - unsure) + [0.1] * (unsure + count)).numpy()
        return (_to_openpose_frames([[places]], [[scores]], 128, 128),)


NODE_CLASS_MAPPINGS = {}
if importlib.util.find_spec("comfy_extras.nodes_moge"):
    NODE_CLASS_MAPPINGS = {each.__name__: each for each in (TestBall, TestMoGe, TestSDPose)}
