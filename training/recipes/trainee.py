"""The base model with a control network that learns: what a step of training evaluates.

The control acts on the base exactly as it does when pictures are drawn: by the same `ControlModel`, whose effects reach
the U-Net by the same hooks and arguments (`pipelines/attached.py`). So what is trained is what is drawn with.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...core.control import ControlModel, HintSpace
from ...core.memory.kept import to_encode
from ...core.network.attach import Patches, attach
from ...core.network.base import BaseWeights
from ...core.network.effects import Accumulator, Effects, Shift, Watch
from ...core.schedule import progress_at
from ...core.step import Step
from ...models.naming import to_ldm
from ...pipelines.attached import arguments, locate_in, shared_out
from ..words import Words

Encode = Callable[[Tensor], Tensor]  # pictures [N, 3, 8h, 8w] in 0..1 -> latents [N, 4, h, w]
CONTROL, UNET = "control.", "unet."  # prefixes of the two networks' parameters


class Trainee(nn.Module):
    """A frozen U-Net under a control that is trained, and weights of the U-Net that are trained along.

    Gradients need the hooks of a forward once more where blocks are computed again (checkpointing), so they stay until
    the next forward, or `release`.
    """

    def __init__(
        self,
        unet: Any,
        control: nn.Module,
        model: ControlModel,
        unlocked: Collection[str] = (),
        *,
        frozen: Collection[str] = (),
        encode: Encode | None = None,
    ) -> None:
        """model: how `control` acts. unlocked: names of the U-Net's weights that are trained along.

        frozen: names of the control's weights that are not trained. encode: the base's autoencoder, for models that
        read latents of the hint.
        """
        super().__init__()
        self.unet, self.control, self._model = unet, control, model
        self._locate, self._encode = locate_in(unet), encode
        self._patches = Patches()
        control.requires_grad_(True).train()
        for name, weight in control.named_parameters():
            if name in frozen:
                weight.requires_grad_(False)
        unet.requires_grad_(False)
        for name, weight in unet.named_parameters():
            if name in unlocked:
                weight.requires_grad_(True)

    def forward(
        self, noisy: Tensor, time: Tensor, hint: Tensor, words: Words, told: Mapping[str, object] | None = None
    ) -> Tensor:
        """Return what the base predicts under the control: noisy latents [B, 4, h, w] -> the same shape.

        time [B], hint [B, 3, 8h, 8w] in 0..1, or an embedding [B, T, D]. told: options of the model.
        """
        self.release()
        model = self._model.bind(told) if told else self._model
        by_hooks, by_arguments = shared_out(self._effects(model, noisy, time, hint, words))
        given: dict[str, Any] = {"encoder_hidden_states": words.context}
        if words.added is not None:
            given["added_cond_kwargs"] = words.added
        attach(self._patches, by_hooks, self._locate)
        predicted = self.unet(noisy, time, **{**given, **arguments(self.unet, by_arguments, given)}).sample
        if not torch.is_grad_enabled():
            self.release()
        return predicted

    def release(self) -> None:
        """Take the effects of the last forward off the U-Net."""
        self._patches.eject()

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters that are trained, by their names in this module."""
        yield from ((name, each) for name, each in self.named_parameters() if each.requires_grad)

    def _effects(self, model: ControlModel, noisy: Tensor, time: Tensor, hint: Tensor, words: Words) -> Effects:
        rows = tuple(range(len(noisy)))
        if model.hint_space is HintSpace.LATENTS and self._encode is not None:
            hint = self._encode(to_encode(model, hint))
        if model.follows:
            model.follow(BaseWeights(lambda name: to_ldm(dict(self.unet.named_parameters())).get(name), id(self.unet)))
        step = Step(
            x=noisy,
            timestep=time,
            context=words.context,
            cond=(True,) * len(noisy),
            progress=progress_at(0, 1),
            y=words.vector(self.unet),
        )
        sums = Accumulator(len(noisy))
        for point, effect in model(step, model.prepare(hint), model.encode(words.context), model.points):
            if isinstance(effect, Watch):
                sums.shift(point, _looking(effect))
            elif isinstance(effect, Shift):
                sums.shift(point, effect.function)
            else:
                sums.add(point, effect, 1.0, rows)
        return sums.effects()


def _looking(watch: Watch) -> Callable[[Tensor], Tensor]:
    """Return a change that shows what stands at a point, with its gradients, and adds nothing."""

    def look(h: Tensor) -> Tensor:
        watch.function(h)
        return h.new_zeros(()).expand_as(h)

    return look
