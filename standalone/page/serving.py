"""`controlstack serve`: a page in the browser, and the same as an API, on this machine unless told otherwise."""

# pyright: reportMissingImports=false
# gradio is an extra of its own, which not every environment has.

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.files import path_of
from ...core.wording import print_line

if TYPE_CHECKING:
    from ..studio.running import Studio

HOST, PORT = "127.0.0.1", 7860
LOCAL = (HOST, "localhost", "::1")  # addresses that no other machine reaches
LAST_PORT = 2**16 - 1
LARGEST = 32  # MB of an upload
QUEUED = 64  # requests that wait
UPLOADS = "GRADIO_TEMP_DIR"  # the variable that tells gradio where to keep files
EXAMPLES = """examples:
  controlstack serve --open
  controlstack serve --base sd15.safetensors --models models/ControlNet --dtype fp16 --host 0.0.0.0 --auth me:secret
"""


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.epilog = EXAMPLES
    add = parser.add_argument_group("what is offered").add_argument
    several = {"type": path_of, "action": "append", "default": []}
    add("--base", **several, help="diffusers folder or checkpoint file; may be repeated "
        "(default: the shipped tiny world)")  # fmt: skip
    add("--models", **several, metavar="FOLDER", help="control models; may be repeated")
    add("--loras", **several, metavar="FOLDER", help="LoRAs of the bases; may be repeated")
    add("--captioner", type=path_of, metavar="FOLDER", help="a model that describes pictures, for automatic prompts "
        "(default: BLIP where 'controlstack get' brought it)")  # fmt: skip
    add("--download", action="store_true", help="get the weights that preprocessors miss when they are used")
    add = parser.add_argument_group("who reaches it").add_argument
    add("--host", default=HOST, help="address to listen on; the default is this machine alone (default: %(default)s)")
    add("--port", type=int, default=PORT, help="to listen on")
    add("--auth", action="append", default=[], metavar="NAME:PASSWORD", help="who may come in; may be repeated")
    add("--largest-upload", type=int, default=LARGEST, metavar="MB", help="of a picture")
    add("--open", action="store_true", help="open the page in the browser")
    add = parser.add_argument_group("device").add_argument
    add("--device", default="auto", metavar="NAME", help="such as cuda or cpu; auto is the GPU if PyTorch has one")
    add("--dtype", choices=("fp32", "fp16", "bf16"), default="fp32", help="precision of the networks")
    add("--offload", choices=("none", "model", "sequential"), default="none", help="what leaves the GPU between uses")
    parser.set_defaults(run=run_serve)


def run_serve(args: argparse.Namespace) -> int:
    """Serve the page until an interrupt."""
    people = read_people(args.auth)
    check_numbers(args)
    with tempfile.TemporaryDirectory(prefix="controlstack-") as folder:
        studio = make_studio(args, Path(folder))
        for sentence in studio.library.refusals:
            print_line(f"left out: {sentence}")
        page = launch(studio, args, people, blocking=False)
        studio.warm()
        if args.host not in LOCAL and not people:
            print_line("WARNING: everybody who reaches this machine may use the page: give --auth NAME:PASSWORD")
        print_line(f"The page is at {page.local_url} - Ctrl-C ends it.")
        try:
            page.block_thread()
        finally:
            studio.close()
            page.close(verbose=False)
    return 0


def check_numbers(args: argparse.Namespace) -> None:
    """Raise HostError for a port that no machine has, or an upload of no size, before anything is loaded."""
    from ...core.errors import HostError

    if not 1 <= args.port <= LAST_PORT:
        raise HostError(f"--port is {args.port}, expected 1 to {LAST_PORT}: the usual one is {PORT}")
    if args.largest_upload < 1:
        raise HostError(f"--largest-upload is {args.largest_upload}, expected 1 or more (MB): the usual is {LARGEST}")


def make_studio(args: argparse.Namespace, folder: Path) -> Studio:
    """Return the studio of a command line. folder: where uploads and pictures lie."""
    from ...core.errors import MissingDependencyError
    from ...preprocessors.networks.pool import find_device
    from ..prompts import find_captioner
    from ..studio.library import make_library

    os.environ[UPLOADS] = str(folder / "uploads")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    for name in ("NO_PROXY", "no_proxy"):  # gradio asks its own server for something, which no proxy can answer
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), *LOCAL, args.host)))
    library = make_library(args.base, args.models, args.loras)
    captioner = find_captioner(args.captioner)
    find_device(args.device)
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            'the page needs gradio: run `python install.py serve`, or pip install "controlstack[page]"'
        ) from error
    from ..studio.running import Studio

    return Studio(
        library, folder / "pictures", device=args.device, dtype=args.dtype, offload=args.offload,
        download=args.download, captioner=captioner,
    )  # fmt: skip


def read_people(pairs: Sequence[str]) -> list[tuple[str, str]]:
    """Return who may come in, each with a password. HostError for what is no NAME:PASSWORD."""
    from ...core.errors import HostError

    people = [tuple(pair.partition(":")[::2]) for pair in pairs]
    if any(not name or not password for name, password in people):
        raise HostError("--auth expects NAME:PASSWORD, and one of both is empty")
    return [(name, password) for name, password in people]


def launch(studio: Studio, args: argparse.Namespace, people: Sequence[tuple[str, str]], *, blocking: bool) -> Any:
    """Serve the page of a studio and return it."""
    from starlette.middleware import Middleware

    from ...core.errors import HostError
    from .endpoints import Endpoints
    from .guard import MEGA, Guard
    from .page import build_page
    from .words import translations

    page = build_page(studio).queue(max_size=QUEUED)
    folder = Path(__file__).parent
    guard = Middleware(Guard, largest=2 * args.largest_upload * MEGA, endpoints=Endpoints(page), uploads=uploads())
    try:
        page.launch(
            server_name=args.host,
            server_port=args.port,
            auth=list(people) or None,
            prevent_thread_lock=not blocking,
            inbrowser=args.open,
            quiet=True,
            share=False,
            show_error=True,
            max_file_size=args.largest_upload * MEGA,
            app_kwargs={"middleware": [guard]},
            footer_links=["api", "settings"],
            i18n=translations(),
            theme=_theme(),
            css_paths=[folder / "page.css"],
            js=(folder / "page.js").read_text(encoding="utf-8"),
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            run_history=False,
            _frontend=False,  # which only leaves out a question to itself, answered within three seconds or an error
        )
    except OSError as error:
        raise HostError(f"{args.host}:{args.port} cannot be listened on ({error}): give another --port") from error
    return page


def uploads() -> Path:
    """Return where gradio keeps what was uploaded, and what it shows."""
    return Path(os.environ[UPLOADS])


def _theme() -> Any:
    """Return colours whose contrast is at least 4.5, and fonts of the visitor's own machine."""
    import gradio as gr

    fonts: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return gr.themes.Default(primary_hue="teal", neutral_hue="slate", **fonts).set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        button_primary_text_color="white",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        slider_color="*primary_600",
        slider_color_dark="*primary_500",
    )
