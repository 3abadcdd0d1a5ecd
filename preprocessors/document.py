"""`docs/preprocessors.md` and its pictures, written from the registry: `python -m controlstack.preprocessors.document`.

The page and the programs show the same names, ranges and defaults, because both come from the declarations.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base import Output, Parameter, Preprocessor
from .images import read_image, write_image
from .registry import REGISTRY

if TYPE_CHECKING:
    from PIL import Image as PillowImage

    from .base import Image
else:
    from .lazy import PillowImage

DOCS = Path(__file__).resolve().parent.parent / "docs"
PICTURES = Path("images") / "preprocessors"  # below docs/
SOURCE = PICTURES / "source.jpg"
QUALITY = 75  # of a JPEG; keeps every picture of 256 x 256 below 20 kB
SHOWN = {"tile_resample": {"rate": 8.0}, "color_grid": {"cell": 32}, "blur_gaussian": {"sigma": 5.0}}  # visible effects

INTRODUCTION = """# Preprocessors

A preprocessor turns a picture into the hint that a control model reads. This page is generated from the registry by
`python -m controlstack.preprocessors.document`; edit the declarations, not the page.

```python
from controlstack.preprocessors import find
from controlstack.preprocessors.images import read_image, write_image

hint = find("canny")(read_image("photo.jpg"), resolution=512, low=80)
write_image("edges.png", hint)
```

Pictures are uint8 RGB, `[H, W, 3]` or a batch `[B, H, W, 3]`. Without `resolution` the result has the picture's size;
with it, the short side is scaled to so many pixels (16 to 8192). Names are found in any case, by id or by the names of
other programs.

The picture: [NASA astronaut Eileen Collins](images/preprocessors/source.jpg), public domain, from scikit-image.

| Preprocessor | Picture | Output | For |
| --- | --- | --- | --- |
"""


def page() -> str:
    """The whole page, in Markdown."""
    rows = "".join(_row(each) for each in REGISTRY)
    return INTRODUCTION + rows + "".join(f"\n{_section(each)}" for each in REGISTRY)


def picture_path(preprocessor: Preprocessor) -> Path:
    """Where its picture lies below docs/; drawings compress best as PNG, photographs as JPEG."""
    return PICTURES / f"{preprocessor.id}.{'png' if preprocessor.output is Output.BINARY else 'jpg'}"


def write(docs: Path = DOCS) -> None:
    """Write the page and all pictures below `docs`, from the one photograph that lies there."""
    photo = read_image(docs / SOURCE)
    for preprocessor in REGISTRY:
        settings: dict[str, Any] = {**SHOWN.get(preprocessor.id, {})}
        _write_picture(docs / picture_path(preprocessor), preprocessor(photo, **settings))
    (docs / "preprocessors.md").write_text(page(), encoding="utf-8", newline="\n")


def _write_picture(path: Path, hint: Image) -> None:
    if path.suffix == ".png":
        write_image(path, hint)
    else:
        PillowImage.fromarray(hint).save(path, quality=QUALITY, optimize=True)


def _row(preprocessor: Preprocessor) -> str:
    picture = f"![{preprocessor.title}]({picture_path(preprocessor).as_posix()})"
    link = f"[{preprocessor.title}](#{preprocessor.id})"
    return f"| {link} | {picture} | {preprocessor.output.value} | {', '.join(preprocessor.control_types)} |\n"


def _section(preprocessor: Preprocessor) -> str:
    lines = [f"## {preprocessor.id}", "", preprocessor.doc, "", *_facts(preprocessor)]
    if preprocessor.parameters:
        lines += ["", "| Parameter | Default | Range | Step | |", "| --- | --- | --- | --- | --- |"]
        lines += [_parameter_row(each) for each in preprocessor.parameters]
    return "\n".join(lines) + "\n"


def _facts(preprocessor: Preprocessor) -> Iterator[str]:
    if preprocessor.aliases:
        yield f"- Also known as {', '.join(f'`{each}`' for each in preprocessor.aliases)}."
    yield f"- Output: {preprocessor.output.value}."
    if not preprocessor.resizes:
        yield "- Works pixel by pixel and keeps the picture's size; `resolution` changes nothing."
    if not preprocessor.deterministic:
        yield "- Depends on `seed`; the same seed gives the same hint everywhere."
    if preprocessor.id in SHOWN:
        shown = ", ".join(f"{name} {value:g}" for name, value in SHOWN[preprocessor.id].items())
        yield f"- The picture above was made with {shown}."


def _parameter_row(parameter: Parameter) -> str:
    unit = f" {parameter.unit}" if parameter.unit else ""
    numbers = f"{parameter.default:g}{unit} | {parameter.minimum:g} to {parameter.maximum:g}{unit} | {parameter.step:g}"
    return f"| `{parameter.name}` ({parameter.label}) | {numbers} | {parameter.doc} |"


if __name__ == "__main__":
    write()
