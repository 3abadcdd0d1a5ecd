"""A unit in sd-webui-controlnet's field names, as clients, texts in pictures and the page send it: `UnitArgs`.

Years of clients send these dictionaries, so names, aliases and defaults are theirs: enums come as text or number,
unknown keys are ignored, and `enabled` is off unless it is said. Unlike there, what makes no sense is a UnitError
before anything runs. Ours are the fields below `range_basis`, which say what that dialect cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any, cast

from ...core.errors import UnitError
from ...core.resize import ResizeMode
from ...core.reuse.said import OFF, Reuse
from ...core.schedule import Keyframe, RangeBasis, Schedule
from ...core.unit import ControlMode
from ...models.kinds.unions import OPTION as UNION_OPTION
from ...preprocessors import find
from .. import text
from ..blocks import BlockWeights
from ..choices import (
    BASES,
    HIRES,
    MODES,
    RESIZES,
    UNION_TYPES,
    Choices,
    HiresOption,
    UnionType,
)
from ..request import AUTO, FIELDS, NONE, UnitRequest
from ..text import Option
from .fileless import as_model, as_preprocessor
from .names import OWN_SIZE, thresholds

NO_MODEL, NO_MODULE = "None", "none"
FROM_PREPROCESSOR = -1  # "the preprocessor's own default", in processor_res and the thresholds
OWN_RESOLUTION, RESULTS_RESOLUTION = 0, -1  # "the picture's own" and "that of the result", in `resolution`
LEAST_SIDE, LARGEST_SIDE = 64, 2048  # of processor_res there
DEFAULT_SIDE = 512  # what processor_res is where it is not said, or out of these bounds


class InputMode(Enum):
    """Where a unit's pictures come from."""

    SIMPLE = "simple"
    BATCH = "batch"
    MERGE = "merge"  # several pictures in one unit; each acts with its share of the weight


INPUTS = Choices({each: (each.value,) for each in InputMode})
ALIASES = {  # other names of a field
    "guidance": "guidance_end",
    "lowvram": "low_vram",
    "input_image": "image",
    "mask_image": "mask",
}


@dataclass(frozen=True, kw_only=True)
class UnitArgs:
    """One unit as it was asked for: checked, but nothing is loaded or decoded."""

    enabled: bool = False
    module: str = NO_MODULE
    model: str = NO_MODEL
    weight: float = 1.0
    image: object = None
    mask: object = None
    resize_mode: ResizeMode = ResizeMode.CROP
    low_vram: bool = False
    processor_res: int = FROM_PREPROCESSOR
    threshold_a: float = FROM_PREPROCESSOR
    threshold_b: float = FROM_PREPROCESSOR
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    pixel_perfect: bool = False
    control_mode: ControlMode = ControlMode.BALANCED
    inpaint_crop_input_image: bool = True
    hr_option: HiresOption = HiresOption.BOTH
    save_detected_map: bool = True
    advanced_weighting: tuple[float, ...] | None = None  # factors of blocks that replace the weight
    effective_region_mask: object = None
    union_control_type: UnionType = UnionType.UNKNOWN
    input_mode: InputMode = InputMode.SIMPLE
    ipadapter_input: object = None  # what an image encoder saw, in place of pictures; from clients alone
    range_basis: RangeBasis = RangeBasis.WEBUI
    curve: tuple[Keyframe, ...] = ()
    parameters: Mapping[str, float] = field(default_factory=dict[str, float])
    block_weights: BlockWeights | None = None  # factors of blocks that are multiplied by the weight
    resolution: int | None = None  # instead of processor_res; 0 is the picture's own, -1 pixel perfect
    preprocessor_seed: int | None = None  # None: the picture's
    options: Mapping[str, Option] = field(default_factory=dict[str, Option])
    delta_strength: float = 1.0
    uncond_weight: float = 1.0
    reuse: Reuse = OFF
    number: int | None = field(default=None, compare=False)  # among those of its request, for sentences

    @property
    def schedule(self) -> Schedule:
        """When it acts and how strongly."""
        return Schedule(start=self.guidance_start, end=self.guidance_end, basis=self.range_basis, keyframes=self.curve)


def parse_unit(given: object, basis: RangeBasis = RangeBasis.WEBUI) -> UnitArgs:
    """Return a dictionary, an object with these attributes, or None as `UnitArgs`; a unit that is off is not read.

    basis: the host's own meaning of a range, where the unit names none. UnitError for what makes no sense.
    """
    if isinstance(given, UnitArgs):
        return given
    values = _values(given)
    if not text.read_boolean("enabled", values.get("enabled")):
        return UnitArgs()
    if values.get("range_basis") is None:
        values["range_basis"] = basis
    known: dict[str, Any] = {name: value for name, value in values.items() if name in _READERS and value is not None}
    read: dict[str, Any] = {name: _READERS[name](name, value) for name, value in known.items()}
    unit = UnitArgs(**read)
    _check(unit)
    return unit


def request_of(args: UnitArgs, *, image: Any = None, inpaint_mask: Any = None, effect_mask: Any = None) -> UnitRequest:
    """Return what a unit of this dialect asks for; its pictures are handed over beside it, once they are read.

    `advanced_weighting` replaces the weight there, so it becomes block weights at the weight 1. Numbers out of their
    range, and -1, leave a preprocessor's defaults. A union type that is not said is no option.
    """
    weights, weight = args.block_weights, args.weight
    if args.advanced_weighting is not None:
        weights, weight = BlockWeights(numbers=args.advanced_weighting), 1.0
    options = dict(args.options)
    if args.union_control_type is not UnionType.UNKNOWN:
        options.setdefault(UNION_OPTION, args.union_control_type.value)  # said in the option's own words, it is exact
    said = UnitRequest(
        image=image,
        preprocessor=AUTO if is_auto(args.module) else find(args.module or NONE).id,
        parameters=numbers_of(args),
        seed=args.preprocessor_seed,
        model="" if args.model.lower() == NO_MODEL.lower() else args.model,
        weight=weight,
        start=args.guidance_start,
        end=args.guidance_end,
        basis=args.range_basis,
        curve=args.curve,
        mode=args.control_mode,
        block_weights=weights,
        resize=args.resize_mode,
        pixel_perfect=_is_pixel_perfect(args),
        resolution=_resolution(args),
        effect_mask=effect_mask,
        inpaint_mask=inpaint_mask,
        options=options,
        delta_strength=args.delta_strength,
        uncond_weight=args.uncond_weight,
        reuse=args.reuse,
        hires=args.hr_option,
        enabled=args.enabled,
    )
    return as_model(said)


def args_of(request: UnitRequest, side: int | None = None) -> UnitArgs:
    """Return a request in this dialect: `request_of` makes the same request of it again, without its pictures.

    side: the short side of the hint in pixels, which other programs read where the request leaves it to the picture.
    """
    request = as_preprocessor(request)
    options = dict(request.options)
    union = _union_type(options.get(UNION_OPTION))
    if union is not UnionType.UNKNOWN and options[UNION_OPTION] == union.value:
        del options[UNION_OPTION]
    module = AUTO if is_auto(request.preprocessor) else find(request.preprocessor).id
    numbers, rest = _as_thresholds(request.parameters, module)
    args = UnitArgs(
        enabled=request.enabled,
        module=module,
        model=request.model or NO_MODEL,
        weight=request.weight,
        resize_mode=request.resize,
        processor_res=request.resolution or side or FROM_PREPROCESSOR,
        threshold_a=numbers[0],
        threshold_b=numbers[1],
        guidance_start=request.start,
        guidance_end=request.end,
        pixel_perfect=request.pixel_perfect,
        control_mode=request.mode,
        hr_option=request.hires,
        union_control_type=union,
        range_basis=request.basis,
        curve=request.curve,
        parameters=rest,
        block_weights=request.block_weights,
        preprocessor_seed=request.seed,
        options=options,
        delta_strength=request.delta_strength,
        uncond_weight=request.uncond_weight,
        reuse=request.reuse,
    )
    if (_is_pixel_perfect(args), _resolution(args)) == (request.pixel_perfect, request.resolution):
        return args
    if request.pixel_perfect:
        return replace(args, resolution=RESULTS_RESOLUTION)
    return replace(args, resolution=OWN_RESOLUTION if request.resolution is None else request.resolution)


def _union_type(told: object) -> UnionType:
    """Return the type of one kind of hint in that dialect; several kinds, or none, are unknown to it."""
    try:
        return UNION_TYPES.read(UNION_OPTION, told)
    except UnitError:
        return UnionType.UNKNOWN


def numbers_of(args: UnitArgs) -> dict[str, float]:
    """Return the numbers of a unit's preprocessor that it sets, by name; the others are at their defaults."""
    if is_auto(args.module):
        return dict(args.parameters)
    pairs = zip(thresholds(find(args.module or NONE)), (args.threshold_a, args.threshold_b), strict=True)
    numbers = {
        each.name: round(value) if each.integer else value
        for each, value in pairs
        if each is not None and value != FROM_PREPROCESSOR and each.minimum <= value <= each.maximum
    }
    return {**numbers, **args.parameters}


def is_auto(module: str) -> bool:
    """Return whether a unit leaves the choice of its preprocessor to the model's file."""
    return module.strip().lower() == AUTO


def _as_thresholds(parameters: Mapping[str, float], module: str) -> tuple[tuple[float, float], dict[str, float]]:
    """Split a preprocessor's numbers in those that the two thresholds can say, and the rest by name."""
    rest = dict(parameters)
    numbers: list[float] = []
    for each in (None, None) if is_auto(module) else thresholds(find(module)):
        value = None if each is None else rest.get(each.name)
        if each is None or value is None or value == FROM_PREPROCESSOR or not each.minimum <= value <= each.maximum:
            numbers.append(FROM_PREPROCESSOR)
        else:
            numbers.append(rest.pop(each.name))
    return (numbers[0], numbers[1]), rest


def _resolution(args: UnitArgs) -> int | None:
    """Return the short side that a unit asks for; None is the picture's own size, or that which the result needs."""
    if args.resolution is not None:
        return None if args.resolution in (OWN_RESOLUTION, RESULTS_RESOLUTION) else args.resolution
    if args.pixel_perfect or _has_own_size(args):
        return None
    return args.processor_res if LEAST_SIDE <= args.processor_res <= LARGEST_SIDE else DEFAULT_SIDE


def _is_pixel_perfect(args: UnitArgs) -> bool:
    if args.resolution is not None:
        return args.resolution == RESULTS_RESOLUTION
    return args.pixel_perfect and not _has_own_size(args)


def _has_own_size(args: UnitArgs) -> bool:
    """Return whether the preprocessor works at the picture's own size there, whatever a unit says."""
    if is_auto(args.module):
        return False
    preprocessor = find(args.module or NONE)
    return preprocessor.id in OWN_SIZE or not preprocessor.resizes


def _values(given: object) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        if not hasattr(given, "enabled"):
            raise UnitError(f"a unit is {type(given).__name__}, expected an object of named fields")
        given = {each.name: getattr(given, each.name, None) for each in fields(UnitArgs)}
    values = dict(cast("Mapping[str, Any]", given))
    for alias, name in ALIASES.items():
        if values.get(alias) is not None:
            if values.get(name) is not None and not _agree(values[name], values[alias]):
                raise UnitError(f"a unit has both {name} and {alias}, which mean the same, and differ: leave one out")
            values[name] = values[alias]
    return values


def _agree(first: object, second: object) -> bool:
    """Return whether two names of a field say the same; clients of many years send both."""
    return first is second or (isinstance(first, (str, int, float)) and first == second)


def _check(unit: UnitArgs) -> None:
    FIELDS["weight"].check(unit.weight)
    FIELDS["delta_strength"].check(unit.delta_strength)
    FIELDS["uncond_weight"].check(unit.uncond_weight)
    if unit.advanced_weighting is not None and unit.block_weights is not None:
        raise UnitError(
            "a unit has both advanced_weighting, which replaces the weight, and block_weights, which are multiplied by "
            "it: leave one out"
        )
    _ = unit.schedule  # making it checks the range and the curve


def _whole(name: str, value: object) -> int:
    """Return the nearest whole number, as sd-webui-controlnet does."""
    return round(text.read_number(name, value))


def _optional(read: Callable[[str, object], int]) -> Callable[[str, object], int | None]:
    """Return a reader that takes an empty text for nothing, as text boxes are left empty."""
    return lambda name, value: None if isinstance(value, str) and not value.strip() else read(name, value)


def _picture(_name: str, value: object) -> object:
    """Return a picture, or what stands for one, as given; an empty text is what the webuiapi client sends for none."""
    return None if isinstance(value, str) and not value else value


def _numbers(name: str, value: object) -> tuple[float, ...] | None:
    weights = text.read_block_weights(name, value)
    if weights is not None and weights.numbers is None:
        raise UnitError(f"{name} is {text.shown(value)}, expected numbers; block_weights takes names and bases too")
    return None if weights is None else weights.numbers


_READERS: Mapping[str, Callable[[str, object], Any]] = {
    "enabled": text.read_boolean,
    "module": text.read_text,
    "model": text.read_text,
    "weight": text.read_number,
    "image": _picture,
    "mask": _picture,
    "resize_mode": RESIZES.read,
    "low_vram": text.read_boolean,
    "processor_res": _whole,
    "threshold_a": text.read_number,
    "threshold_b": text.read_number,
    "guidance_start": text.read_number,
    "guidance_end": text.read_number,
    "pixel_perfect": text.read_boolean,
    "control_mode": MODES.read,
    "inpaint_crop_input_image": text.read_boolean,
    "hr_option": HIRES.read,
    "save_detected_map": text.read_boolean,
    "advanced_weighting": _numbers,
    "effective_region_mask": _picture,
    "union_control_type": UNION_TYPES.read,
    "input_mode": INPUTS.read,
    "ipadapter_input": _picture,
    "range_basis": BASES.read,
    "curve": text.read_curve,
    "parameters": text.read_parameters,
    "block_weights": text.read_block_weights,
    "resolution": _optional(_whole),
    "preprocessor_seed": _optional(text.read_whole),
    "options": text.read_options,
    "delta_strength": text.read_number,
    "uncond_weight": text.read_number,
    "reuse": text.read_reuse,
}
