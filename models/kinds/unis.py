"""The kinds of hints that Uni-ControlNet tells apart, and the option by which a unit names them; without torch."""

from __future__ import annotations

from ...core.embedding import Embedding, Encoder, Values
from ...core.options import Option
from .unions import AUTOMATIC, OPTION

# In the order of the channels that it reads (`src/test/test.py` of ShihaoZhaoZSH/Uni-ControlNet), each with its other
# names. What another kind of union calls by one word are two kinds here: lines and edges, sketches and soft edges.
KINDS: tuple[tuple[str, ...], ...] = (
    ("canny", "hard edge"),
    ("mlsd",),
    ("softedge", "hed", "pidi", "ted"),
    ("scribble", "sketch"),
    ("openpose", "pose"),
    ("depth", "midas"),
    ("segmentation", "segment", "seg"),
)
NAMES = tuple(kind for kind, *_ in KINDS)
CONTENT = "content"  # what CLIP sees in a picture: it says nothing of places, and goes beside the prompt
EMBEDDING = Embedding(Encoder.CLIP_L, Values.IMAGE)


def offers(*, content: bool = True) -> tuple[Option, ...]:
    """Return what units may tell a Uni-ControlNet. content: whether it reads what CLIP sees, too."""
    words = {AUTOMATIC: ("automatic", "unknown"), **{kind: tuple(more) for kind, *more in KINDS}}
    if content:
        words[CONTENT] = ("global", "clip_vision", "clip_l_image")
    return (
        Option(
            name=OPTION,
            label="Union Control Type",
            meaning="what the hint shows, which has to be said; several act together in one pass: depth+canny",
            default=AUTOMATIC,
            words=words,
            several=True,
            of_hint=True,
            needed=True,
        ),
    )
