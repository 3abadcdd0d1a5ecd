"""A study with people: its page stays blind and whole, and its answers become ranks and preferences as by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from controlstack import cli
from controlstack.core.errors import FileError, HintError
from controlstack.training.study.intervals import bootstrap, wilson
from controlstack.training.study.making import items_of, make_study
from controlstack.training.study.reading import Answer, preferences, ranks, read_answers

METHODS = ("alpha", "beta", "gamma")


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Two pictures of each of three methods, and their hints."""
    found = {name: tmp_path / name for name in (*METHODS, "hints")}
    for shade, folder in enumerate(found.values()):
        folder.mkdir()
        for k in range(2):
            cv2.imwrite(str(folder / f"scene-{k}.png"), np.full((12, 16, 3), 40 * shade + k, np.uint8))
    return found


def make(folders: dict[str, Path], out: Path, *more: str) -> int:
    methods = [f"{name}={folders[name]}" for name in METHODS]
    return cli.main(["study", *methods, "--out", str(out), "--hints", str(folders["hints"]), *more])


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_the_page_needs_no_other_file_and_does_not_say_whose_a_picture_is(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(folders, tmp_path / "study.html") == 0
    page = (tmp_path / "study.html").read_text(encoding="utf-8")
    for outside in ("http://", "https://", 'src="/', "@import", "url("):
        assert outside not in page
    for name in (*METHODS, "scene-"):
        assert name not in page
    data = data_of(page)
    key = json.loads((tmp_path / "study.key.json").read_text(encoding="utf-8"))
    assert len(data["trials"]) == 2 * 3 * 2  # items, pairs, questions
    assert len(data["pictures"]) == 6
    assert len(data["hints"]) == 2
    assert {each["method"] for each in key["pictures"].values()} == set(METHODS)
    assert key["study"] == data["study"]
    assert "12 questions" in capsys.readouterr().out


def test_pairs_are_of_one_item_and_each_occurs_once_for_a_question(folders: dict[str, Path]) -> None:
    methods = {name: folders[name] for name in METHODS}
    _, key = make_study(methods, None, ["better?"], 0, seed=3)
    seen = set()
    for trial in key["trials"].values():
        one, other = (key["pictures"][name] for name in trial["pair"])
        assert one["item"] == other["item"]
        seen.add((one["item"], frozenset((one["method"], other["method"]))))
    assert len(seen) == len(key["trials"]) == 6


def test_the_order_in_the_page_tells_nothing(folders: dict[str, Path]) -> None:
    """Neither the numbers of pictures nor the side in a pair depend on the method alone."""
    methods = {name: folders[name] for name in METHODS}
    first = set()
    for seed in range(12):
        _, key = make_study(methods, None, ["better?"], 0, seed)
        trial = key["trials"]["t0"]
        first.add(key["pictures"][trial["pair"][0]]["method"])
    assert first == set(METHODS)


def test_words_in_questions_cannot_break_the_page(folders: dict[str, Path]) -> None:
    page, _ = make_study({name: folders[name] for name in METHODS}, None, ["</script><b>?"], 0, 0)
    assert data_of(page)["questions"] == ["</script><b>?"]
    assert page.count("</script>") == 2


@pytest.mark.parametrize(
    ("wins", "count", "expected"),
    [  # Newcombe 1998, table I, method 3
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0000, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_the_wilson_interval_is_that_of_the_literature(wins: int, count: int, expected: tuple[float, float]) -> None:
    assert wilson(wins, count) == pytest.approx(expected, abs=5e-5)


def test_nothing_counted_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_the_bootstrap_draws_whole_groups() -> None:
    # two persons, one says 0 always, the other 1: means of persons drawn again are 0, 1/2 or 1
    values, groups = [0.0] * 50 + [1.0] * 50, ["a"] * 50 + ["b"] * 50
    assert bootstrap(values, groups) == (0.0, 1.0)
    alone = bootstrap(values, [str(k) for k in range(100)])
    assert alone == pytest.approx((0.4, 0.6), abs=0.03)  # 1.96 * sqrt(1/4 / 100) = 0.098


def answers_of(person: str, item: str, *preferred: tuple[str, str, str | None]) -> list[Answer]:
    return [Answer(person, "better?", item, (one, other), chosen) for one, other, chosen in preferred]


def test_ranks_and_preferences_are_as_by_hand() -> None:
    said = [
        *answers_of("ann", "1", ("a", "b", "a"), ("a", "c", "a"), ("b", "c", "b")),  # a 3, b 2, c 1
        *answers_of("ann", "2", ("a", "b", "b"), ("a", "c", "a"), ("b", "c", None)),  # a 2, b 2.5, c 1.5
        *answers_of("bob", "1", ("a", "b", "a"), ("a", "c", "c"), ("b", "c", "c")),  # a 2, b 1, c 3
        *answers_of("bob", "2", ("a", "b", "a")),  # not all pairs: no rank
    ]
    found = ranks(said, ("a", "b", "c"))
    assert {name: rank.mean for name, rank in found.items()} == {
        "a": pytest.approx(7 / 3), "b": pytest.approx(5.5 / 3), "c": pytest.approx(5.5 / 3)
    }  # fmt: skip
    assert found["a"].count == 3
    assert found["a"].interval == (2.0, 2.5)  # of bob alone, and of ann alone
    first, second, third = preferences(said, ("a", "b", "c"))
    assert (first.one, first.other, first.wins, first.losses, first.same) == ("a", "b", 3, 1, 0)
    assert (second.wins, second.losses, second.share) == (2, 1, pytest.approx(2 / 3))
    assert (third.wins, third.losses, third.same) == (1, 1, 1)
    assert first.interval == wilson(3, 4)


def test_where_nobody_sees_a_difference_there_is_no_share() -> None:
    (found,) = preferences(answers_of("ann", "1", ("a", "b", None)), ("a", "b"))
    assert found.share is None


def answered(folder: Path, key: dict[str, Any], person: str, best: Sequence[str]) -> Path:
    """A file of answers by somebody who prefers methods in an order."""

    def chosen(pair: Sequence[str]) -> str:
        return min(pair, key=lambda name: best.index(key["pictures"][name]["method"]))

    path = folder / f"{person}.json"
    said = {trial: chosen(each["pair"]) for trial, each in key["trials"].items()}
    path.write_text(
        json.dumps({"study": key["study"], "person": person, "order": [], "answers": said}), encoding="utf-8"
    )
    return path


def test_answers_are_read_and_told(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(folders, tmp_path / "study.html")
    key = json.loads((tmp_path / "study.key.json").read_text(encoding="utf-8"))
    files = [answered(tmp_path, key, "ann", METHODS), answered(tmp_path, key, "bob", ("beta", "alpha", "gamma"))]
    capsys.readouterr()
    more = ["--key", str(tmp_path / "study.key.json"), "--json", str(tmp_path / "numbers.json")]
    assert cli.main(["study", "--read", *map(str, files), *more]) == 0
    said = capsys.readouterr().out
    assert "12 answers of 2 persons" in said
    assert "average human rank of alpha: 2.50 (2.00 to 3.00; 3 is best)" in said
    assert "average human rank of gamma: 1.00 (1.00 to 1.00; 3 is best)" in said
    low, high = wilson(4, 4)
    assert f"alpha preferred to gamma: 100% ({low:.0%} to {high:.0%}); 4 to 0, 0 saw no difference" in said
    numbers = json.loads((tmp_path / "numbers.json").read_text(encoding="utf-8"))
    assert numbers["Which picture looks better?"]["ranks"]["beta"]["mean"] == 2.5


def test_answers_of_another_study_or_person_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    _, key = make_study({name: folders[name] for name in METHODS}, None, ["better?"], 0, 0)
    good = answered(tmp_path, key, "ann", METHODS)
    twice = tmp_path / "twice.json"
    twice.write_bytes(good.read_bytes())
    with pytest.raises(FileError, match="both by 'ann'"):
        read_answers([good, twice], key)
    with pytest.raises(FileError, match="answers another study"):
        read_answers([good], {**key, "study": "other"})
    twice.write_text(json.dumps({"study": key["study"], "person": "bob", "answers": {"t0": "p99"}}), encoding="utf-8")
    with pytest.raises(FileError, match="an answer that the study does not have"):
        read_answers([twice], key)
    twice.write_text("[]", encoding="utf-8")
    with pytest.raises(FileError, match="holds no answers"):
        read_answers([twice], key)


def test_folders_that_do_not_fit_are_named(folders: dict[str, Path]) -> None:
    (folders["beta"] / "scene-1.png").unlink()
    methods = {name: folders[name] for name in METHODS}
    with pytest.raises(HintError, match=r"lacks 1 of the 2 pictures of .*alpha' \(scene-1\)"):
        items_of(methods, None, 0)
    assert items_of(methods, None, 1) == ["scene-0"]
    with pytest.raises(HintError, match="compares 2 folders or more, got 1"):
        items_of({"alpha": folders["alpha"]}, None, 0)
    with pytest.raises(HintError, match="which is no folder"):
        items_of({**methods, "more": folders["alpha"] / "none"}, None, 0)


def test_the_key_of_another_study_is_not_lost(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study.html"
    assert make(folders, out) == 0
    page, key = out.read_bytes(), (tmp_path / "study.key.json").read_bytes()
    assert make(folders, out) == 0  # the same one again
    assert make(folders, out, "--seed", "1") == 2
    assert "study.key.json' is the key of another study" in capsys.readouterr().err
    assert (out.read_bytes(), (tmp_path / "study.key.json").read_bytes()) == (page, key)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "study.txt", "a=b", "c=d"], r"expected the name of an \.html file"),
        (["--out", "study.html", "a"], "no NAME=FOLDER"),
        (["--out", "study.html", "a=b", "a=c"], "stands there twice"),
        (["--out", "study.html", "--limit", "-1"], "--limit is -1"),
        (["a=b", "c=d"], "--out is missing"),
        (["--out", "study.html", "a=b", "c=d", "--question", " "], "--question is empty"),
        (["--read", "answers.json"], "--read needs --key"),
        (["--read", "answers.json", "--key", "none.json"], r"none\.json"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["study", *arguments]) == 2
    line = capsys.readouterr().err.strip()
    assert re.search(said, line), line
    assert "\n" not in line
