"""What happens in a unit of the page when somebody, or the program, changes one of its widgets."""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .....units.choices import UNION_TYPES, UnionType
from .....units.webui.fields import NO_MODEL
from ...request.services import services
from .. import choices
from ..contents import contents, current_base
from ..gradio_shim import is_old, on, on_any, on_upload
from ..paste import line
from .widgets import SLIDERS, UnitPage


def connect(page: UnitPage) -> None:
    """Connect the widgets of a unit with one another."""
    fields, extras = page.fields, page.extras
    on_upload(fields["image"], fields["enabled"])
    for box, group, cleared in (
        ("show_preview", "preview_group", ()),
        ("show_mask", "mask_group", ("mask",)),
        ("show_region", "region_group", ("effective_region_mask", "region_drawn")),
    ):
        on(extras[box].change, _visibility(len(cleared)), [extras[box]], [extras[group], *page.pick(*cleared)])
    # What a paste or a preset sets must not be set again to a preprocessor's defaults. What the host sends from the
    # other tab are mere values, so lists and sliders follow any change, but keep theirs. gradio 4 calls a program's
    # choice of a radio button an `input` too, so the page itself says whether somebody clicked.
    on(
        extras["type"].change, _choose_type,
        [extras["by_hand"], extras["type"], *page.pick("pixel_perfect", "module", "model")],
        page.pick("module", "model", *SLIDERS),
        script=f"(_, ...given) => [controlstack.byHand('{page.id('controlnet_type_filter_radio')}'), ...given]",
    )  # fmt: skip
    on(fields["module"].input, _choose_module, page.pick("module", "pixel_perfect"), page.pick(*SLIDERS))
    on(fields["module"].change, _arrange, page.pick("module", "pixel_perfect"), [*page.pick(*SLIDERS), extras["about"]])
    on(fields["pixel_perfect"].change, _resolution, page.pick("module", "pixel_perfect"), [fields["processor_res"]])
    told = page.pick("union_control_type", "options")
    on(fields["model"].change, _options, [fields["model"], *told], told)
    on_any([fields["module"].input, fields["model"].input], lambda: "", outputs=[extras["said"]])
    on(extras["refresh"].click, _refresh, [extras["type"], fields["model"]], [fields["model"]])
    for tab in ("txt2img", "img2img"):
        on(extras[f"take_{tab}"].click, None, script=f"() => controlstack.take('{tab}', '{page.id('input_image')}')")
    on(extras["dimensions"].click, None, script=f"() => controlstack.resize('{page.tab}', '{page.id('input_image')}')")
    _connect_webcam(page)


def _visibility(cleared: int) -> Callable[[bool], Any]:
    """Show a picture beside the first; the `cleared` widgets in a hidden one are emptied: they must not act unseen."""
    import gradio as gr

    def show(visible: bool) -> Any:
        group = gr.update(visible=visible)
        return [group, *[gr.update() if visible else gr.update(value=None)] * cleared] if cleared else group

    return show


def slider_updates(module: str, pixel_perfect: bool, values: Sequence[float] = ()) -> list[Any]:
    """Return the sliders of a preprocessor; pixel perfect needs no resolution.

    values: what they are set to, kept where the preprocessor allows it; otherwise all get their defaults.
    """
    import gradio as gr

    kept = (*values, *[None] * len(SLIDERS))
    return [
        gr.update(
            visible=each.visible and not (index == 0 and pixel_perfect), label=each.label,
            value=each.value if value is None or not each.minimum <= value <= each.maximum else value,
            minimum=each.minimum, maximum=each.maximum, step=each.step,
        )
        for index, (each, value) in enumerate(zip(choices.sliders(module), kept, strict=False))
    ]  # fmt: skip


def _offer(tag: str) -> choices.Offer:
    return choices.offer(tag, contents().offer(tag, services().files, current_base()))


def _choose_type(by_hand: bool, tag: str, pixel_perfect: bool, module: str, model: str) -> list[Any]:
    """Return the lists of a control type, with its first preprocessor and model if a user chose the type."""
    import gradio as gr

    found = _offer(tag)
    if not by_hand:
        lists = ((found.modules, module), (found.models, model))
        kept = [gr.update(choices=offered if value in offered else [*offered, value]) for offered, value in lists]
        return [*kept, *[gr.update()] * len(SLIDERS)]
    chosen = [gr.update(choices=found.modules, value=found.module), gr.update(choices=found.models, value=found.model)]
    return [*chosen, *slider_updates(found.module, pixel_perfect)]


def _options(model: str, kind: str, options: str) -> list[Any]:
    """Return the widgets for what the chosen model can be told; what it cannot be told must not act unseen."""
    import gradio as gr

    files = services().files
    found = choices.options(contents().of(files.find(model)[1]).offers if model in files.names else ())
    unknown = UNION_TYPES.label(UnionType.UNKNOWN)
    return [
        gr.update(
            visible=bool(found.kinds), choices=found.kinds or list(UNION_TYPES.labels),
            value=kind if kind in found.kinds else unknown,
        ),
        gr.update(visible=bool(found.all), placeholder=found.all, value=options if found.all else ""),
    ]  # fmt: skip


def about(module: str) -> str:
    """Return the line below the preprocessor: its licence, and why it cannot run, if it cannot."""
    runtime = services().preprocess.runtime
    text, runs = choices.about(module, runtime.store if runtime else None)
    return line(text, wrong=not runs)


def _choose_module(module: str, pixel_perfect: bool) -> list[Any]:
    return slider_updates(module, pixel_perfect)


def _arrange(module: str, pixel_perfect: bool) -> list[Any]:
    """Return the sliders of a preprocessor with the values that they have, and the line below it."""
    updates = slider_updates(module, pixel_perfect)
    return [*({key: value for key, value in each.items() if key != "value"} for each in updates), about(module)]


def _resolution(module: str, pixel_perfect: bool) -> Any:
    import gradio as gr

    return gr.update(visible=choices.sliders(module)[0].visible and not pixel_perfect)


def _refresh(tag: str, model: str) -> Any:
    import gradio as gr

    services().files.refresh()
    found = _offer(tag)
    return gr.update(choices=found.models, value=model if model in found.models else NO_MODEL)


def _connect_webcam(page: UnitPage) -> None:
    """Connect the webcam, which gradio 3 has instead of the upload, and gradio 4 beside it."""
    import gradio as gr

    webcam, mirror = page.extras["webcam"], page.extras["mirror"]
    if not is_old():
        webcam.visible = mirror.visible = False
        return
    state = gr.State({"source": "upload", "mirror": False})
    outputs = [page.fields["image"], state]

    def change(now: dict[str, Any], **changes: Any) -> Any:
        after = now | changes
        update = {"source": after["source"], "mirror_webcam": after["mirror"], "__type__": "update"}
        return update | ({"value": None} if after["source"] != now["source"] else {}), after

    on(webcam.click, lambda now: change(now, source="upload" if now["source"] == "webcam" else "webcam"),
       [state], outputs)  # fmt: skip
    on(mirror.click, lambda now: change(now, mirror=not now["mirror"]), [state], outputs)
