"""What comes back of the given picture: at every step, and in the end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from controlstack.core.resize import ResizeMode
from controlstack.scripts.webui.pictures.fitting import fit_hint
from controlstack.scripts.webui.pictures.restoring import Original, Restoration, finish_picture, visible

SIZE = 32


class Base:
    """A base model whose autoencoder averages squares, and whose schedule is a line."""

    def __init__(self, velocity: bool = False) -> None:
        self.predicts_velocity = velocity

    def encode_at_random(self, picture: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(picture, 8).mean(1, keepdim=True).expand(-1, 4, -1, -1)

    def signal(self, timestep: torch.Tensor) -> torch.Tensor:
        return 1 - (timestep.double() + 1) / 1001


def original(kind: str, weight: float = 1.0, channels: int = 4) -> Original:
    hint = torch.rand(1, channels, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    if channels == 4:
        hint[:, 3] = 0
        hint[:, 3, :, : SIZE // 2] = 1
    return Original(kind=kind, hint=hint, weight=weight, numbers=(1.0, 50.0), hires=False)


def answer(base: Base, noisy: torch.Tensor, time: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """What a U-Net says that sees `clean` in the noise."""
    signal = base.signal(time)[:, None, None, None]
    noise = (noisy - signal.sqrt() * clean) / (1 - signal).sqrt()
    return signal.sqrt() * noise - (1 - signal).sqrt() * clean if base.predicts_velocity else noise


@pytest.mark.parametrize("velocity", [False, True])
def test_inpainting_keeps_what_lies_outside_the_mask(velocity: bool) -> None:
    base, each = Base(velocity), original("inpaint_only")
    generator = torch.Generator().manual_seed(2)
    noisy, clean = (torch.randn(2, 4, 4, 4, generator=generator).double() for _ in range(2))
    time = torch.tensor([300.0, 300.0])
    restored = Restoration([each], base, lambda: (True, False))(noisy, time, answer(base, noisy, time, clean))
    wanted = clean.clone()
    wanted[..., 3:] = base.encode_at_random(each.hint[:, :3])[
        ..., 3:
    ].double()  # the mask reaches one latent pixel further
    torch.testing.assert_close(restored, answer(base, noisy, time, wanted))


def test_colours_come_back_with_the_weight() -> None:
    base = Base()
    noisy = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(3)).double()
    time, output = torch.tensor([500.0, 500.0]), torch.zeros(2, 4, 4, 4).double()
    half, whole = (Restoration([original("tile_colorfix", w)], base, lambda: (True, False)) for w in (0.5, 1.0))
    full = whole(noisy, time, output)
    assert full.abs().max() > 0.1
    torch.testing.assert_close(half(noisy, time, output), full / 2)


@pytest.mark.parametrize("velocity", [False, True])
@pytest.mark.parametrize("kind", ["inpaint_only", "tile_colorfix", "tile_colorfix+sharp"])
def test_mending_what_is_seen_is_mending_what_is_said(kind: str, velocity: bool) -> None:
    base = Base(velocity)
    generator = torch.Generator().manual_seed(6)
    noisy, clean = (torch.randn(2, 4, 4, 4, generator=generator).double() for _ in range(2))
    time = torch.tensor([300.0, 300.0])
    restoration = Restoration([original(kind, weight=0.7)], base, lambda: (True, False))
    restoration.prepare()
    restored = restoration.restore_clean(clean)
    assert (restored - clean).abs().max() > 0.1
    said = restoration(noisy, time, answer(base, noisy, time, clean))
    torch.testing.assert_close(said, answer(base, noisy, time, restored))


def test_sharpening_is_the_uncond_rows_affair() -> None:
    base = Base()
    noisy, time = torch.ones(2, 4, 4, 4).double(), torch.tensor([500.0, 500.0])
    output = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(4)).double().expand(2, -1, -1, -1)
    sharp, plain = (
        Restoration([original(kind)], base, lambda: (True, False))(noisy, time, output)
        for kind in ("tile_colorfix+sharp", "tile_colorfix")
    )
    torch.testing.assert_close(sharp[0], plain[0])
    assert (sharp[1] - plain[1]).abs().max() > 1e-3


@pytest.mark.parametrize("each", [original("canny"), original("inpaint_only", weight=0.0)])
def test_nothing_to_restore(each: Original) -> None:
    assert not Restoration([each], Base(), lambda: (True,))


def test_a_finished_picture_keeps_what_lies_outside_the_mask() -> None:
    each, picture = original("inpaint_only"), torch.full((3, SIZE, SIZE), 0.5)
    result = finish_picture(each, picture)
    torch.testing.assert_close(result[..., 24:], each.hint[0, :3, :, 24:])
    torch.testing.assert_close(result[..., :8], picture[..., :8])
    assert finish_picture(each, picture[:, :16]).shape == (3, 16, SIZE)


def test_recolouring_keeps_brightness() -> None:
    each = original("recolor_intensity", channels=3)
    picture = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))
    brightness = finish_picture(each, picture).amax(0)
    assert (brightness - each.hint[0, 0]).abs().max() < 2 / 255


@pytest.mark.parametrize("mode", ResizeMode)
def test_masks_are_fitted_with_their_picture(mode: ResizeMode) -> None:
    hint = np.random.default_rng(0).integers(0, 255, (20, 40, 4), np.uint8)
    hint[..., 3] = 0
    hint[5:15, :, 3] = 255
    fitted = fit_hint(hint, (64, 64), mode)
    assert fitted.shape == (64, 64, 4) and set(np.unique(fitted[..., 3])) == {0, 255}
    assert fitted[0, 0, 3] == (255 if mode is ResizeMode.FILL else 0)
    assert visible(fitted).shape == (64, 64, 4) and visible(fitted)[32, 32, 3] == 128
