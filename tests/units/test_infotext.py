"""A WebUI's whole text, as its PNG info page shows it."""

from controlstack.units.infotext import parse_generation

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
