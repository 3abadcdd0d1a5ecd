"""Settings of models: the same as text and as JSON, of known names and within bounds, from every source."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from controlstack.core.errors import ControlError, ModelError
from controlstack.models.families.controlnet.config import ControlNetSettings
from controlstack.models.registry import inspect, load_control_model
from controlstack.models.settings import read
from diffusers import ControlNetModel

Save = Callable[..., Path]


@pytest.fixture
def kind() -> str:
    return "SD"  # one network is enough for these


@pytest.mark.parametrize("value", [True, "true", "True", " TRUE ", 1, "1", "yes"])
def test_yes_is_yes_in_every_spelling(value: object) -> None:
    assert read(ControlNetSettings, {"global_average_pooling": value}, "x") == ControlNetSettings(
        global_average_pooling=True
    )


@pytest.mark.parametrize("value", [False, "false", "False", 0, "0", "no"])
def test_no_is_no_in_every_spelling(value: object) -> None:
    assert read(ControlNetSettings, {"only_middle": value}, "x").only_middle is False


@pytest.mark.parametrize("value", [4, "4", 4.0, " 4 "])
def test_numbers_may_be_text(value: object) -> None:
    assert read(ControlNetSettings, {"heads": value, "norm_groups": None}, "x") == ControlNetSettings(heads=4)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("heads", "eight", "a whole number from 1 to 4096"),
        ("heads", 0, "a whole number"),
        ("heads", -4, "a whole number"),
        ("heads", 4.5, "a whole number"),
        ("heads", True, "a whole number"),
        ("heads", float("inf"), "a whole number"),
        ("heads", [4], "a whole number"),
        ("heads", "9" * 5000, "a whole number"),
        ("norm_groups", "0", "a whole number"),
        ("only_middle", "maybe", "true or false"),
        ("only_middle", 2, "true or false"),
        ("hint_order", "grb", "'rgb' or 'bgr'"),
    ],
)
def test_other_values_are_refused_with_what_was_expected(name: str, value: object, expected: str) -> None:
    with pytest.raises(ModelError, match=expected) as caught:
        read(ControlNetSettings, {name: value}, "the file")
    assert f"'{name}'" in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("global_average_poling", "global_average_pooling"),
        ("Heads", "heads"),
        ("head", "heads"),
        ("norm-groups", "norm_groups"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(name: str, close: str) -> None:
    with pytest.raises(ModelError, match=f"did you mean '{close}'"):
        read(ControlNetSettings, {name: 4}, "the file")
    with pytest.raises(ModelError, match="it knows heads, head_channels"):
        read(ControlNetSettings, {"something": 4}, "the file")


@pytest.fixture
def path(theirs: ControlNetModel, save: Save) -> Path:
    return save(theirs.state_dict(), {"controlstack.heads": "4", "controlstack.hint": "canny", "other.heads": "3"})


def _beside(path: Path, content: object) -> None:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    path.with_suffix(".json").write_bytes(data)


def test_json_beside_a_model_says_what_its_metadata_does(path: Path) -> None:
    assert inspect(path).settings == {"heads": "4"}
    _beside(path, {"global_average_pooling": True, "only_middle": True, "heads": 2})
    told = inspect(path)
    assert told.settings == {"heads": "2", "only_middle": "true", "global_average_pooling": "true"}
    model: Any = load_control_model(path, settings={"heads": "4"})
    assert (model.pool, len(model.points)) == (True, 1)
    assert model.network.config.heads == 4


def test_a_byte_order_mark_is_no_matter(path: Path) -> None:
    _beside(path, b"\xef\xbb\xbf" + json.dumps({"heads": 2}).encode())
    assert inspect(path).settings == {"heads": "2"}


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        "text",
        None,
        {"description": "for rooms", "sd version": "SD1", "notes": ""},
        b"\xe9",
        b"{",
        b"[" * 10**6,
        b"",
    ],
    ids=["list", "text", "null", "another table", "Latin-1", "cut", "deep", "empty"],
)
def test_json_of_another_program_is_left_alone(path: Path, content: object, caplog: pytest.LogCaptureFixture) -> None:
    _beside(path, content)
    with caplog.at_level(logging.WARNING):
        assert inspect(path).settings == {"heads": "4"}
    (record,) = caplog.records
    assert "left alone" in record.getMessage()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"heads": "eight"}, "'eight'"),
        ({"head": 4}, "did you mean 'heads'"),
        ({"heads": 4, "model_name": "x"}, "no setting 'model_name'"),
        (b'{"heads": 4', "is no JSON"),
        ({"heads": 7}, "does not divide the network's width"),
        ({"heads": 4, "norm_groups": 7}, "does not divide the network's width"),
    ],
)
def test_json_that_is_meant_for_us_is_refused_where_it_is_wrong(path: Path, content: object, words: str) -> None:
    _beside(path, content)
    for use in (inspect, load_control_model):
        with pytest.raises(ModelError, match=words) as caught:
            use(path)
        assert str(caught.value).isprintable()


def test_a_large_file_beside_a_model_is_not_read(path: Path) -> None:
    with path.with_suffix(".json").open("wb") as file:
        file.truncate(200_000_000)
    assert inspect(path).settings == {"heads": "4"}


def test_a_misspelt_setting_of_a_user_or_a_file_is_refused(theirs: ControlNetModel, save: Save) -> None:
    path = save(theirs.state_dict(), {"controlstack.head": "4"})
    with pytest.raises(ModelError, match="did you mean 'heads'"):
        inspect(path)
    path = save(theirs.state_dict(), {"controlstack.made_by": "somebody"})
    with pytest.raises(ModelError, match="no setting 'pool'"):
        load_control_model(path, settings={"pool": "true"})


@pytest.mark.parametrize(
    "config",
    [
        {"attention_head_dim": "four"},
        {"attention_head_dim": [[4]]},
        {"attention_head_dim": {"a": 1}},
        {"attention_head_dim": [4, "8"]},
        {"attention_head_dim": [4, 0], "block_out_channels": [32, 64]},
        {"attention_head_dim": [4, 8], "block_out_channels": [32, 32]},
        {"attention_head_dim": [4, 8], "block_out_channels": 32},
        {"attention_head_dim": 4, "norm_num_groups": "x"},
        {"attention_head_dim": 4, "controlnet_conditioning_channel_order": 5},
    ],
)
def test_a_wrong_configuration_is_refused_by_a_sentence(
    theirs: ControlNetModel, save: Save, config: dict[str, object]
) -> None:
    path = save(theirs.state_dict(), name="diffusion_pytorch_model")
    path.with_name("config.json").write_text(json.dumps(config))
    for target in (path, path.parent):
        with pytest.raises(ControlError) as caught:
            load_control_model(target)
        assert isinstance(caught.value, ModelError)
        assert str(caught.value).isprintable()


def test_a_file_inside_a_diffusers_folder_reads_the_configuration_beside_it(
    theirs: ControlNetModel, save: Save
) -> None:
    path = save(theirs.state_dict(), name="diffusion_pytorch_model")
    told = {"attention_head_dim": 4, "controlnet_conditioning_channel_order": "bgr", "global_pool_conditions": True}
    path.with_name("config.json").write_text(json.dumps(told))
    for target in (path, path.parent):
        model: Any = load_control_model(target)
        assert (model.bgr, model.pool, model.network.config.heads) == (True, True, 4)
    elsewhere = path.rename(path.with_name("canny.safetensors"))  # beside it, the file may belong to any model
    model = load_control_model(elsewhere, settings={"heads": 4})
    assert (model.bgr, model.pool) == (False, False)
