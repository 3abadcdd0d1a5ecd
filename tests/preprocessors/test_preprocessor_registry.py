"""What every preprocessor promises, checked over the registry, and how preprocessors are found and called."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from controlstack.core.errors import HintError, MissingDependencyError, PreprocessorError
from controlstack.preprocessors import (
    ABSENT,
    REGISTRY,
    RESOLUTION,
    Output,
    Parameter,
    Preprocessor,
    find,
    of_type,
    offered,
)
from controlstack.preprocessors.lazy import LazyModule
from controlstack.preprocessors.networks.network import files_of
from controlstack.units.webui.names import LABELS
from skimage import data

ROOT = Path(__file__).resolve().parents[2]
SIZES = [(256, 256), (255, 257), (32, 2048), (33, 7), (1, 1)]
CONTROL_TYPES = (  # of sd-webui-controlnet
    "Canny",
    "Depth",
    "IP-Adapter",
    "Inpaint",
    "Instant-ID",
    "InstructP2P",
    "Lineart",
    "MLSD",
    "NormalMap",
    "OpenPose",
    "Recolor",
    "Reference",
    "Revision",
    "Scribble",
    "Segmentation",
    "Shuffle",
    "SoftEdge",
    "SparseCtrl",
    "T2I-Adapter",
    "Tile",
)  # fmt: skip  (its tags; "All" is none)
# Those with networks have files of their own.
PLAIN = [each for each in REGISTRY if not each.networks and not each.by_model and each.embedding is None]
every = pytest.mark.parametrize("preprocessor", PLAIN, ids=lambda each: each.id)


@cache
def photo(height: int, width: int, offset: int = 0) -> np.ndarray:
    resized = cv2.resize(np.roll(data.astronaut(), offset, axis=1), (width, height), interpolation=cv2.INTER_AREA)
    resized.flags.writeable = False
    return resized


def call(preprocessor: Preprocessor, image: np.ndarray, **settings: Any) -> np.ndarray:
    """A call with a mask where one is needed: a rectangle in the middle."""
    if preprocessor.takes_mask:
        height, width = image.shape[-3:-1]
        mask = np.zeros((height, width), np.uint8)
        mask[height // 4 : height // 4 * 3 + 1, width // 4 : width // 4 * 3 + 1] = 255
        settings = {"mask": mask, **settings}
    return preprocessor(image, **settings)


def size_of(preprocessor: Preprocessor, size: tuple[int, int], resolution: int | None = None) -> tuple[int, int, int]:
    """What a result must measure."""
    k = resolution / min(size) if resolution and preprocessor.resizes else 1
    margins = preprocessor.settings({}) if preprocessor.grows else {"top": 0, "bottom": 0, "left": 0, "right": 0}
    high, wide = int(margins["top"] + margins["bottom"]), int(margins["left"] + margins["right"])
    return round(size[0] * k) + high, round(size[1] * k) + wide, 4 if preprocessor.output is Output.MASKED else 3


def is_kind(image: np.ndarray, output: Output) -> bool:
    grey = bool((image == image[..., :1]).all())
    if output is Output.BINARY:
        return grey and set(np.unique(image)) <= {0, 255}
    return grey or output in (Output.RGB, Output.MASKED, Output.LABELS)


@every
@pytest.mark.parametrize("size", SIZES)
def test_size_type_and_kind_hold(preprocessor: Preprocessor, size: tuple[int, int]) -> None:
    hint = call(preprocessor, photo(*size))
    assert hint.shape == size_of(preprocessor, size)
    assert hint.dtype == np.uint8
    assert is_kind(hint, preprocessor.output)
    assert not np.may_share_memory(hint, photo(*size))


@every
@pytest.mark.parametrize(("size", "resolution"), [((255, 257), 64), ((100, 37), 64), ((64, 64), 200), ((20, 300), 20)])
def test_the_resolution_is_the_short_side(preprocessor: Preprocessor, size: tuple[int, int], resolution: int) -> None:
    hint = call(preprocessor, photo(*size), resolution=resolution)
    assert hint.shape == size_of(preprocessor, size, resolution)
    assert is_kind(hint, preprocessor.output)


@every
@pytest.mark.parametrize("resolution", [None, 96])
def test_a_batch_is_its_pictures(preprocessor: Preprocessor, resolution: int | None) -> None:
    batch = np.stack([photo(130, 101), photo(130, 101, 50)])
    hints = call(preprocessor, batch, resolution=resolution, seed=3)
    singles = [call(preprocessor, image, resolution=resolution, seed=3) for image in batch]
    assert np.array_equal(hints, np.stack(singles))


@every
def test_the_same_call_gives_the_same_hint(preprocessor: Preprocessor) -> None:
    np.random.seed(1)  # noqa: NPY002  (the global state must neither matter nor move)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = call(preprocessor, photo(200, 310))
    np.random.seed(2)  # noqa: NPY002
    assert np.array_equal(first, call(preprocessor, photo(200, 310)))
    np.random.seed(1)  # noqa: NPY002
    call(preprocessor, photo(200, 310))
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@every
def test_the_seed_matters_where_it_is_declared_to(preprocessor: Preprocessor) -> None:
    zero, one = (call(preprocessor, photo(200, 310), seed=seed) for seed in (0, 1))
    assert np.array_equal(zero, one) == preprocessor.deterministic


@every
def test_memory_of_any_layout_is_read(preprocessor: Preprocessor) -> None:
    for view in (photo(90, 80)[:, ::-1], photo(90, 80).transpose(1, 0, 2), photo(90, 80)[::2, ::3]):
        hint = call(preprocessor, view)
        assert np.array_equal(hint, call(preprocessor, np.ascontiguousarray(view)))
        assert hint.flags.c_contiguous


def parameters() -> list[tuple[Preprocessor, Parameter]]:
    return [(preprocessor, parameter) for preprocessor in PLAIN for parameter in preprocessor.parameters]


each_parameter = pytest.mark.parametrize(
    ("preprocessor", "parameter"), parameters(), ids=lambda each: getattr(each, "id", getattr(each, "name", ""))
)


@each_parameter
def test_the_whole_range_works_and_matters(preprocessor: Preprocessor, parameter: Parameter) -> None:
    assert parameter.minimum <= parameter.default <= parameter.maximum
    assert parameter.step > 0
    middle = (parameter.default + parameter.maximum) / 2  # both ends may mean "choose for me"
    values = (parameter.minimum, parameter.default, int(middle) if parameter.integer else middle, parameter.maximum)
    settings: list[dict[str, Any]] = [{parameter.name: value} for value in values]
    low, default, high, _ = (call(preprocessor, photo(300, 300), **each) for each in settings)
    matters = not (np.array_equal(low, default) and np.array_equal(high, default))
    assert matters == parameter.shapes_hint
    assert np.array_equal(call(preprocessor, photo(300, 300)), default)


@each_parameter
@pytest.mark.parametrize("bad", ["below", "above", float("nan"), float("inf"), "3", None, True, [1], np.ones(2)])
def test_bad_values_name_the_range(preprocessor: Preprocessor, parameter: Parameter, bad: object) -> None:
    value = {"below": parameter.minimum - 1, "above": parameter.maximum + 1}.get(bad) if isinstance(bad, str) else bad
    settings: dict[str, Any] = {parameter.name: bad if value is None else value}
    with pytest.raises(PreprocessorError) as caught:
        call(preprocessor, photo(33, 7), **settings)
    for part in (preprocessor.id, parameter.name, f"{parameter.minimum:g} to {parameter.maximum:g}"):
        assert part in str(caught.value)


def test_whole_numbers_stay_whole() -> None:
    canny = find("canny")
    assert canny.settings({"low": 80.0, "high": np.float32(90)}) == {"low": 80, "high": 90}
    assert all(type(value) is int for value in canny.settings({"low": 80.0}).values())
    with pytest.raises(PreprocessorError, match="a whole number from 1 to 255"):
        canny(photo(33, 7), low=80.5)
    assert find("tile_resample").settings({"rate": 2}) == {"rate": 2.0}


@pytest.mark.parametrize(
    ("name", "expected"), [("lo", "did you mean 'low'"), ("zzz", "it has low, high"), ("hihg", "'high'")]
)
def test_an_unknown_parameter_gets_the_nearest(name: str, expected: str) -> None:
    settings: dict[str, Any] = {name: 3}
    with pytest.raises(PreprocessorError, match=f"canny has no parameter '{name}': .*{expected}"):
        find("canny")(photo(33, 7), **settings)


def test_a_preprocessor_without_parameters_says_so() -> None:
    with pytest.raises(PreprocessorError, match="none has no parameter 'low': it has none"):
        find("none")(photo(33, 7), low=1)


@pytest.mark.parametrize("resolution", [RESOLUTION.minimum - 1, RESOLUTION.maximum + 1, 64.5, float("nan"), "64"])
def test_a_bad_resolution_names_the_range(resolution: Any) -> None:
    with pytest.raises(PreprocessorError, match=r"resolution is .* from 16 to 8192 px"):
        find("canny")(photo(33, 7), resolution=resolution)


def test_a_sliver_is_not_blown_up_beyond_memory() -> None:
    with pytest.raises(PreprocessorError, match="2048000x2048, more than 64 megapixels: choose a smaller resolution"):
        find("canny")(np.zeros((1, 1000, 3), np.uint8), resolution=2048)
    assert find("canny")(np.zeros((64, 4096, 3), np.uint8), resolution=128).shape == (128, 8192, 3)


def test_shuffle_refuses_what_it_cannot_address() -> None:
    with pytest.raises(PreprocessorError, match="40000x1 is too large"):
        find("shuffle")(np.zeros((1, 40000, 3), np.uint8))


@pytest.mark.parametrize("seed", [-1, 1.5, "0", None, True])
def test_a_bad_seed_is_refused(seed: Any) -> None:
    with pytest.raises(PreprocessorError, match=r"the seed is .* from 0 on"):
        find("shuffle")(photo(33, 7), seed=seed)


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (np.zeros((4, 4, 3), np.float32), r"float32 \[4, 4, 3\]"),
        (np.zeros((4, 4, 4), np.uint8), r"uint8 \[4, 4, 4\]"),
        (np.zeros((4, 4), np.uint8), r"uint8 \[4, 4\]"),
        (np.zeros((0, 4, 3), np.uint8), r"uint8 \[0, 4, 3\]"),
        (np.zeros((0, 4, 4, 3), np.uint8), r"uint8 \[0, 4, 4, 3\]"),
        ("photo.png", "got str"),
    ],
)
def test_what_is_no_picture_is_refused(image: Any, got: str) -> None:
    with pytest.raises(HintError, match=got):
        find("canny")(image)


def test_every_name_is_found_in_any_case_and_only_once() -> None:
    names = [(name, each) for each in (*REGISTRY, *ABSENT) for name in (each.id, *each.aliases)]
    assert len({name.lower() for name, _ in names}) == len(names)
    for name, preprocessor in names:
        assert find(f" {name.upper()} ") is preprocessor


@pytest.mark.parametrize(("name", "shown"), LABELS.items())
def test_the_names_of_the_webui_are_known(name: str, shown: str) -> None:
    assert find(name) is find(shown)


@pytest.mark.parametrize("preprocessor", [*REGISTRY, *ABSENT], ids=lambda each: each.id)
def test_control_types_are_those_of_the_webui(preprocessor: Preprocessor) -> None:
    assert preprocessor.control_types
    assert set(preprocessor.control_types) <= set(CONTROL_TYPES)


def test_every_control_type_offers_its_preprocessors() -> None:
    assert [each.id for each in of_type("Canny")] == ["canny", "pyracanny", "invert"]
    assert of_type("no such type") == ()


@pytest.mark.parametrize(
    ("control_type", "default"),
    [
        ("Canny", "canny"),
        ("Depth", "depth_anything_v2"),
        ("Inpaint", "inpaint_global_harmonious"),
        ("Lineart", "lineart_realistic"),
        ("MLSD", "mlsd"),
        ("NormalMap", "normal_bae"),
        ("OpenPose", "dw_openpose_full"),
        ("Scribble", "scribble_hed"),
        ("Segmentation", "seg_ofade20k"),
        ("SoftEdge", "softedge_hed"),
        ("T2I-Adapter", "color_grid"),
        ("Tile", "tile_resample"),
    ],
)
def test_the_first_of_a_type_is_free_to_use(control_type: str, default: str) -> None:
    """The first is what a page chooses: nobody gets a network for research only without asking for it."""
    first = of_type(control_type)[0]
    assert first.id == default
    for file in files_of(first.networks):
        assert not any(word in file.licence for word in ("research", "commercial", "academic", "NC"))


@pytest.mark.parametrize("preprocessor", ABSENT, ids=lambda each: each.id)
def test_an_absent_one_says_why(preprocessor: Preprocessor) -> None:
    assert preprocessor not in REGISTRY
    assert preprocessor.missing() == preprocessor.absent
    with pytest.raises(PreprocessorError) as caught:
        preprocessor(photo(33, 7))
    assert str(caught.value) == f"{preprocessor.id}: {preprocessor.absent}"


@every
def test_one_without_networks_is_never_missing(preprocessor: Preprocessor) -> None:
    assert preprocessor.missing() == preprocessor.no_hint


def test_what_no_control_model_reads_is_known_and_not_offered() -> None:
    left_out = [each for each in REGISTRY if each not in offered()]
    assert [each.id for each in left_out] == [
        "reference_only", "reference_adain", "reference_adain+attn", "revision_clipvision", "revision_ignore_prompt",
    ]  # fmt: skip
    for each in left_out:
        with pytest.raises(PreprocessorError, match="control model without a file"):
            each.check_gives_hint()
    for each in offered():
        each.check_gives_hint()


def test_masks_of_any_size_are_brought_to_the_picture() -> None:
    small = np.zeros((4, 4), np.uint8)
    small[:, 2:] = 255
    hint = find("inpaint")(photo(64, 64), mask=small)
    assert np.array_equal(hint[..., 3], np.where(np.arange(64) >= 32, 255, 0)[None].repeat(64, axis=0))
    batch = np.stack([photo(64, 64)] * 2)
    both = find("inpaint")(batch, mask=np.stack([small, 255 - small]))
    assert np.array_equal(both[0], hint)
    assert np.array_equal(both[1, ..., 3], 255 - hint[..., 3])


@pytest.mark.parametrize(
    ("mask", "got"),
    [
        (None, "got none"),
        ("mask.png", "got str"),
        (np.zeros((4, 4), bool), r"got bool \[4, 4\]"),
        (np.zeros((4, 4, 3, 1), np.uint8), r"got uint8 \[4, 4, 3, 1\]"),
        (np.zeros((3, 4, 4), np.uint8), r"got uint8 \[3, 4, 4\]"),
        (np.zeros((0, 4), np.uint8), r"got uint8 \[0, 4\]"),
    ],
)
def test_a_bad_mask_is_refused(mask: Any, got: str) -> None:
    with pytest.raises(HintError, match=got):
        find("inpaint")(np.stack([photo(33, 7)] * 2), mask=mask)


def test_a_mask_that_nobody_reads_is_refused() -> None:
    with pytest.raises(HintError, match="canny takes no mask"):
        find("canny")(photo(33, 7), mask=np.zeros((33, 7), np.uint8))


def test_a_large_batch_is_cut_into_chunks() -> None:
    """Forty pictures of half a megapixel are more than one chunk, and nobody can see it."""
    batch = np.broadcast_to(photo(700, 700), (40, 700, 700, 3))
    hints = find("invert")(batch)
    assert hints.shape == batch.shape
    assert np.array_equal(hints[39], 255 - photo(700, 700))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cany", "there is no preprocessor 'cany': did you mean canny or"),
        ("Scribble", " or scribble_xdog"),
        ("qqqqqq", "known are none, canny, "),
    ],
)
def test_an_unknown_name_gets_the_nearest(name: str, message: str) -> None:
    with pytest.raises(PreprocessorError) as caught:
        find(name)
    assert message in str(caught.value)


def test_the_registry_loads_nothing_heavy() -> None:
    code = f"""if True:
        import importlib.util, sys
        spec = importlib.util.spec_from_file_location("controlstack", {str(ROOT / "__init__.py")!r})
        sys.modules["controlstack"] = importlib.util.module_from_spec(spec)
        import controlstack.preprocessors.images, controlstack.preprocessors.resize
        heavy = {{"cv2", "numpy", "torch", "PIL", "skimage", "onnxruntime", "transformers", "controlnet_aux", "ssl"}}
        print(sorted(heavy & set(sys.modules)))
    """
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_missing_package_is_named() -> None:
    module = LazyModule("a_package_that_is_not_there", "a-package")
    with pytest.raises(MissingDependencyError, match="pip install a-package"):
        module.anything  # noqa: B018
    assert not hasattr(module, "__wrapped__")
