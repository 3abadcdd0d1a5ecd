"""Effects on parts of a batch: cut out of those on all rows, and joined again, in any order of the rows."""

from __future__ import annotations

import pytest
import torch
from controlstack.core.network.effects import Effects, Vector
from controlstack.core.network.joining import joined, part_of
from controlstack.core.network.points import stream

Rows = tuple[int, ...]
NEIGHBOURS, APART = ((0, 1), (2, 3), (4, 5)), ((0, 3), (5, 2), (4, 1))


@pytest.mark.parametrize("parts", [NEIGHBOURS, APART])
def test_what_is_added_is_cut_into_parts_and_comes_together_again(parts: tuple[Rows, ...]) -> None:
    given = Effects(input=(torch.rand(6, 2, 3, 3),), output=(None, torch.rand(1, 2, 3, 3)), middle=(None,))
    whole = joined([(rows, part_of(given, rows)) for rows in parts])
    assert given.input[0] is not None and whole.input[0] is not None and given.output[1] is not None
    assert whole.input[0].equal(given.input[0])
    assert whole.output[0] is None
    assert whole.output[1] is not None
    assert whole.output[1].equal(given.output[1].expand(6, 2, 3, 3))


@pytest.mark.parametrize("parts", [NEIGHBOURS, APART])
def test_what_stands_for_the_pooled_prompt_is_cut_and_joined_by_rows(parts: tuple[Rows, ...]) -> None:
    given = Vector(torch.rand(6, 5), rows=(0, 1, 3, 4, 5), silent=(1, 3, 5))
    cut = [(rows, part_of(Effects(vector=given), rows)) for rows in parts]
    for rows, each in cut:
        assert each.vector is not None and {rows[k] for k in each.vector.silent} == {*rows} & {*given.silent}
    whole = joined(cut).vector
    assert whole is not None and (whole.rows, whole.silent) == (given.rows, given.silent)
    assert torch.equal(whole.values, given.values)


def test_parts_are_joined_by_place_and_a_part_may_lack_one() -> None:
    first, second = (
        Effects(input=(None, torch.full((2, 3), i)), output=(torch.full((2, 1), -i),), tokens=(torch.ones(2, 4, 5),))
        for i in (1.0, 2.0)
    )
    whole = joined([((0, 2), first), ((1, 3), second), ((4,), Effects())])
    assert whole.input[0] is None and whole.middle == () and whole.vector is None
    assert whole.input[1] is not None and whole.input[1][:, 0].tolist() == [1, 2, 1, 2, 0]
    assert whole.output[0] is not None and whole.output[0][:, 0].tolist() == [-1, -2, -1, -2, 0]
    assert whole.tokens[0] is not None and whole.tokens[0].shape == (5, 4, 5)
    assert joined([((0, 1), first)]) is first


def test_a_shift_changes_the_rows_of_its_part_alone() -> None:
    h = torch.rand(4, 3, 2, 2)
    parts = [((0, 2), Effects(shifts={stream(0): torch.square})), ((3, 1), Effects(shifts={stream(1): torch.neg}))]
    shifts = joined(parts).shifts
    assert set(shifts) == {stream(0), stream(1)}
    expected = torch.zeros_like(h)
    expected[[0, 2]] = h[[0, 2]].square()
    assert shifts[stream(0)](h).equal(expected)
    expected = torch.zeros_like(h)
    expected[[1, 3]] = -h[[1, 3]]
    assert shifts[stream(1)](h).equal(expected)
