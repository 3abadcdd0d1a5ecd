"""An evaluation of one's own pictures from its first check to its results; everything is loaded before any picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ....core.errors import HintError, MissingDependencyError
from ....core.wording import print_line
from ....preprocessors import find
from ....preprocessors.images import check_folder, make_folder
from ....preprocessors.networks.pool import PlainManager
from ...data.example import Example
from ...interrupts import interrupts_wait
from ...report.bars import bar
from ...results.files import check_new, write_text
from ..measures.measure import Image, Measure
from .drawing import draw
from .items import Item, check_pictures, items_of, pictures_of, read_examples, stem_of
from .judging import Judging
from .kinds import KINDS, POSE, kind_of, measure_of
from .options import Asked
from .page import page
from .results import as_json, table, values_of
from .settings import keep_settings

INTERRUPTED = 130  # exit code after Ctrl-C
DRAWN, STATE, RESULTS, PAGE = "drawn", "judged.state", "results.json", "page.html"  # in the folder of the results
SHOWN = 24  # pictures on the page
LATER = frozenset({"out", "save_every", "device"})  # what a resumed evaluation may have otherwise


def evaluate(asked: Asked, *, resume: bool, also: Path | None) -> int:
    """Draw where asked, judge, and write the results; returns the exit code. also: one more file for the numbers."""
    check_folder(asked.out)
    if also is not None:
        check_folder(also.parent)
    examples, reader = read_examples(asked, bar) if asked.data is not None else (None, None)
    references = pictures_of(asked.reference, "--reference") if asked.reference is not None else ()
    drawn = asked.out / DRAWN
    items = _items(asked, examples, drawn, resume)
    if not resume:
        check_new(asked.out / RESULTS, "make it anew with --resume")
    check_pictures(references, bar)
    measures = _measures(asked, with_examples=examples is not None)
    judging = Judging(
        items, references, measures, reader, asked.has_hints, _detector(asked), record=_record(asked, items)
    )
    if resume and (asked.out / STATE).is_file():
        judging.load(asked.out / STATE)
    make_folder(asked.out)
    if asked.base is not None:
        keep_settings(asked, drawn)
    with interrupts_wait() as interrupted:
        whole = True
        if asked.base is not None and examples is not None and reader is not None:
            whole = draw(asked, examples, reader, drawn, bar, interrupted)
        if not whole or not judging.run(asked.out / STATE, asked.save_every, bar, interrupted):
            return _stopped(asked.out)
    _write(judging, asked.out, also)
    return 0


def _items(asked: Asked, examples: Sequence[Example] | None, drawn: Path, resume: bool) -> list[Item]:
    """Return the pictures that are judged, also those that are yet to be drawn. HintError for what cannot be used."""
    if asked.base is None:
        assert asked.pictures is not None
        items = items_of(asked.pictures, examples, asked.limit)
        check_pictures([item.drawn for item in items], bar)
        return items
    assert examples is not None
    names = [f"{stem_of(each, index)}.png" for index, each in enumerate(examples)]
    items = [Item(name, drawn / name, each) for name, each in zip(names, examples, strict=True)]
    _check_names(items)
    _check_fresh(drawn, resume)
    return items


def _measures(asked: Asked, *, with_examples: bool) -> list[Measure]:
    """Return what is measured, with its weights loaded. HintError where that is nothing."""
    _check_package(asked)
    found: list[Measure] = []
    clip = None
    if asked.clip is not None:
        from ..measures.clip import Aesthetic, ClipScore, load_clip, load_head

        clip = load_clip(asked.clip, PlainManager().device)
        found += [ClipScore(clip)] if with_examples else []
        found += [Aesthetic(clip, load_head(asked.aesthetic, clip.width))] if asked.aesthetic is not None else []
    if asked.reference is not None:
        from ..measures.frechet import INCEPTION, Fid, inception

        if asked.features == "inception":
            assert asked.inception is not None
            found.append(Fid(inception(asked.inception), INCEPTION))
        else:
            assert clip is not None
            found.append(Fid(clip.picture, clip.width))
    found += _of_hints(asked)
    if not found:
        raise HintError(
            "there is nothing to measure: give --reference with --inception or --clip (FID), --clip with --data (CLIP "
            "score), or --data with --hint (do the pictures obey?)"
        )
    return found


def _of_hints(asked: Asked) -> list[Measure]:
    """Return the measure that compares hints; none without hints, or where it was not wanted."""
    if not asked.has_hints or asked.fidelity == "none":
        return []
    if asked.detector is None:
        raise HintError(
            f"the hints come from the column '{asked.hints.column}', and nothing says how they are seen in a drawn "
            "picture: name a preprocessor with --detect, or give --fidelity none"
        )
    preprocessor = find(asked.detector)
    kind = asked.fidelity or kind_of(preprocessor)
    if kind is None:
        raise HintError(
            f"hints of '{preprocessor.id}' are compared in no known way: give --fidelity {', '.join(KINDS)} or none"
        )
    if kind == POSE and not preprocessor.finds_poses:
        raise HintError(f"--fidelity pose needs a preprocessor that finds poses, and '{preprocessor.id}' does not")
    if reason := preprocessor.missing():
        raise MissingDependencyError(f"{preprocessor.id}: {reason}")
    if asked.lpips is None:
        return [measure_of(kind, preprocessor, None)]
    from ..measures.lpips import load_lpips

    return [measure_of(kind, preprocessor, load_lpips(asked.lpips))]


def _check_package(asked: Asked) -> None:
    """Raise MissingDependencyError where a package of the extra `evaluation` is missing."""
    if asked.reference is None and not asked.has_hints and asked.lpips is None:
        return
    try:
        import torchmetrics  # noqa: F401 - whether it is there
    except ImportError as error:
        raise MissingDependencyError(
            "these measures need the package 'torchmetrics': pip install 'controlstack[evaluation]'"
        ) from error


def _detector(asked: Asked) -> Callable[[Image], Image] | None:
    """Return what sees the hint in a drawn picture: the preprocessor with its parameters; None where none is needed."""
    if asked.detector is None or not asked.has_hints:
        return None
    given: dict[str, Any] = {} if asked.detect is not None else dict(asked.hints.parameters or {})
    preprocessor = find(asked.detector)

    def detect(picture: Image) -> Image:
        return preprocessor(picture, **given)

    return detect


def _record(asked: Asked, items: Sequence[Item]) -> dict[str, str]:
    said = {name: str(getattr(asked, name)) for name in asked.__slots__ if name not in LATER}
    return {**said, "count": str(len(items))}


def _check_names(items: Sequence[Item]) -> None:
    seen: set[str] = set()
    for item in items:
        if item.name in seen:
            raise HintError(f"two examples have pictures named '{item.name}': their drawn pictures would be one file")
        seen.add(item.name)


def _check_fresh(drawn: Path, resume: bool) -> None:
    if not resume and drawn.is_dir() and any(drawn.iterdir()):
        raise HintError(f"'{drawn}' holds pictures: go on with --resume, or name another folder as --out")


def _stopped(out: Path) -> int:
    print_line(f"stopped: go on with --resume, from '{out}'", error=True)
    return INTERRUPTED


def _write(judging: Judging, out: Path, also: Path | None) -> None:
    values = values_of(judging.rows, judging.measures)
    numbers = json.dumps(as_json(values, judging.rows, judging.record), indent=2)
    samples = [judging.sample(item) for item in judging.items[:SHOWN]]
    for path, text in ((out / RESULTS, numbers), (also, numbers), (out / PAGE, page(values, judging.rows, samples))):
        if path is not None:
            make_folder(path.parent)
            write_text(path, text)
    (out / STATE).unlink(missing_ok=True)
    print(table(values))
    print_line(f"wrote {out / RESULTS} and {out / PAGE}")
