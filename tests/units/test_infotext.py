"""A WebUI's whole text, as its PNG info page shows it."""

import pytest
from controlstack.core.errors import ControlError
from controlstack.core.schedule import RangeBasis
from controlstack.units.webui import infotext
from controlstack.units.webui.fields import parse_unit, request_of
from controlstack.units.webui.infotext import parse_generation

TEXT = """a cat, (sitting: 1.2)
on a "mat"
Negative prompt: blurry, bad
Steps: 20, Sampler: Euler a, Size: 512x768, Hashes: {"model": "1"}, \
ControlNet 0: "Module: canny, Model: canny [0123abcd], Weight: 1.0", Version: v1.10.1"""


def test_the_parts_of_a_text() -> None:
    found = parse_generation(TEXT)
    assert (found.prompt, found.negative) == ('a cat, (sitting: 1.2)\non a "mat"', "blurry, bad")
    assert found.settings["Sampler"] == "Euler a"
    assert found.settings["ControlNet 0"] == "Module: canny, Model: canny [0123abcd], Weight: 1.0"
    assert found.settings["Version"] == "v1.10.1"


def test_the_settings_alone() -> None:
    found = parse_generation(r'ControlNet 1: "Module: none, Model: a \"b\", Weight: 0.5"')
    assert (found.prompt, found.negative) == ("", "")
    assert found.settings == {"ControlNet 1": 'Module: none, Model: a "b", Weight: 0.5'}


def test_texts_of_our_older_node_mean_what_they_meant() -> None:
    """It said what a range means only where that was not as sd-webui-controlnet counts, and signed nothing."""
    text = (
        'ControlNet 0: "Module: canny, Model: canny, Weight: 0.7, Resize Mode: Crop and Resize, Processor Res: 512, '
        "Threshold A: 100, Threshold B: 200, Guidance Start: 0.0, Guidance End: 0.8, Pixel Perfect: False, "
        'Control Mode: Balanced{}"'
    )
    for further, basis in (("", RangeBasis.WEBUI), (", Range Basis: noise", RangeBasis.NOISE)):
        (fields,) = infotext.read(infotext.parse_generation(text.format(further)).settings).values()
        request = request_of(parse_unit(fields))
        assert (request.basis, request.end, request.weight) == (basis, 0.8, 0.7)
        assert request.parameters == {"low": 100, "high": 200}


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ('Steps: 20, Template: "a \\x b", Size: 64x64', "Template", '"a \\x b"'),  # no text of JSON, so it stays
        ('Steps: 20, Template: "a, \\"b\\"", Size: 64x64', "Template", 'a, "b"'),
    ],
)
def test_a_setting_in_quotation_marks(text: str, name: str, value: str) -> None:
    said = infotext.parse_generation(text).settings
    assert said[name] == value
    assert said["Size"] == "64x64"


@pytest.mark.parametrize("number", ["9" * 5000, "-" + "9" * 5000])
def test_a_number_of_thousands_of_digits_is_out_of_bounds(number: str) -> None:
    said = infotext.read(
        {"ControlNet 0": f"Module: canny, Model: x, Weight: {number}", f"ControlNet-{number} Enabled": "True"}
    )
    with pytest.raises(ControlError, match=r"weight|number"):
        parse_unit(said[0])
