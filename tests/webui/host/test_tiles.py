"""What extensions that draw in tiles do with the hint that they find, and what the units learn from it."""

from __future__ import annotations

import pytest
import torch
from controlstack.core.errors import HostError
from controlstack.core.step import Window
from controlstack.scripts.webui.host.foreign import ControlModelType
from controlstack.scripts.webui.host.unet.denoiser import Denoising
from controlstack.scripts.webui.host.unet.tiles import Tiles, cut

CANVAS, TILE = (24, 40), (16, 8)  # latent pixels
PLACES = ((0, 0), (8, 5), (3, 32))


def tiler(tiles: Tiles, places: tuple[tuple[int, int], ...], rows: int = 2) -> torch.Tensor:
    """Cut, join and repeat as Tiled Diffusion does for k-diffusion's samplers."""
    whole = tiles.control_params[0].hint_cond
    cutouts = [whole[:, :, 8 * y : 8 * (y + TILE[0]), 8 * x : 8 * (x + TILE[1])] for y, x in places]
    batch = torch.cat(cutouts, dim=0).cpu()
    return torch.cat([torch.cat([batch[i].unsqueeze(0)] * rows, dim=0) for i in range(len(places))], dim=0)


def test_what_is_put_back_names_the_tiles() -> None:
    tiles = Tiles(lambda: CANVAS)
    for places in (PLACES, PLACES[1:], PLACES[:1]):
        tiles.control_params[0].hint_cond = tiler(tiles, places).to("cpu")
        assert tiles.windows(CANVAS, TILE) == tuple(Window(CANVAS, *place) for place in places)
    assert tiles.windows(CANVAS, (8, 8)) == ()  # an evaluation that shows something else
    assert tiles.windows((48, 80), TILE) == ()  # of another pass


def test_tiles_that_alternate_are_named_once() -> None:
    """For DDIM, Tiled Diffusion repeats the whole batch of tiles, more often than there are rows."""
    tiles = Tiles(lambda: CANVAS)
    tiles.control_params[0].hint_cond = tiler(tiles, PLACES, rows=1).repeat([4, 1, 1, 1])
    assert [(each.top, each.left) for each in tiles.windows(CANVAS, TILE)] == list(PLACES)


def test_the_whole_picture_is_no_tile() -> None:
    tiles = Tiles(lambda: CANVAS)
    entry = tiles.control_params[0]
    for reset in (lambda: setattr(entry, "hint_cond", entry.hint_cond), tiles.forget):
        entry.hint_cond = tiler(tiles, PLACES)
        reset()
        assert tiles.windows(CANVAS, TILE) == () == tiles.windows(CANVAS, CANVAS)
    entry.hint_cond = tiler(tiles, PLACES)
    assert entry.hint_cond.shape[2:] == (8 * CANVAS[0], 8 * CANVAS[1])  # what is cut next is cut from the whole


def test_the_map_follows_a_size_that_changes() -> None:
    """Others change a request's size after ours has seen it."""
    sizes = [CANVAS]
    tiles = Tiles(lambda: sizes[-1])
    tiler(tiles, PLACES)
    sizes.append((48, 48))
    tiles.control_params[0].hint_cond = tiler(tiles, ((20, 30),))
    assert tiles.windows((48, 48), TILE) == (Window((48, 48), 20, 30),)


def test_the_map_stays_where_reading_it_waits_for_nobody() -> None:
    tiles = Tiles(lambda: CANVAS)
    assert tiler(tiles, PLACES).to("meta").device.type == "cpu"


@pytest.mark.parametrize("given", ["picture", "scaled"])
def test_what_is_no_part_of_the_map_is_refused(given: str) -> None:
    tiles = Tiles(lambda: CANVAS)
    picture = torch.rand(1, 3, 64, 64)
    scaled = tiles.control_params[0].hint_cond[..., ::2, ::2]
    with pytest.raises(HostError, match="another extension"):
        tiles.control_params[0].hint_cond = picture if given == "picture" else scaled


def test_latents_are_cut_for_each_block_of_rows() -> None:
    latents, x = torch.rand(1, 4, *CANVAS), torch.rand(6, 4, *TILE)
    shown = cut(latents, [Window(CANVAS, *place) for place in PLACES], x)
    for row in range(6):
        y, left = PLACES[row // 2]
        torch.testing.assert_close(shown[row], latents[0, :, y : y + TILE[0], left : left + TILE[1]])
    assert cut(latents, (), x) is latents


def test_each_tile_sees_the_rows_in_order() -> None:
    """Two pictures: all rows at once tile by tile, or cond and uncond rows apart, each tile by tile."""
    denoising = Denoising()
    denoising.announce(4, 2, 0, 1)
    denoising.expect(4)
    assert [denoising.take(4, tile) for tile in "aba"] == [(True, True, False, False)] * 3
    denoising.announce(4, 2, 0, 1)
    for expected in (True, False):
        denoising.expect(2)
        assert [denoising.take(2, tile) for tile in "aba"] == [(expected, expected)] * 3
    denoising.announce(4, 2, 0, 1)
    denoising.expect(4)  # a region that evaluates its own prompt apart from its negative one, twice
    assert [denoising.take(2, "a")[0] for _ in range(4)] == [True, False, True, False]
    denoising.announce(4, 2, 0, 1)
    denoising.expect(2)  # the denoiser leaves the uncond rows out
    assert [denoising.take(2)[0] for _ in range(3)] == [True] * 3


def draw_some(tiles: Tiles, rows: list[int]) -> None:
    """As AnimateDiff takes a few rows out of the batch."""
    (control,) = tiles.control_params
    assert control.control_model_type not in [ControlModelType.IPAdapter, ControlModelType.Controlllite]
    if control.hr_hint_cond.shape[0] > len(rows):
        control.backup = control.hr_hint_cond  # type: ignore[attr-defined]
        control.hr_hint_cond = control.hr_hint_cond[rows]
    control.hr_hint_cond = control.hr_hint_cond.to(device="meta")


def put_back(tiles: Tiles, rows: list[int]) -> None:
    """As AnimateDiff does after its evaluation of them."""
    (control,) = tiles.control_params
    if getattr(control, "backup", None) is not None:
        control.backup[rows] = control.hr_hint_cond.to(device="cpu")  # type: ignore[attr-defined]
        control.hr_hint_cond = control.backup  # type: ignore[attr-defined]


def test_a_few_rows_of_the_batch_are_known_by_their_numbers() -> None:
    tiles = Tiles(lambda: CANVAS)
    for _ in range(2):
        tiles.expect(12)
        assert tiles.rows(8) == ()
        for rows in ([0, 1, 2, 3, 6, 7, 8, 9], [4, 5, 0, 1, 10, 11, 6, 7]):
            draw_some(tiles, rows)
            assert tiles.rows(8) == tuple(rows) and tiles.rows(12) == ()
            put_back(tiles, rows)
            assert tiles.rows(8) == ()
    tiles.expect(8)  # as many as are drawn at a time
    draw_some(tiles, list(range(8)))
    assert tiles.rows(8) == tuple(range(8))


def test_rows_of_others_are_refused() -> None:
    with pytest.raises(HostError, match="hr_hint_cond"):
        Tiles(lambda: CANVAS).control_params[0].hr_hint_cond = torch.rand(1, 3, 64, 64)
