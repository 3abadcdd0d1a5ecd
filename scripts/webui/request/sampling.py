"""Puts a run around a request's own `sample`, raises what went wrong before, and undoes everything afterwards.

The WebUI prints and drops what a script raises, and then draws an uncontrolled picture. Therefore a request's own
`sample` is wrapped: what went wrong before is raised there, where it ends the request, and the hooks live inside one
`with` around the sampling, which closes on success, error and interrupt alike.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ....core.errors import ControlError, HostError
from ....units.webui.fields import UnitArgs
from ..host.annotators import StoppedError
from ..host.program import not_finite_errors
from .run import Run
from .saying import for_caller, line

if TYPE_CHECKING:
    from ..host.unet.tiles import Tiles
    from .needs import Services

log = logging.getLogger("controlstack")

NOT_FINITE = (
    "the latents that the base model made while units acted are not finite: lower their weights, curves and block "
    "weights; if it happens without units too, start the WebUI with --no-half"
)


def begin(
    services: Services, p: Any, collect: Callable[[], Sequence[UnitArgs]], tiles: Tiles | None = None
) -> Run | None:
    """Prepare a request's units; whatever is wrong with them is raised when the WebUI starts to sample."""
    end(p)
    sampling = Sampling(p, vars(p).get("sample"))
    try:
        units = collect()
        if not units:
            return None
        sampling.run = Run(services, p, units, tiles)
    except StoppedError:
        log.info("stopped before the units were ready")  # the WebUI samples no step of it
    except ControlError as error:
        log.error("%s", line(error))
        sampling.error = error
    except Exception as error:
        sampling.error = error
        raise  # the WebUI prints where it came from
    finally:
        if sampling.run is not None or sampling.error is not None:
            p.sample = sampling
    return sampling.run


def end(p: Any) -> None:
    """Give a request its own `sample` back; scripts such as loopback run the same request again."""
    mine = vars(p).get("sample")
    if isinstance(mine, Sampling):
        if mine.original is None:
            del p.sample
        else:
            p.sample = mine.original


class Sampling:
    """Stands in for `p.sample` of one request; `begin` puts it there."""

    def __init__(self, p: Any, original: Callable[..., Any] | None) -> None:
        self.p, self.original = p, original
        self.run: Run | None = None
        self.error: Exception | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self.error, ControlError):
            raise for_caller(self.p, self.error) from self.error
        if self.error is not None:
            raise self.error
        sample = type(self.p).sample.__get__(self.p) if self.original is None else self.original
        try:
            with self.run.attached() if self.run is not None else nullcontext():
                latents = sample(*args, **kwargs)
            if isinstance(latents, Tensor) and not bool(latents.isfinite().all()):
                raise HostError(NOT_FINITE)
        except ControlError as error:
            raise for_caller(self.p, error) from error
        except not_finite_errors() as error:
            raise for_caller(self.p, HostError(NOT_FINITE)) from error
        return latents
