"""`docs/preprocessors.md` and its pictures, written from the registry: `python -m controlstack.preprocessors.document`.

The page and the programs show the same names, ranges and defaults, because both come from the declarations.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .absent import ABSENT
from .declaration import Output, Parameter
from .images import read_image, write_image
from .networks.network import WeightFile, files_of, size_of
from .perform import Preprocessor
from .poses.faces import draw_faces
from .poses.points import Person, Point, Poses
from .regions import palettes
from .regions.anime_face import FACE_COLOURS
from .registry import REGISTRY, find

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image as PillowImage

    from .resize import Image
else:
    from .lazy import PillowImage, np

DOCS = Path(__file__).resolve().parent.parent / "docs"
PICTURES = Path("images") / "preprocessors"  # below docs/
SOURCE = PICTURES / "source.jpg"
QUALITY = 75  # of a JPEG; keeps every picture of 256 x 256 below 20 kB
SHOWN = {  # what makes the effect visible
    "tile_resample": {"rate": 8.0},
    "tile_guided": {"scale": 3.0},
    "pyracanny": {"low": 100, "high": 200},
    "color_grid": {"cell": 32},
    "blur_gaussian": {"sigma": 5.0},
    "mask": {"grow": 8, "blur": 6.0},
    "outpaint": {"left": 48, "top": 48, "right": 48, "bottom": 48, "feather": 24},
}
SHOWN_MASK = 64, 168, 88, 200  # top, bottom, left, right of the rectangle that stands for a painted mask, in pixels
POINTS = (  # of the astronaut's body, in OpenPose's order, as a person sees them; what is not seen is None
    (113, 61), (111, 132), (53, 128), (32, 207), (72, 248), (168, 135), (187, 203), None, None, None, None, None, None,
    None, (101, 50), (124, 51), (87, 62), (137, 63),
)  # fmt: skip
FACE = PICTURES / "face_mesh.json"  # points of the astronaut's face as mediapipe finds them, enlarged: number to place
MESH = 478  # points of a face
SWATCHES = 15  # colours in a row of a legend
MEGABYTE = 10**6
VEIL = 255, 0, 255  # colour of masked pixels in the pictures, which no photograph has

INTRODUCTION = """# Preprocessors

A preprocessor turns a picture into the hint that a control model reads. This page is generated from the registry by
`python -m controlstack.preprocessors.document`; edit the declarations, not the page.

```python
from controlstack.preprocessors import find
from controlstack.preprocessors.images import read_image, write_image

hint = find("canny")(read_image("photo.jpg"), resolution=512, low=80)
write_image("edges.png", hint)
```

Image encoders give floats `[T, D]` in place of a picture, for control models that read those; a unit hands them over.

Pictures are uint8 RGB, `[H, W, 3]` or a batch `[B, H, W, 3]`. Without `resolution` the result has the picture's size;
with it, the short side is scaled to so many pixels (16 to 8192). Names are found in any case, by id or by the names of
other programs; all names of sd-webui-controlnet are known. Inpaint preprocessors take a `mask` too, and their hint has
it as its fourth channel (magenta in the pictures here).

Networks need weights, which do not come with the project. Each section names the files with size, digest and licence.
Put a file, by the name that is given, below `preprocessors/` in the folder `CONTROLSTACK_MODELS` (else `controlstack/`
in the user's cache), or let the program download it: nothing is downloaded unasked. It is also found in folders of
hosts and of other preprocessor packages, and in the cache of the Hugging Face hub; a call says what is missing.

Many networks are classes of controlnet-aux, which is imported file by file. `python install.py preprocessors` by the
Python of the host, or `controlstack get preprocessors`, adds this and every other package that preprocessors use, each
with its size and licence, and moves nothing that is installed. A host's start adds most of them by itself.
Weights that may be used for everything are those of `depth_anything_v2`, `normal_bae`, `dw_openpose_full`, `mlsd` and
`seg_ofade20k`; some publishers state no licence for theirs, and those of OpenPose, PiDiNet, TEED and anime faces are
not for commercial use.

Preprocessors of poses tell what they found, and draw what an editor changed, without their weights:

```python
from controlstack.preprocessors.poses.points import from_json, to_json

found = find("openpose_full").poses(read_image("photo.jpg"), resolution=512)
write_image("pose.png", find("openpose_full").draw(from_json(to_json(found[0]))))
```

From the command line, whole folders and videos:

    controlstack preprocess canny photos/ clip.mp4 --resolution 512 --set low=80 --output hints

`photos/sub/a.jpg` becomes `hints/sub/a-canny.png`. What cannot be read is named at the end and does not stop the rest.
Every file appears complete or not at all, so Ctrl-C leaves no half; `--resume` then makes what is missing and what was
made with other settings or of another content. A video becomes a video without loss, or with `--frames` a folder of
pictures, as an animated picture, a TIFF of pages and a pose file of several frames always do; if its rate changes, its
frames are taken at the mean rate, so that it lasts as long. Patterns such as `"photos/*.png"` are understood too.
Hints of earlier runs that lie in a folder are left alone, hidden files too, and other files are counted. `--mask FILE`
is for inpaint preprocessors, `--poses` writes poses as JSON too, `--download` gets weights, and
`controlstack preprocess --list` says what each one misses.

The picture: [NASA astronaut Eileen Collins](images/preprocessors/source.jpg), public domain, from scikit-image.

| Preprocessor | Picture | Output | For |
| --- | --- | --- | --- |
"""

ABSENT_INTRODUCTION = """
## Names without a preprocessor

These names of other programs are recognised, and a call says why nothing happens.

Newer versions of ComfyUI have estimators of their own (MoGe, Depth Anything 3, SDPose, Lotus). They are not repeated
here and not called from here: connect the picture that such a node makes to a unit whose preprocessor is `none`
(`normal_opengl` for normals, whose red points the other way), and the POSE_KEYPOINT of a pose node to Draw Pose.

| Name | Why |
| --- | --- |
"""


def page() -> str:
    """Return the whole page, in Markdown."""
    rows = "".join(_row(each) for each in REGISTRY)
    sections = "".join(f"\n{_section(each)}" for each in REGISTRY)
    return INTRODUCTION + rows + sections + ABSENT_INTRODUCTION + "".join(_absent_row(each) for each in ABSENT)


def has_picture(preprocessor: Preprocessor) -> bool:
    """Return whether the page shows what it makes; weights do not come with the project, so few networks are shown."""
    if preprocessor.output is Output.EMBEDDING:
        return False
    return not preprocessor.networks or preprocessor.id in _drawn()


def picture_path(preprocessor: Preprocessor) -> Path:
    """Return where its picture lies below docs/; drawings compress best as PNG, photographs as JPEG."""
    drawing = preprocessor.output in (Output.BINARY, Output.LABELS)
    return PICTURES / f"{preprocessor.id}.{'png' if drawing else 'jpg'}"


def write(docs: Path = DOCS) -> None:
    """Write the page and all pictures below `docs`, from the one photograph that lies there."""
    photo = read_image(docs / SOURCE)
    drawn = _drawn()
    for preprocessor in filter(has_picture, REGISTRY):
        if preprocessor.id in drawn:
            draw, _ = drawn[preprocessor.id]
            _write_picture(docs / picture_path(preprocessor), _visible(draw(), photo))
            continue
        settings: dict[str, Any] = {**SHOWN.get(preprocessor.id, {})}
        if preprocessor.takes_mask:
            settings["mask"] = _mask(photo)
        _write_picture(docs / picture_path(preprocessor), _visible(preprocessor(photo, **settings), photo))
    (docs / "preprocessors.md").write_text(page(), encoding="utf-8", newline="\n")


def _drawn() -> dict[str, tuple[Callable[[], Image], str]]:
    """Return what can be shown of preprocessors with networks without them, and what must be known to understand it."""
    body = "was drawn of points that a person set, not of what the networks find"
    face = "shows the points that mediapipe finds in the photograph's face, enlarged"
    colours = "shows the colours of its classes, row by row in their order"
    return {
        **{name: (partial(_body, name), body) for name in ("openpose", "rtmpose", "vitpose")},
        "mediapipe_face": (_face, face),
        "seg_ofade20k": (lambda: _legend(palettes.ade20k()), colours),
        "seg_m2fade20k": (lambda: _legend(palettes.ade20k()), colours),
        "seg_ofcoco": (lambda: _legend(palettes.coco()), colours),
        "seg_anime_face": (lambda: _legend(np.array(FACE_COLOURS, np.uint8)), colours),
    }


def _body(name: str) -> Image:
    points = tuple(None if place is None else Point(*place, 1.0) for place in POINTS)
    return find(name).draw(Poses(width=256, height=256, people=(Person(body=points),)))


def _face() -> Image:
    points = np.zeros((MESH, 2))
    for number, place in json.loads((DOCS / FACE).read_text(encoding="utf-8")).items():
        points[int(number)] = place

    def find(_image: Image, _faces: int, _confidence: float) -> list[NDArray[np.float64]]:
        return [points / 256]

    return draw_faces(np.zeros((256, 256, 3), np.uint8), find, faces=1, confidence=1.0)


def _legend(colours: Image) -> Image:
    """Return squares of colours [N, 3] in their order, row by row, on black: uint8 [256, 256, 3]."""
    columns = min(SWATCHES, len(colours))
    side = 256 // columns
    canvas = np.zeros((256, 256, 3), np.uint8)
    for number, colour in enumerate(colours):
        row, column = divmod(number, columns)
        canvas[row * side : (row + 1) * side, column * side : (column + 1) * side] = colour
    return canvas


def _mask(photo: Image) -> Image:
    mask = np.zeros(photo.shape[:2], np.uint8)
    top, bottom, left, right = SHOWN_MASK
    mask[top:bottom, left:right] = 255
    return mask


def _visible(hint: Image, photo: Image) -> Image:
    """Return a hint [h, w, 3 or 4] as the page shows it: three channels, and the size of the photograph."""
    if hint.shape[2] == 4:
        strength = hint[..., 3:].astype(np.float32) / 255
        veiled = hint[..., :3] * (1 - strength) + np.array(VEIL, np.float32) * strength
        hint = np.rint(veiled).astype(np.uint8)
    if hint.shape == photo.shape:
        return hint
    return np.asarray(PillowImage.fromarray(hint).resize(photo.shape[1::-1]), np.uint8)


def _write_picture(path: Path, hint: Image) -> None:
    if path.suffix == ".png":
        write_image(path, hint)
    else:
        PillowImage.fromarray(hint).save(path, quality=QUALITY, optimize=True)


def _row(preprocessor: Preprocessor) -> str:
    shown = [f"![{preprocessor.title}]({picture_path(preprocessor).as_posix()})"] if has_picture(preprocessor) else []
    picture = "<br>".join((*shown, *([_weights(preprocessor)] if preprocessor.networks else ())))
    link = f"[{preprocessor.title}](#{preprocessor.id})"
    return f"| {link} | {picture} | {preprocessor.output.value} | {', '.join(preprocessor.control_types)} |\n"


def _weights(preprocessor: Preprocessor) -> str:
    """Return how much must be fetched, as far as it is known."""
    sizes = [file.bytes / MEGABYTE if file.bytes else file.megabytes for file in files_of(preprocessor.networks)]
    known = sum(sizes)
    return f"needs weights, {max(known, 0.1):,.{0 if known >= 10 else 1}f} MB" if known else "needs weights"


def _section(preprocessor: Preprocessor) -> str:
    lines = [f"## {preprocessor.id}", "", preprocessor.doc, "", *_facts(preprocessor)]
    if preprocessor.parameters:
        lines += ["", "| Parameter | Default | Range | Step | |", "| --- | --- | --- | --- | --- |"]
        lines += [_parameter_row(each) for each in preprocessor.parameters]
    return "\n".join(lines) + "\n"


def _facts(preprocessor: Preprocessor) -> Iterator[str]:
    if preprocessor.aliases:
        yield f"- Also known as {', '.join(f'`{each}`' for each in preprocessor.aliases)}."
    polarity = f", {preprocessor.polarity}" if preprocessor.polarity else ""
    yield f"- Output: {preprocessor.output.value}{polarity}."
    if preprocessor.no_hint:
        yield f"- Not offered for units: {preprocessor.no_hint}."
    if preprocessor.takes_mask:
        yield "- Takes a `mask`."
    if preprocessor.grows:
        yield "- The result is larger than the picture; `resolution` changes nothing."
    elif not preprocessor.resizes:
        yield "- Works pixel by pixel and keeps the picture's size; `resolution` changes nothing."
    if not preprocessor.deterministic:
        yield "- Depends on `seed`; the same seed gives the same hint everywhere."
    if has_picture(preprocessor):
        yield from _picture_fact(preprocessor)
    for packages in dict.fromkeys(network.packages for network in preprocessor.networks if network.packages):
        yield f"- Needs {' and '.join(f'`{each}`' for each in packages)}."
    for file in files_of(preprocessor.networks):
        yield _file_fact(file)


def _picture_fact(preprocessor: Preprocessor) -> Iterator[str]:
    """Yield what must be known to understand its picture."""
    if preprocessor.networks:
        _, fact = _drawn()[preprocessor.id]
        yield f"- The picture above {fact}."
    elif preprocessor.id in SHOWN:
        shown = ", ".join(f"{name} {value:g}" for name, value in SHOWN[preprocessor.id].items())
        yield f"- The picture above was made with {shown}."


def _file_fact(file: WeightFile) -> str:
    size = f", {known}" if (known := size_of(file)) else ""
    digest = f", sha256 `{file.sha256}`" if file.sha256 else ""
    inside = f", `{file.archive.member}` in this archive" if file.archive else ""
    return f"- Weights [{file.name}]({file.addresses[0]}){inside}{size}{digest}. Licence: {file.licence}."


def _absent_row(preprocessor: Preprocessor) -> str:
    known = ", ".join(f"`{each}`" for each in (preprocessor.id, *preprocessor.aliases))
    reason = preprocessor.absent[0].upper() + preprocessor.absent[1:]
    return f"| {known} | {reason}. |\n"


def _parameter_row(parameter: Parameter) -> str:
    unit = f" {parameter.unit}" if parameter.unit else ""
    numbers = f"{parameter.default:g}{unit} | {parameter.minimum:g} to {parameter.maximum:g}{unit} | {parameter.step:g}"
    return f"| `{parameter.name}` ({parameter.label}) | {numbers} | {parameter.doc} |"


if __name__ == "__main__":
    write()
