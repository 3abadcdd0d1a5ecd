"""The words of a unit: one grammar, one table, and what a model's own file says."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from controlstack.core.errors import ControlError, PreprocessorError, ScheduleError, UnitError
from controlstack.core.resize import ResizeMode
from controlstack.core.schedule import Easing, Keyframe
from controlstack.core.unit import ControlMode
from controlstack.models.families.controlnet.model import CONTEXT
from controlstack.models.kinds import unions
from controlstack.pipelines.tiny_world import CONTROLS, IMAGES
from controlstack.preprocessors import ABSENT, REGISTRY, find, offered
from controlstack.preprocessors.images import read_image
from controlstack.standalone.units import parse_unit, read_pairs
from controlstack.units import options, text
from controlstack.units.blocks import SHAPES, BlockWeights
from controlstack.units.choices import BASES, HIRES, MODES, RESIZES, UNION_TYPES, HiresOption, UnionType
from controlstack.units.convention import chosen, convention_of, doubt, said_by
from controlstack.units.hint import draw_hint, hint_tensor, visible
from controlstack.units.make import acts_in
from controlstack.units.offer import ALL, models_of_type, of_type, offer_of, offers, types
from controlstack.units.request import FIELDS, UnitRequest, describe, read_request

ROOT = Path(__file__).parents[2]
PHOTOGRAPH = read_image(sorted(IMAGES.glob("*.png"))[0])


def frames(*given: tuple[float, float, Easing]) -> tuple[Keyframe, ...]:
    return tuple(Keyframe(at=at, weight=weight, easing=easing) for at, weight, easing in given)


@pytest.mark.parametrize(
    "said",
    ["0: 1; 0.5: 0.3 ease-in", "0: 1, 0.5: 0.3 ease-in", "0 1\n0.5 0.3 ease-in", "0, 1\n\n0.5, 0.3, ease-in  # down",
     " 0:1 ;0.5 :.3 ease-in;", [[0, 1], [0.5, 0.3, "ease-in"]], [{"at": 0, "weight": 1}, (0.5, 0.3, "ease-in")]],
)  # fmt: skip
def test_a_curve_in_every_form(said: object) -> None:
    assert text.read_curve("curve", said) == frames((0, 1, Easing.LINEAR), (0.5, 0.3, Easing.EASE_IN))


@pytest.mark.parametrize("said", ["0.5", "0: 1 2", "x: 1", "0: 1 slowly", "0.5: 1: 2", [[0.5]], ["0 1"], 5, [[0, "x"]]])
def test_a_curve_that_is_none(said: object) -> None:
    with pytest.raises((UnitError, ScheduleError)):
        text.read_curve("curve", said)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("1, 0.5 0", BlockWeights(numbers=(1, 0.5, 0))),
        ([1, "0.5"], BlockWeights(numbers=(1, 0.5))),
        ("Soft:0.825", BlockWeights(base=0.825)),
        (" Middle only ", BlockWeights(shape="middle only")),
        ("", None),
        ([], None),
    ],
)
def test_block_weights_in_every_form(said: object, meant: BlockWeights | None) -> None:
    assert text.read_block_weights("block_weights", said) == meant


@pytest.mark.parametrize("said", ["soft:", "soft:3", "half", "1 x", [1e308], "nan", 5, "soft:inf"])
def test_block_weights_that_are_none(said: object) -> None:
    with pytest.raises(UnitError):
        text.read_block_weights("block_weights", said)


@pytest.mark.parametrize("count", [1, 4, 10, 13])
def test_shapes_of_block_weights(count: int) -> None:
    assert BlockWeights(base=0.5).of(count) == tuple(0.5 ** (count - 1 - index) for index in range(count))
    for shape in SHAPES:
        weights = BlockWeights(shape=shape).of(count)
        assert len(weights) == count and all(0 <= each <= 1 for each in weights)
    assert BlockWeights(shape="all but the middle").of(4) == (1, 1, 1, 0)


@pytest.mark.parametrize("word", ["yes", "TRUE", "1", "on", True, 1])
def test_yes(word: object) -> None:
    assert text.read_boolean("x", word) is True


@pytest.mark.parametrize("word", ["no", "False", "0", "off", "", None, 0, False])
def test_no(word: object) -> None:
    assert text.read_boolean("x", word) is False


def test_what_is_neither() -> None:
    with pytest.raises(UnitError, match="ture"):
        text.read_boolean("x", "ture")


@pytest.mark.parametrize("choices", [BASES, HIRES, MODES, RESIZES, UNION_TYPES], ids=["basis", "hires", "mode", "resize", "union"])  # fmt: skip  # noqa: E501
def test_every_name_and_number_of_a_choice(choices: object) -> None:
    for number, (member, names) in enumerate(choices.names.items()):  # type: ignore[attr-defined]
        for said in (member, member.value, *names, names[0].upper(), number, str(number), float(number)):
            assert choices.read("x", said) is member  # type: ignore[attr-defined]
    for wrong in ("loud", -1, 99, 0.5, True, None, [1]):
        with pytest.raises(UnitError):
            choices.read("x", wrong)  # type: ignore[attr-defined]


def test_numbers_are_written_as_short_as_they_can_be_read() -> None:
    assert [text.write_number(each) for each in (1.0, 0.5, 1e-7, 1 / 3)] == ["1", "0.5", "1e-07", repr(1 / 3)]


# --- The table


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"weight": 10.0000001}, "weight is 10.0000001, expected -10 to 10"),
        ({"seed": 2**63}, "seed is 9223372036854775808, expected 0 to 9223372036854775807"),
        ({"resolution": 512.5}, "resolution is 512.5, expected a whole number"),
    ],
)
def test_a_number_out_of_bounds_is_told_exactly(said: dict[str, object], told: str) -> None:
    with pytest.raises(UnitError, match=re.escape(told)):
        read_request(said)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"mask": "a.png", "effect_mask": "b.png"}, "has 'mask' and 'effect_mask', which are the same"),
        ({"parameters": "low=1; low=2"}, "parameters has 'low' twice"),
        ({"options": "a=1; b=2; a=3"}, "options has 'a' twice"),
    ],
)
def test_what_is_said_twice_is_refused(said: dict[str, object], told: str) -> None:
    with pytest.raises(UnitError, match=told):
        read_request(said)


@pytest.mark.parametrize("said", ["1e400", "-1e400", "NaN", "Infinity"])
def test_options_are_finite(said: str) -> None:
    with pytest.raises(UnitError, match="expected a finite number"):
        text.read_options("options", f"share={said}")


def test_an_option_may_be_any_text() -> None:
    deep = "[" * 100_000
    assert text.read_options("options", f"share={deep}") == {"share": deep}


@pytest.mark.parametrize("value", ["a,b=c.png", 'a,"b".png', "a,'b'=c.png", "plain"])
def test_a_quoted_value_is_read_as_it_was(value: str) -> None:
    assert read_pairs(f"image={text.quoted(value)},model=m")["image"] == value


def test_the_documentation_is_the_table() -> None:
    page = (ROOT / "docs" / "units.md").read_text(encoding="utf-8")
    assert describe() in page
    assert options.describe() in page


def test_every_field_has_a_meaning_and_a_default_that_is_allowed() -> None:
    plain = UnitRequest()
    for name, each in FIELDS.items():
        assert re.match(r"[a-z]", each.meaning) and getattr(plain, name) == each.default
        if each.default is not None:
            assert each.read(name, each.write(each.default)) == each.default
    assert len({each.short or name for name, each in FIELDS.items()}) == len(FIELDS)


@pytest.mark.parametrize("name", [name for name, each in FIELDS.items() if each.least is not None])
def test_bounds_hold(name: str) -> None:
    least, most = FIELDS[name].least, FIELDS[name].most
    assert least is not None and most is not None
    whole = isinstance(least, int)
    for value in (least, most):
        assert getattr(UnitRequest(**{name: value, **({"end": 1.0} if name == "start" else {})}), name) == value
    for value in (least - (1 if whole else 0.01), most + (1 if whole else 0.01), math.nan, math.inf):
        with pytest.raises(ControlError, match="expected"):
            UnitRequest(**{name: value})


def test_short_and_long_names_are_read_and_unknown_ones_named() -> None:
    assert read_request({"mask": "a.png"}) == read_request({"effect_mask": Path("a.png")})
    with pytest.raises(UnitError, match="no 'wieght': it has image"):
        read_request({"wieght": 1})
    with pytest.raises(UnitError, match="leave one of the two out"):
        UnitRequest(pixel_perfect=True, resolution=512)


@pytest.mark.parametrize(
    ("hires", "acts"), [(HiresOption.BOTH, "ALH"), (HiresOption.LOW, "AL"), (HiresOption.HIGH, "AH")]
)
def test_passes_of_a_hires_fix(hires: HiresOption, acts: str) -> None:
    passes = {"A": HiresOption.BOTH, "L": HiresOption.LOW, "H": HiresOption.HIGH}
    request = UnitRequest(hires=hires)
    assert "".join(name for name, part in passes.items() if acts_in(request, part)) == acts


# --- What a model's file says


def test_the_files_own_word_is_read() -> None:
    said = {kind: said_by(CONTROLS / f"{kind}.safetensors") for kind in ("canny", "color", "depth")}
    assert said == {"canny": "canny(low=50,high=100)", "color": "color_grid(cell=8)", "depth": "depth_image"}
    canny = convention_of(said["canny"])
    assert canny is not None and (canny.preprocessor.id, canny.parameters) == ("canny", {"low": 50, "high": 100})
    for nothing in ("", "depth_image", "canny(low=x)", "canny(low=0)", "canny(", "of no kind"):
        assert convention_of(nothing) is None


def test_auto_is_what_the_file_names_and_the_users_numbers_win() -> None:
    asked = UnitRequest(preprocessor="auto", parameters={"low": 70}, model="a")
    assert chosen(asked, "canny(low=50,high=100)") == replace(
        asked, preprocessor="canny", parameters={"low": 70, "high": 100}
    )
    for said, words in (("", "does not say"), ("depth_image", "says 'depth_image'")):
        with pytest.raises(UnitError, match=words):
            chosen(asked, said)
    plain = UnitRequest(preprocessor="invert")
    assert chosen(plain, "canny") is plain


def test_a_photograph_without_its_preprocessor_is_doubted_and_a_hint_is_not() -> None:
    plain, said = UnitRequest(model="edges"), "canny(low=50,high=100)"
    warning = doubt(plain, said, PHOTOGRAPH)
    assert "'edges' was trained on hints of canny(low=50,high=100)" in warning
    assert "preprocessor=canny,low=50,high=100, or preprocessor=auto" in warning
    grey = np.repeat(PHOTOGRAPH.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    assert doubt(plain, said, grey) and not doubt(plain, "depth_midas", grey)
    hint = find("canny")(PHOTOGRAPH)
    for request, word, picture in (
        (plain, said, hint), (plain, "", PHOTOGRAPH), (plain, "depth_image", PHOTOGRAPH),
        (replace(plain, preprocessor="canny"), said, PHOTOGRAPH), (plain, "color_grid(cell=8)", PHOTOGRAPH),
    ):  # fmt: skip
        assert doubt(request, word, picture) == ""


def test_a_hint_of_a_kind_that_a_union_does_not_have_is_doubted() -> None:
    (few,), request = unions.offers(learned="canny,tile"), UnitRequest(model="some", preprocessor="depth_midas")
    warning = doubt(request, "", PHOTOGRAPH, (few,))
    assert warning.startswith("'some' knows no kind of hint that depth_midas makes")
    assert "union_control_type to one of canny, tile if" in warning
    for known in (replace(request, preprocessor="canny"), replace(request, options={few.name: "canny"})):
        assert doubt(known, "", PHOTOGRAPH, (few,)) == ""
    assert doubt(request, "", PHOTOGRAPH, (*unions.offers(), CONTEXT)) == ""


# --- Hints


def test_a_mask_without_a_preprocessor_marks_the_picture_itself() -> None:
    mask = np.zeros(PHOTOGRAPH.shape[:2], np.uint8)
    mask[:4], mask[4:8] = 128, 127
    hint = draw_hint(UnitRequest(), PHOTOGRAPH, inpaint_mask=mask)
    gaps = (hint_tensor(hint) == -1).all(dim=1)[0]
    assert gaps[:4].all() and not gaps[4:].any()
    shown = visible(hint)
    assert (shown[4:] == PHOTOGRAPH[4:]).all() and (shown[:4] == PHOTOGRAPH[:4] // 2).all()


def test_a_preprocessor_that_takes_no_mask_says_so() -> None:
    with pytest.raises(ControlError, match="takes no mask"):
        draw_hint(UnitRequest(preprocessor="canny"), PHOTOGRAPH, inpaint_mask=np.zeros((4, 4), np.uint8))


def test_what_no_unit_can_use_is_not_offered_and_refused() -> None:
    for each in (*ABSENT, *(each for each in REGISTRY if each.no_hint)):
        assert each not in offered() and all(each is not other.preprocessor for other in offers())
        assert offer_of(each).lacks == each.refusal
        with pytest.raises(PreprocessorError):
            draw_hint(UnitRequest(preprocessor=each.id), PHOTOGRAPH)
    with pytest.raises(UnitError, match="'auto' is chosen by the model's file"):
        draw_hint(UnitRequest(preprocessor="auto"), PHOTOGRAPH)


def test_control_types_offer_what_acts() -> None:
    assert {"Reference", "Revision"}.isdisjoint(types())
    assert [each.id for each in of_type("Blur")] == ["none", "blur_gaussian"]
    named = [each for each in types() if each not in (ALL, "Blur")]
    assert all(any(each in one.control_types for one in of_type(each)) for each in named)
    models = ["t2i_canny", "ip-adapter_sd15", "adapter_xl", "control_v11p_sd15_inpaint", "ip_adapter_plus"]
    assert models_of_type("T2I-Adapter", models) == ["t2i_canny", "adapter_xl"]
    assert models_of_type(ALL, models) == models


def test_enums_are_those_of_the_core() -> None:
    assert set(MODES.names) == set(ControlMode) and set(RESIZES.names) == set(ResizeMode)
    assert set(UNION_TYPES.names) == set(UnionType)


def test_numbers_of_a_unit_are_said_once() -> None:
    with pytest.raises(UnitError, match="has low twice, once in parameters"):
        parse_unit("image=a.png,model=m,preprocessor=canny,low=80,parameters=low=90; high=200")
