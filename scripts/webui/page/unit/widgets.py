"""One unit of the page: its widgets, under the ids that users' styles and other extensions know."""

# pyright: reportMissingImports=false, reportCallIssue=false
# The host's own modules exist only inside it; its gradio has other parameters than the one of the standalone page.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .....core.reuse.said import Level
from .....units.choices import BASES, HIRES, MODES, RESIZES, UNION_TYPES
from .....units.offer import ALL
from .....units.webui.fields import NO_MODEL, NO_MODULE, InputMode, UnitArgs
from .....units.webui.fileless import TYPES
from ...request.arguments import FIELDS, THRESHOLDS
from ...request.services import services
from .. import choices
from ..gradio_shim import described_once, on, picture, shown

PICTURE_HEIGHT = 300  # pixels
BASIS_INFO = (
    "webui: as sd-webui-controlnet does; steps: exact parts of the steps; noise: along the noise schedule, as Forge"
)
REUSES = ["off", *(level.value for level in Level)]
SLIDERS = ("processor_res", *THRESHOLDS)


@dataclass(kw_only=True)
class UnitPage:
    """The widgets of a unit by the name of their field, and the helpers around them."""

    tab: str  # txt2img or img2img
    index: int
    fields: dict[str, Any] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)

    @property
    def arguments(self) -> list[Any]:
        """Return the widgets in the order of the script's arguments."""
        return [self.fields[name] for name in FIELDS]

    def id(self, name: str) -> str:
        """Return the id of an element of the page, in sd-webui-controlnet's form."""
        return f"{self.tab}_controlnet_ControlNet-{self.index}_{name}"

    def pick(self, *names: str) -> list[Any]:
        """Return some of the widgets by the names of their fields."""
        return [self.fields[name] for name in names]


def build_unit(tab: str, index: int) -> UnitPage:
    """Draw a unit inside the current container."""
    page = UnitPage(tab=tab, index=index)
    _pictures(page)
    _switches(page)
    _models(page)
    _numbers(page)
    _modes(page)
    _more(page)
    return page


# --- Widgets -------------------------------------------------------------------------------------------------------


def _pictures(page: UnitPage) -> None:
    import gradio as gr

    with gr.Tabs(elem_id=page.id("input_tabs"), elem_classes=["cnet-input-tabs"]):
        with gr.Tab("Single Image") as single:
            _single_picture(page)
        with gr.Tab("Batch") as batch:
            page.fields["batch_folder"] = gr.Textbox(
                label="Input Directory", elem_id=page.id("batch_image_dir"),
                placeholder="A folder of the server: one picture is made for each picture in it",
            )  # fmt: skip
            page.fields["output_folder"] = gr.Textbox(
                label="Output Directory", elem_id=page.id("batch_output_dir"),
                placeholder="Leave empty to save where the WebUI saves",
            )  # fmt: skip
        with gr.Tab("Multi-Inputs") as several:
            several_pictures = gr.File(
                label="Pictures, each with its share of the weight", file_count="multiple", file_types=["image"],
                elem_id=page.id("multi_images"),
            )  # fmt: skip
            page.fields["multi_images"] = described_once(several_pictures)
    page.fields["input_mode"] = mode = gr.State(InputMode.SIMPLE.value)
    for each, value in ((single, InputMode.SIMPLE), (batch, InputMode.BATCH), (several, InputMode.MERGE)):
        on(each.select, lambda value=value: value.value, outputs=[mode])


def _single_picture(page: UnitPage) -> None:
    import gradio as gr

    with gr.Row(elem_classes=["cnet-image-row"], equal_height=True):
        with gr.Group(elem_classes=["cnet-input-image-group"]):
            page.fields["image"], page.fields["drawn"] = picture(
                "Image" if page.tab == "txt2img" else "Image (or that of img2img)",
                page.id("input_image"),
                draw=True,
                height=PICTURE_HEIGHT,
            )
        with gr.Group(visible=False, elem_classes=["cnet-generated-image-group"]) as page.extras["preview_group"]:
            page.extras["preview"] = shown("Preprocessor Preview", page.id("generated_image"), height=PICTURE_HEIGHT)
        with gr.Group(visible=False, elem_classes=["cnet-mask-image-group"]) as page.extras["mask_group"]:
            page.fields["mask"], _ = picture("Mask", page.id("mask_image"), height=PICTURE_HEIGHT)
        with gr.Group(visible=False, elem_classes=["cnet-region-image-group"]) as page.extras["region_group"]:
            page.fields["effective_region_mask"], page.fields["region_drawn"] = picture(
                "Effective Region",
                page.id("effective_region_mask"), draw=True, height=PICTURE_HEIGHT,
            )  # fmt: skip
    with gr.Row(elem_classes=["cnet-image-controls"]):
        poses = gr.UploadButton(
            "⇪ JSON", file_types=[".json"], elem_id=page.id("controlnet_pose_upload"), elem_classes=["tool"],
            size="sm", tooltip="Draw the poses of a JSON file, and take them as the picture",
        )  # fmt: skip
        page.extras["pose_file"] = described_once(poses)
        tool(page, "canvas", "🖌", "An empty canvas of the result's size, to draw on", "controlnet_canvas_button")
        tool(page, "take_txt2img", "🖼 txt2img", "Take the selected picture of txt2img", "controlnet_take_txt2img")
        tool(page, "take_img2img", "🖼 img2img", "Take the selected picture of img2img", "controlnet_take_img2img")
        tool(page, "webcam", "📷", "Take pictures with the webcam, or upload them", "controlnet_webcam_enable")
        tool(page, "mirror", "⇄", "Mirror the webcam", "controlnet_webcam_mirror")
        tool(page, "dimensions", "⤴", "Make width and height those of the picture", "controlnet_send_dimen_button")

    page.extras["pose"] = gr.HTML(elem_id=page.id("pose"), elem_classes=["cnet-pose"])
    # What a pose editor sends back; the page's script fills it and presses the button.
    page.extras["pose_text"] = gr.Textbox(elem_id=page.id("pose_text"), elem_classes=["cnet-unseen"])
    page.extras["pose_sent"] = gr.Button(elem_id=page.id("pose_sent"), elem_classes=["cnet-unseen"])


def tool(page: UnitPage, name: str, text: str, tooltip: str, elem_id: str) -> None:
    """Draw a small button."""
    from modules.ui_components import ToolButton

    page.extras[name] = ToolButton(value=text, elem_id=page.id(elem_id), tooltip=tooltip)


def _switches(page: UnitPage) -> None:
    from modules.ui_components import FormRow

    with FormRow(elem_classes=["cnet-main-options"]):
        _checkbox(page, "enabled", "Enable", "enable", classes=["cnet-unit-enabled"],
                  tooltip="Let this unit control the next pictures")  # fmt: skip
        _checkbox(page, "low_vram", "Low VRAM", "low_vram",
                  tooltip="Layers visit the device only to compute: less memory, slower")  # fmt: skip
        _checkbox(page, "pixel_perfect", "Pixel Perfect", "pixel_perfect",
                  tooltip="The preprocessor works at the resolution that the result needs")  # fmt: skip
        _checkbox(page, "show_preview", "Allow Preview", "preprocessor_preview", classes=["cnet-allow-preview"],
                  tooltip="Show what the preprocessor makes of the picture")  # fmt: skip
        _checkbox(page, "show_mask", "Use Mask", "mask_upload",
                  tooltip="Give a mask as a picture: white is where an inpainting preprocessor invents")  # fmt: skip
        _checkbox(page, "show_region", "Effective Region Mask", "effective_region",
                  tooltip="Let the unit act in one part: paint it, or give a picture that is white there")  # fmt: skip


def _checkbox(
    page: UnitPage, name: str, label: str, stem: str, *, value: bool = False, classes: Sequence[str] = (),
    tooltip: str | None = None,
) -> None:  # fmt: skip
    import gradio as gr

    box = gr.Checkbox(
        label=label, value=value, elem_id=page.id(f"controlnet_{stem}_checkbox"), elem_classes=list(classes),
        tooltip=tooltip,
    )  # fmt: skip
    (page.fields if name in FIELDS else page.extras)[name] = box


def _models(page: UnitPage) -> None:
    import gradio as gr
    from modules.ui_components import FormRow

    page.extras["by_hand"] = gr.Checkbox(label="", visible=False)  # whether somebody clicked on a type just now
    page.extras["type"] = gr.Radio(
        label="Control Type", choices=list(TYPES), value=ALL,
        elem_id=page.id("controlnet_type_filter_radio"), elem_classes=["controlnet_control_type"],
    )  # fmt: skip
    with FormRow(elem_classes=["controlnet_preprocessor_model"]):
        page.fields["module"] = gr.Dropdown(
            label="Preprocessor", choices=choices.modules(), value=NO_MODULE,
            elem_id=page.id("controlnet_preprocessor_dropdown"),
        )  # fmt: skip
        tool(page, "run", "💥", "Run the preprocessor and show what it makes", "controlnet_trigger_preprocessor")
        page.fields["model"] = gr.Dropdown(
            label="Model", choices=[NO_MODEL, *services().files.names], value=NO_MODEL,
            elem_id=page.id("controlnet_model_dropdown"),
        )  # fmt: skip
        tool(page, "refresh", "🔄", "Look for models again", "controlnet_refresh_models")
    page.extras["said"] = gr.HTML(elem_id=page.id("said"), elem_classes=["cnet-plan"])
    page.extras["about"] = gr.HTML(elem_id=page.id("about"), elem_classes=["cnet-plan"])


def _numbers(page: UnitPage) -> None:
    import gradio as gr
    from modules.ui_components import FormRow

    with FormRow(elem_classes=["controlnet_weight_steps"]):
        for name, label, stem, value, top in (
            ("weight", "Control Weight", "control_weight", 1.0, choices.SHOWN_WEIGHT),
            ("guidance_start", "Starting Control Step", "start_control_step", 0.0, 1.0),
            ("guidance_end", "Ending Control Step", "ending_control_step", 1.0, 1.0),
        ):
            page.fields[name] = gr.Slider(
                label=label, value=value, minimum=0.0, maximum=top, step=0.01 if top == 1 else 0.05,
                elem_id=page.id(f"controlnet_{stem}_slider"),
            )  # fmt: skip
    page.extras["plan"] = gr.HTML(elem_id=page.id("plan"), elem_classes=["cnet-plan"])
    stems = ("preprocessor_resolution", *(f"threshold_{name[-1].upper()}" for name in THRESHOLDS))
    labels = ("Preprocessor Resolution", *(f"Threshold {name[-1].upper()}" for name in THRESHOLDS))
    for name, stem, label, slider in zip(SLIDERS, stems, labels, choices.sliders(NO_MODULE), strict=True):
        page.fields[name] = gr.Slider(
            label=label, value=slider.value, minimum=slider.minimum, maximum=slider.maximum, step=slider.step,
            visible=slider.visible, elem_id=page.id(f"controlnet_{stem}_slider"),
        )  # fmt: skip


def _modes(page: UnitPage) -> None:
    defaults = choices.display(UnitArgs())
    for name, label, options, elem_id in (
        ("control_mode", "Control Mode", MODES.labels, "controlnet_control_mode_radio"),
        ("resize_mode", "Resize Mode", RESIZES.labels, "controlnet_resize_mode_radio"),
        ("hr_option", "Hires-Fix Option", HIRES.labels, "controlnet_hr_option_radio"),
    ):
        page.fields[name] = _radio(page, label, options, defaults[name], elem_id)


def _radio(page: UnitPage, label: str, options: Sequence[str], value: str, elem_id: str, info: str = "") -> Any:
    import gradio as gr

    return gr.Radio(label=label, choices=list(options), value=value, elem_id=page.id(elem_id), info=info or None)


def _more(page: UnitPage) -> None:
    import gradio as gr
    from modules.ui_components import FormRow

    defaults = choices.display(UnitArgs())
    with gr.Accordion("Schedule, union type, loopback", open=False, elem_id=page.id("more")):
        basis = BASES.label(services().program.basis)
        page.fields["range_basis"] = _radio(
            page, "Steps are counted as", BASES.labels, basis, "range_basis_radio", BASIS_INFO
        )
        page.fields["curve"] = gr.Textbox(
            label="Weight Curve", placeholder="0: 1; 0.5: 0.3 ease-in; 1: 0", elem_id=page.id("weight_curve"),
            tooltip="Place in the run: weight there; between two places it goes from one to the other",
        )  # fmt: skip
        page.fields["block_weights"] = gr.Textbox(
            label="Block Weights", placeholder="1 1 1 0.5", elem_id=page.id("advanced_weighting"),
            tooltip="One number for each block, the middle last, times the weight; they replace the control mode",
        )  # fmt: skip
        page.fields["union_control_type"] = gr.Dropdown(
            label="Union Control Type", choices=list(UNION_TYPES.labels), value=defaults["union_control_type"],
            elem_id=page.id("controlnet_union_control_type_dropdown"),
            tooltip="What the hint shows; Unknown: what the preprocessor makes of it",
            visible=False,  # until a union is chosen
        )  # fmt: skip
        page.fields["options"] = gr.Textbox(
            label="Model Options", max_lines=1, elem_id=page.id("controlnet_options"),
            tooltip="Of the chosen model, by name, with semicolons between; union_control_type=depth+tile:0.5 are two "
            "kinds of hints in one pass",
            visible=False,  # until a model is chosen that has some
        )  # fmt: skip
        page.fields["reuse"] = gr.Dropdown(
            label="Reuse Across Steps", choices=REUSES, value=defaults["reuse"], allow_custom_value=True,
            elem_id=page.id("controlnet_reuse_dropdown"),
            tooltip="Add again on later steps what was computed before, which is faster: off, light, strong, the steps "
            "that are computed (0 1 2 5 9), or change:0.1",
        )  # fmt: skip
        with FormRow():
            page.fields["resolution"] = gr.Textbox(
                label="Exact Resolution", placeholder="Empty: as above", max_lines=1,
                elem_id=page.id("controlnet_exact_resolution"),
                tooltip="Short side of the hint in pixels, whatever the slider can show; 0 is the picture's own size",
            )  # fmt: skip
            page.fields["preprocessor_seed"] = gr.Textbox(
                label="Preprocessor Seed", placeholder="Empty: that of the result", max_lines=1,
                elem_id=page.id("controlnet_preprocessor_seed"),
                tooltip="For preprocessors that draw random numbers, such as shuffle",
            )  # fmt: skip
            page.fields["delta_strength"] = gr.Slider(
                label="Weight Changes", value=1.0, minimum=0.0, maximum=choices.SHOWN_WEIGHT, step=0.05,
                elem_id=page.id("controlnet_delta_strength_slider"),
                tooltip="For models that change weights of the base model; 1 is as they were made",
            )  # fmt: skip
        with FormRow():
            _checkbox(page, "inpaint_crop_input_image", "Crop input image based on A1111 mask", "crop", value=True)
            _checkbox(page, "loopback", "[Loopback] Use each picture for the next one",
                      "automatically_send_generated_images")  # fmt: skip
