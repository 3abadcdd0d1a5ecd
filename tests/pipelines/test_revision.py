"""Revision in a pipeline of diffusers, against the pipeline's own arguments for pooled prompts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from controlstack.core.stack import ControlStack
from controlstack.core.unit import ControlUnit
from controlstack.models.fileless.making import make_fileless
from controlstack.models.kinds.revisions import IGNORE_PROMPT, REVISION, REVISIONS
from controlstack.pipelines.attached import Injection
from controlstack.pipelines.bases import Base, UnetState
from torch import Tensor

POOLED = torch.randn(1, 32, generator=torch.Generator().manual_seed(4)) * 5


def drawn(base: Base, units: list[ControlUnit], **more: Any) -> Tensor:
    pipeline, generator = base.pipeline, torch.Generator().manual_seed(0)
    words = {} if more else {"prompt": "a red star"}
    with Injection(pipeline, ControlStack(units), pictures=1):
        settings = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "latent", **words, **more}
        return pipeline(generator=generator, width=64, height=64, **settings).images


def unit(base: Base, kind: str = REVISION, **said: Any) -> ControlUnit:
    return ControlUnit(model=make_fileless(kind, UnetState(lambda: base)), hint=POOLED[:, None], **said)


@pytest.mark.parametrize("kind", REVISIONS)
def test_it_equals_the_arguments_of_the_pipeline(xl: Base, kind: str) -> None:
    before = drawn(xl, [])
    cond, uncond, pooled, _ = xl.pipeline.encode_prompt("a red star", do_classifier_free_guidance=True)
    kept = 0.0 if kind == IGNORE_PROMPT else 1.0
    given = {"prompt_embeds": cond * kept, "negative_prompt_embeds": uncond * kept}
    given |= {"pooled_prompt_embeds": 0.7 * POOLED, "negative_pooled_prompt_embeds": torch.zeros_like(pooled)}
    wanted, found = drawn(xl, [], **given), drawn(xl, [unit(xl, kind, weight=0.7)])
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert (found - before).abs().max() > 1e-3 * before.abs().max()
    assert torch.equal(drawn(xl, []), before)


def test_after_an_error_nothing_is_left(xl: Base) -> None:
    before = drawn(xl, [])

    def fail(*_: object) -> dict[str, Any]:
        raise RuntimeError("the test asked for a failure")

    with pytest.raises(RuntimeError, match="asked for"):
        drawn(xl, [unit(xl, IGNORE_PROMPT)], prompt="a red star", callback_on_step_end=fail)
    assert torch.equal(drawn(xl, []), before)
