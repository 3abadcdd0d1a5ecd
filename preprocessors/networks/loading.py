"""From a weight file to a network: safe, strict, without a second copy in memory.

Safetensors, or a PyTorch file of tensors alone: nothing in a file is ever executed. Networks are built without memory
and take the file's tensors as they are.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch declares `load` without types; what it returns is checked here.

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ...core.errors import DamagedModelError, FileError, PreprocessorError
from ...core.files import read_json

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from ..resize import Image
else:
    from ..lazy import np

WRAPPERS = ("state_dict", "model", "params_ema", "params", "depth_model")  # keys under which files hold the tensors
PARALLEL = "module."  # prefix that DataParallel adds
DRAWING = ("uniform_", "normal_", "trunc_normal_", "erfinv_")  # what fills new layers, as far as torch has it
SCHEMES = (
    "uniform_",
    "normal_",
    "trunc_normal_",
    "kaiming_uniform_",
    "kaiming_normal_",
    "xavier_uniform_",
    "xavier_normal_",
)  # fmt: skip  (of torch.nn.init; some are overridable as a whole, and then what they call is not)
SHOWN = 3  # keys in a message
UNREADABLE = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
)  # fmt: skip  (what unpicklers raise for files that are damaged, or that hold more than tensors)


def read_settings(path: Path) -> dict[str, Any]:
    """Return the configuration that lies beside weights, a JSON object; DamagedModelError if it is none."""
    try:
        settings = read_json(path, "configuration")
    except FileError as error:
        raise DamagedModelError(f"{error}: get it again") from error
    if not isinstance(settings, dict):
        raise DamagedModelError(f"{path} is no configuration: get it again")
    return cast("dict[str, Any]", settings)


def load_network(
    path: Path,
    build: Callable[[], nn.Module],
    rename: Callable[[str], str] | None = None,
    *,
    meta: bool = True,
) -> nn.Module:
    """Return the network of `build` with the tensors of a file, float32, for inference.

    `rename` maps a key of the file to the network's, or to nothing if it is not needed. `meta` False builds it with
    memory, for networks that compute tensors while they are built. DamagedModelError if anything is missing, left over,
    or of another shape.
    """
    import torch

    state = read_state(path)
    if rename is not None:
        state = {name: tensor for key, tensor in state.items() if (name := rename(key))}
    if meta:
        with torch.device("meta"):
            network = build()
    else:
        with _without_chance():
            network = build()
    return fill(network, state, path)


def fill(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> nn.Module:
    """Put tensors into a network; what a file calls itself plays no part, keys and shapes do."""
    from torch import nn

    wanted = network.state_dict()
    counters = [key for key in wanted if key.endswith("num_batches_tracked")]  # of training; some files lack them
    given = {**{key: wanted[key].new_zeros((), device="cpu") for key in counters}, **state}
    _check(wanted, given, path)
    plain = {key: _plain(tensor) for key, tensor in given.items()}
    nn.Module.load_state_dict(network, plain, strict=True, assign=True)  # some classes have a lenient one of their own
    if left := [name for name, tensor in network.named_buffers() if tensor.is_meta]:
        raise DamagedModelError(f"{path} leaves {left[0]} without a value: the installed packages may be too new")
    return network.eval().requires_grad_(False)


def read_state(path: Path) -> dict[str, Tensor]:
    """Return all tensors of a file, without wrappers and prefixes that training programs add."""
    import pickle  # not before it is needed: a list of all preprocessors imports this file
    import zipfile

    import torch

    try:
        if path.suffix == ".safetensors":
            content: object = _read_safetensors(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, *UNREADABLE) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DamagedModelError(f"{path} cannot be read as weights ({first}): delete it and get it again") from error
    table = _unwrapped(content)
    tensors = {key: tensor for key, tensor in table.items() if isinstance(tensor, torch.Tensor)}
    if not tensors:
        raise DamagedModelError(f"{path} holds no tensors: it is not the file it should be")
    if all(key.startswith(PARALLEL) for key in tensors):
        return {key.removeprefix(PARALLEL): tensor for key, tensor in tensors.items()}
    return tensors


def to_tensor(images: Image, network: nn.Module) -> Tensor:
    """Return uint8 [B, H, W, 3] as float [B, 3, H, W], 0 to 255, where the network is."""
    import torch

    parameter = next(iter(network.parameters()))
    return torch.from_numpy(np.ascontiguousarray(images)).to(parameter.device).permute(0, 3, 1, 2).to(parameter.dtype)


def to_array(tensor: Tensor) -> NDArray[np.float32]:
    """Return a result on the CPU as float32; PreprocessorError if some of it is no number, which would become black."""
    result = tensor.detach().float().cpu().numpy()
    if not np.isfinite(result).all():
        raise PreprocessorError(
            "the network computed values that are no numbers: its weights are damaged, or too large for the precision "
            "it runs in; get the file again, or run the preprocessor on the CPU"
        )
    return result


@contextmanager
def _without_chance() -> Generator[None, None, None]:
    """Draw no random numbers in this thread: the file overwrites them, and drawing takes most of the time.

    What is drawn by other means does not change the state of torch's random numbers.
    """
    import torch
    from torch.nn import init
    from torch.overrides import TorchFunctionMode

    drawing = {getattr(torch.Tensor, name) for name in DRAWING if hasattr(torch.Tensor, name)}
    drawing |= {getattr(init, name) for name in SCHEMES}

    class WithoutChance(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = kwargs or {}
            if func in drawing:
                return args[0] if args else given["tensor"]
            return func(*args, **given)

    with torch.random.fork_rng(devices=[]), WithoutChance():
        yield


def _read_safetensors(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _unwrapped(content: object) -> Mapping[str, Any]:
    table: Any = content
    for key in WRAPPERS:
        if isinstance(table, Mapping) and isinstance(table.get(key), Mapping):
            table = table[key]
    return table if isinstance(table, Mapping) else {}


def _check(wanted: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor], path: Path) -> None:
    missing, extra = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    if missing or extra:
        parts = [f"misses {', '.join(missing[:SHOWN])} ({len(missing)} in all)"] if missing else []
        parts += [f"has {', '.join(extra[:SHOWN])} too many ({len(extra)} in all)"] if extra else []
        raise DamagedModelError(f"{path} {' and '.join(parts)}: it holds another network")
    for key, tensor in given.items():
        if tensor.shape != wanted[key].shape:
            raise DamagedModelError(
                f"{path}: {key} is {list(tensor.shape)}, expected {list(wanted[key].shape)}: it holds another network"
            )


def _plain(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
