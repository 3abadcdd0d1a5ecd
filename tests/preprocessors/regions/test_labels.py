"""The label of each pixel, against PyTorch's own way."""

from __future__ import annotations

import pytest
import torch
from controlstack.preprocessors.regions.labels import strongest
from torch.nn import functional


@pytest.mark.parametrize("size", [None, (33, 40)])
@pytest.mark.parametrize("count", [1, 2, 150, 256])
def test_the_highest_plane_wins(count: int, size: tuple[int, int] | None) -> None:
    planes = torch.randn(2, count, 11, 13, generator=torch.Generator().manual_seed(count))
    before = planes.clone()
    large = planes if size is None else functional.interpolate(planes, size, mode="bilinear", align_corners=False)
    assert torch.equal(strongest(planes, size).long(), large.argmax(dim=1))
    assert torch.equal(planes, before)


def test_of_equals_the_first_wins() -> None:
    assert strongest(torch.zeros(1, 5, 2, 2)).sum() == 0
