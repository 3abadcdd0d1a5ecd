"""Units beside Tiled Diffusion in a real WebUI: each tile sees its own part of every hint, mask and picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import webui_host
import webui_world
from test_webui import HALF, clean
from webui_host import Drawing, Evaluation, Host, Picture, encode
from webui_oracle import Oracle, Place, Wanted
from webui_units import TOLERANCE, photograph, same

WIDTH, HEIGHT = 128, 96
TILE, OVERLAP = 8, 4  # latent pixels
MULTI, MIXTURE = "MultiDiffusion", "Mixture of Diffusers"
METHODS = (MULTI, MIXTURE)
BOX = tuple[int, int, int, int]  # top, left, height, width in latent pixels


def tiled(method: str = MULTI, at_once: int = 1, **changes: Any) -> dict[str, list[Any]]:
    """Tiled Diffusion's arguments, in its order."""
    settings = {
        "enabled": True, "method": method, "overwrite": False, "keep": True, "width": 0, "height": 0,
        "tile_width": TILE, "tile_height": TILE, "overlap": OVERLAP, "at_once": at_once, "upscaler": "None",
        "factor": 2.0, "inverse": False, "inverse_steps": 3, "retouch": 1, "renoise": 1, "kernel": 8, "cpu": False,
        "regions": False, "background": True, "causal": False,
    }  # fmt: skip
    regions = changes.pop("boxes", [])
    return {"Tiled Diffusion": [*(settings | changes).values(), *(value for box in regions for value in box)]}


def region(left: float, top: float, width: float, height: float, prompt: str = "", blend: str = "Background") -> Any:
    return [True, left, top, width, height, prompt, "", blend, 0.2, 5]


def grid(width: int = WIDTH, height: int = HEIGHT) -> list[BOX]:
    """Row by row; both sides are multiples of what a tile has beyond the overlap."""
    step = TILE - OVERLAP
    rows, columns = (range(0, side // 8 - TILE + 1, step) for side in (height, width))
    return [(y, x, TILE, TILE) for y in rows for x in columns]


def batches(boxes: list[BOX], at_once: int) -> list[list[BOX]]:
    """As evenly as Tiled Diffusion shares them out."""
    size = -(-len(boxes) // -(-len(boxes) // at_once))
    return [boxes[start : start + size] for start in range(0, len(boxes), size)]


def part(picture: Picture, box: BOX) -> Picture:
    top, left, height, width = (8 * each for each in box)
    return picture[top : top + height, left : left + width]


def seen_part(wanted: Wanted, box: BOX) -> Wanted:
    hints = {hires: part(hint, box) for hires, hint in wanted.hints.items()}
    return replace(wanted, hints=hints, mask=None if wanted.mask is None else part(wanted.mask, box))


def rows(seen: Evaluation, first: int, count: int, cond: int = 1) -> Evaluation:
    """Some rows of an evaluation, of which the first `cond` are cond."""
    cut = slice(first, first + count)
    tensors = {name: getattr(seen, name) for name in ("x", "time", "context", "out", "y")}
    shown = {name: None if each is None else each[cut] for name, each in tensors.items()}
    return replace(seen, **shown, cond=tuple(row < cond for row in range(count)))


def unit(seed: int = 0, file: str = "canny", mask: Picture | None = None, **settings: Any) -> Wanted:
    hint = photograph(seed, WIDTH)[:HEIGHT]
    return Wanted(file=file, hints={False: hint, True: hint}, mask=mask, settings=settings)


def far(seen: Evaluation, answer: torch.Tensor) -> float:
    return float((seen.out - answer).abs().max() / answer.abs().max())


MASK = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
MASK[:, 40:] = 255
CONTROL = {"control_mode": "ControlNet is more important"}


@dataclass(frozen=True)
class Case:
    units: tuple[Wanted, ...] = (unit(),)
    at_once: int = 1
    pictures: int = 1
    settings: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    apart: bool = False  # cond and uncond rows in calls of their own
    steps: int = 3


CASES = {
    "one": Case(),
    "two, several tiles at once": Case((unit(), unit(1, "depth", weight=0.6)), 4),
    "two on one model": Case((unit(), unit(1, weight=0.6)), 4),
    "adapter": Case((unit(file="t2i"), unit(1)), 2),
    "control": Case((unit(**CONTROL), unit(1, "depth")), 4),
    "region": Case((unit(mask=MASK), unit(1, "depth", mask=MASK)), 4),
    "range": Case((unit(guidance_start=0.2, guidance_end=0.5, range_basis="steps"), unit(1)), steps=5),
    "pictures": Case((unit(**CONTROL),), 4, 2, {"batch_size": 2}),
    "batches": Case((unit(**CONTROL),), 4, 1, {"n_iter": 2}),
    "DDIM": Case((unit(**CONTROL),), 4, 2, {"batch_size": 2, "sampler_name": "DDIM"}),
    "long prompt": Case((unit(**CONTROL),), 4, 2, {"batch_size": 2, "prompt": "a cat " * 60}, apart=True),
    "moved to the CPU": Case(changes={"cpu": True}),
    "overwritten size": Case(
        settings={"width": 64, "height": 64}, changes={"overwrite": True, "width": WIDTH, "height": HEIGHT}
    ),
}


def calls(case: Case, boxes: list[list[BOX]]) -> Iterator[tuple[list[BOX], int, int]]:
    """Tiles, rows of each, and how many of them are cond, of each evaluation of one step."""
    for cond in (case.pictures, 0) if case.apart else (case.pictures,):
        yield from ((batch, case.pictures if case.apart else 2 * case.pictures, cond) for batch in boxes)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CASES)
def test_each_tile_equals_our_core_on_its_part_of_the_hint(
    webui_tiled: Host, oracle: Oracle, name: str, method: str
) -> None:
    case, logged = CASES[name], len(webui_tiled.log.read_text())
    drawing = webui_tiled.draw(
        *(each.request for each in case.units), record=True, scripts=tiled(method, case.at_once, **case.changes),
        **{"width": WIDTH, "height": HEIGHT, "steps": case.steps, **case.settings},
    )  # fmt: skip
    assert drawing.pictures[0].shape[:2] == (HEIGHT, WIDTH)
    expected = list(calls(case, batches(grid(), case.at_once)))
    assert len(drawing.evaluations) % len(expected) == 0 < len(drawing.evaluations)
    for number, seen in enumerate(drawing.evaluations):
        boxes, count, cond = expected[number % len(expected)]
        place = Place(number // len(expected) % case.steps, 0, case.steps)
        assert len(seen.x) == count * len(boxes)
        for index, box in enumerate(boxes):
            tile = rows(seen, index * count, count, cond)
            answer = oracle.answer(tile, [seen_part(each, box) for each in case.units], place)
            assert far(tile, answer) <= TOLERANCE, (number, box)
    assert "each part sees the whole" not in webui_tiled.log.read_text()[logged:]
    assert webui_tiled.count()["hooks"] == 0


def test_another_part_of_the_hint_would_show(webui_tiled: Host, oracle: Oracle) -> None:
    """Else the equalities above would hold for any part."""
    drawing = webui_tiled.draw(unit().request, record=True, scripts=tiled(), width=WIDTH, height=HEIGHT)
    first, other = rows(drawing.evaluations[0], 0, 2), grid()[1]
    assert far(first, oracle.answer(first, [seen_part(unit(), other)], Place(0, 0, 3))) > 100 * TOLERANCE


@pytest.mark.parametrize("method", METHODS)
def test_img2img_that_enlarges(webui_tiled: Host, oracle: Oracle, method: str) -> None:
    """A unit without a picture sees what Tiled Diffusion has enlarged, whichever of the two is loaded first."""
    scene = photograph(9)
    drawing = webui_tiled.draw(
        unit(image=None, pixel_perfect=True).request, route="img2img", record=True, init_images=[encode(scene)],
        scripts=tiled(method, 4, upscaler="Nearest", keep=False), steps=8, denoising_strength=0.5,
    )  # fmt: skip
    assert drawing.pictures[0].shape[:2] == (128, 128)
    large = Wanted(hints={False: scene.repeat(2, 0).repeat(2, 1)})
    expected = batches(grid(128, 128), 4)
    assert len(drawing.evaluations) == 5 * len(expected)
    for number, seen in enumerate(drawing.evaluations):
        for index, box in enumerate(expected[number % len(expected)]):
            tile = rows(seen, 2 * index, 2)
            assert far(tile, oracle.answer(tile, [seen_part(large, box)], Place(0, 0, 1))) <= TOLERANCE, (number, box)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("prompt", ["a dog", "a dog " * 60], ids=["short", "long"])
def test_regions(webui_tiled: Host, oracle: Oracle, method: str, prompt: str) -> None:
    """A long prompt of a region is evaluated apart from its negative one."""
    places: list[BOX] = [(0, 4, 8, 8), (0, 0, 16, 16)]
    boxes = [region(0.25, 0, 0.5, 0.5, prompt), region(0, 0, 1.0, 1.0, prompt, "Foreground")]
    units = [Wanted(hints={False: photograph(0, 128)}, settings=CONTROL), Wanted(hints={False: photograph(1, 128)})]
    drawing = webui_tiled.draw(
        *(each.request for each in units), record=True, scripts=tiled(method, 4, regions=True, boxes=boxes),
        width=128, height=128,
    )  # fmt: skip
    apart = prompt != "a dog"
    step = [(batch, 2, 1) for batch in batches(grid(128, 128), 4)]
    for place in places:
        step += [([place], 1, 1), ([place], 1, 0)] if apart else [([place], 2, 1)]
    assert len(drawing.evaluations) == 3 * len(step)
    for number, seen in enumerate(drawing.evaluations):
        shown, count, cond = step[number % len(step)]
        for index, box in enumerate(shown):
            tile = rows(seen, index * count, count, cond)
            answer = oracle.answer(tile, [seen_part(each, box) for each in units], Place(0, 0, 1))
            assert far(tile, answer) <= TOLERANCE, (number, box)


def test_regions_that_coincide(webui_tiled: Host, oracle: Oracle) -> None:
    """With each other and with a tile, where the request's cond and uncond rows come in calls of their own."""
    place: BOX = (0, 4, 8, 8)
    boxes = [region(0.25, 0, 0.5, 0.5, "a dog " * 60, blend) for blend in ("Background", "Foreground")]
    wanted = Wanted(hints={False: photograph(0, 128)}, settings=CONTROL)
    drawing = webui_tiled.draw(
        wanted.request, record=True, scripts=tiled(MULTI, 1, regions=True, boxes=boxes), width=128, height=128,
        prompt="a cat " * 60,
    )  # fmt: skip
    step = [(box, cond) for cond in (1, 0) for box in (*grid(128, 128), place, place)]
    assert len(drawing.evaluations) == 3 * len(step)
    for number, seen in enumerate(drawing.evaluations):
        box, cond = step[number % len(step)]
        tile = rows(seen, 0, 1, cond)
        assert far(tile, oracle.answer(tile, [seen_part(wanted, box)], Place(0, 0, 1))) <= TOLERANCE, number


@pytest.mark.parametrize("mode", ["Balanced", CONTROL["control_mode"]])
def test_sdxl(webui_tiled: Host, webui_models: Path, mode: str) -> None:
    chosen = {"override_settings": {"sd_model_checkpoint": webui_world.XL, "live_previews_enable": False}}
    wanted = Wanted(file="xl", hints={False: photograph(0, 128)}, settings={"control_mode": mode})
    drawing = webui_tiled.draw(wanted.request, record=True, scripts=tiled(MULTI, 4), width=128, height=128, **chosen)
    expected, judge = batches(grid(128, 128), 4), Oracle(webui_models, webui_world.XL)
    assert len(drawing.evaluations) == 3 * len(expected)
    for number, seen in enumerate(drawing.evaluations):
        for index, box in enumerate(expected[number % len(expected)]):
            tile = rows(seen, 2 * index, 2)
            assert tile.y is not None
            assert far(tile, judge.answer(tile, [seen_part(wanted, box)], Place(0, 0, 1))) <= TOLERANCE, (number, box)


@pytest.mark.parametrize("method", METHODS)
def test_the_hires_pass_is_not_tiled(webui_tiled: Host, oracle: Oracle, method: str) -> None:
    hires = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7}
    low = photograph(0, 128)
    wanted = Wanted(hints={False: low, True: low})
    drawing = webui_tiled.draw(wanted.request, record=True, scripts=tiled(method, 4), width=128, height=128, **hires)
    expected = batches(grid(128, 128), 4)
    first = [seen for seen in drawing.evaluations if not seen.hires]
    second = [seen for seen in drawing.evaluations if seen.hires]
    assert len(first) == 3 * len(expected) and len(second) == 3
    for number, seen in enumerate(first):
        for index, box in enumerate(expected[number % len(expected)]):
            tile = rows(seen, 2 * index, 2)
            assert far(tile, oracle.answer(tile, [seen_part(wanted, box)], Place(0, 0, 1))) <= TOLERANCE
    enlarged = np.asarray(cv2.resize(low, (256, 256), interpolation=cv2.INTER_CUBIC), np.uint8)
    for seen in second:
        assert far(seen, oracle.answer(seen, [Wanted(hints={True: enlarged})], Place(0, 0, 1))) <= TOLERANCE


@pytest.mark.parametrize("method", METHODS)
def test_what_inpainting_keeps_is_the_same_in_every_tile_at_every_step(webui_tiled: Host, method: str) -> None:
    asked = {**unit(module="inpaint_only").request, "image": encode(photograph(3)), "mask": encode(HALF)}
    drawing = webui_tiled.draw(asked, record=True, scripts=tiled(method), width=128, height=128, sampler_name="Euler")
    kept = 128 // 8 // 2 + 1  # the columns from here on, in latent pixels
    canvas = torch.full((4, 16, 16), float("nan"))
    boxes = grid(128, 128)
    assert len(drawing.evaluations) == 3 * len(boxes)
    compared = 0
    for number, seen in enumerate(drawing.evaluations):
        top, left, height, width = boxes[number % len(boxes)]
        first = max(0, kept - left)
        here = canvas[:, top : top + height, left + first : left + width]
        for answer in clean(seen, False).float()[..., first:]:
            known = ~here.isnan()
            compared += int(known.sum())
            torch.testing.assert_close(answer[known], here[known], atol=2e-3, rtol=1e-3)
            here[~known] = answer[~known]
    assert compared > 1000


def test_noise_inversion(webui_tiled: Host, oracle: Oracle) -> None:
    """The cond rows alone, outside the denoiser, and tiled as well."""
    scene = photograph(9, 128)
    wanted = Wanted(hints={False: photograph(1, 128)}, settings=CONTROL)
    drawing = webui_tiled.draw(
        wanted.request, route="img2img", record=True, init_images=[encode(scene)], steps=4, denoising_strength=0.5,
        scripts=tiled(MULTI, 4, inverse=True), width=128, height=128, sampler_name="Euler",
    )  # fmt: skip
    expected = batches(grid(128, 128), 4)
    inverse = 3 * len(expected)
    assert len(drawing.evaluations) > inverse
    for number, seen in enumerate(drawing.evaluations):
        for index, box in enumerate(expected[number % len(expected)]):
            count = 1 if number < inverse else 2
            tile = rows(seen, count * index, count)
            assert far(tile, oracle.answer(tile, [seen_part(wanted, box)], Place(0, 0, 1))) <= TOLERANCE, number


def test_installed_but_off_changes_no_bit(webui_tiled: Host, webui: Host) -> None:
    for units in ((), (unit().request,), (unit().request, unit(1, "depth").request)):
        drawings = [host.draw(*units, width=WIDTH, height=HEIGHT) for host in (webui, webui_tiled)]
        assert same(*drawings)


def test_tiles_leave_nothing_behind(webui_tiled: Host) -> None:
    size = {"width": WIDTH, "height": HEIGHT}
    plain, before = webui_tiled.draw(**size), webui_tiled.draw(unit().request, **size)
    alone = webui_tiled.draw(scripts=tiled(), **size)
    webui_tiled.post("test/set?how=raise&call=4")
    with pytest.raises(webui_host.RequestError, match="the test asked for a failure"):
        webui_tiled.draw(unit().request, scripts=tiled(MIXTURE), **size)
    assert webui_tiled.count()["hooks"] == 0
    assert same(webui_tiled.draw(**size), plain) and same(webui_tiled.draw(unit().request, **size), before)
    assert same(webui_tiled.draw(scripts=tiled(), **size), alone)


def test_tiled_vae_does_not_disturb(webui_tiled: Host, oracle: Oracle) -> None:
    """Its tiles are small enough that pictures of this size are cut."""
    size = {"width": 256, "height": 256}
    vae = {"Tiled VAE": [True, 128, 8, True, True, True, False]}
    scene, hint = encode(photograph(4, 256)), photograph(5, 256)
    asked = Wanted(hints={False: hint}, settings={"module": "tile_colorfix"})
    settings: dict[str, Any] = {
        "route": "img2img",
        "init_images": [scene],
        "denoising_strength": 0.6,
        "steps": 5,
        **size,
    }
    plain: list[Drawing] = []
    for scripts in (None, vae, None):
        logged = len(webui_tiled.log.read_text())
        drawing = webui_tiled.draw(replace(asked, settings={}).request, record=True, scripts=scripts, **settings)
        assert ("[Tiled VAE]" in webui_tiled.log.read_text()[logged:]) is (scripts is not None)
        for seen in drawing.evaluations:
            assert far(seen, oracle.answer(seen, [Wanted(hints={False: hint})], Place(0, 0, 1))) <= TOLERANCE
        webui_tiled.draw(asked.request, scripts=scripts, **settings)
        plain.append(webui_tiled.draw(**settings))
        assert webui_tiled.count()["hooks"] == 0
    assert same(plain[0], plain[2])
