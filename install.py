"""Make ControlStack run: inside a host's Python, or in a virtual environment of its own.

    python install.py                     what a host calls at each start; see "In a host"
    python install.py demo [-- options]   draw the demo sheet (`controlstack demo`)
    python install.py serve [-- options]  open the page in a browser (`controlstack serve`)
    python install.py test [-- options]   run the tests (pytest)

Standard library only, because it runs before anything is installed. Python 3.10 or later; the file parses on any
Python 3, so that an older one answers with a sentence.

On its own (`demo`, `serve`, `test`): `.venv` beside this file is made or reused, the extras of pyproject.toml that the
command needs are installed into it with the versions of constraints.txt, and the command runs in it. A stamp in `.venv` says
what is installed; while it holds, the next run starts at once and never asks pip. A `.venv` whose making was
interrupted is made anew; one that somebody else made is used and added to, never deleted. No other Python is touched.

In a host (no arguments): packages that are missing are added to the Python that runs this file. When none is missing
it prints nothing, imports nothing heavy, and does not start pip. Nothing that is installed ever moves: pip gets a
constraints file with the exact version of every installed package, wheels only. torch and numpy belong to the host: if
one is absent, this is not the host's Python, so one sentence says so and nothing is installed. Any package that
brings `cv2` counts as OpenCV, because two of them in one environment overwrite each other. Exit code 1 tells the host
that ControlStack cannot work yet: the WebUIs then print our sentence, ComfyUI-Manager reports a failed installation,
and all of them start regardless; with exit code 0 the sentence would be hidden by some of them.
"""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

OLDEST: tuple = (3, 10)  # a SyntaxError in this line means: this Python is too old, ControlStack needs 3.10 or later
if sys.version_info < OLDEST:
    sys.exit("ControlStack needs Python %d.%d or later, and this is Python %d.%d." % (OLDEST + sys.version_info[:2]))  # noqa: UP031

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = "controlstack.json"  # in .venv: what is installed there, or that its making has begun
EXTRAS = {
    "demo": ("standalone",),
    "serve": ("standalone", "page-parts"),
    "test": ("standalone", "test", "train", "page-parts"),
}
ALONE = {  # by extra: what is installed without its requirements, which would move others
    "test": ("controlnet-aux",),
    "page-parts": ("gradio", "gradio-client", "hf-gradio", "safehttpx"),
}
INTERRUPTED = 130  # exit code of a shell command that Ctrl-C ended

HOST_OWNS = ("torch", "numpy")  # never installed, never moved
HOST_NEEDS = {"safetensors": "safetensors>=0.4", "cv2": "opencv-python-headless>=4.8"}  # import name: requirement

# Would send pip or Python out of the virtual environment.
LEAKS = ("PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "__PYVENV_LAUNCHER__")


class InstallError(Exception):
    """The installation cannot go on; the text is one sentence for the user."""


def main(arguments: list[str]) -> int:
    """Run one of the forms of the docstring above and return the exit code."""
    try:
        if not arguments:
            return complete_host()
        command, options = arguments[0], arguments[1:]
        if command not in EXTRAS:
            raise InstallError(
                f"'{command}' is no command of install.py: use demo, serve, test, or nothing inside a host."
            )
        return run_in_venv(command, options[1:] if options[:1] == ["--"] else options)
    except InstallError as error:
        print(f"ControlStack: {error}", flush=True)
        return 2 if arguments and arguments[0] not in EXTRAS else 1
    except KeyboardInterrupt:
        print("\nControlStack: stopped.", flush=True)
        return INTERRUPTED


# --- In a host -------------------------------------------------------------------------------------------------------


def complete_host() -> int:
    """Add what the running Python lacks; 0 when nothing is missing afterwards."""
    absent = [name for name in HOST_OWNS if not importable(name)]
    if absent:
        raise InstallError(
            f"{' and '.join(absent)} not found in {sys.executable}: run install.py with the Python of ComfyUI or of "
            "the WebUI, or run 'python install.py demo', which makes an environment of its own."
        )
    missing = [requirement for name, requirement in HOST_NEEDS.items() if not importable(name)]
    if missing:
        add_to_host(missing)
    return 0


def importable(name: str) -> bool:
    """Whether a real module of this top-level name would be found; it is not imported."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None  # a folder left behind has a spec, but no origin


def add_to_host(missing: list[str]) -> None:
    wanted = " ".join(missing)
    if not importable("pip"):
        raise InstallError(f"{wanted} missing, and {sys.executable} has no pip: install them there by other means.")
    print(f"ControlStack: installing {wanted}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder, "constraints.txt")
        pins.write_text("\n".join(installed_versions()) + "\n", encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        code = call([*pip, "--only-binary=:all:", "--constraint", str(pins), *missing])
    if code:
        raise InstallError(
            f"pip could not add {wanted} without moving what is installed (its own words are above): install it by "
            f"hand into {sys.executable}, then start again."
        )


def installed_versions() -> list[str]:
    """Every installed package as name==version, so that pip may add but not move; torch, numpy and OpenCV with them."""
    from importlib.metadata import distributions  # not there before Python 3.8, and not needed at most starts

    plain = re.compile(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.!+_-]*")  # pip refuses a whole file for one odd line
    found = {f"{each.metadata['Name']}=={each.version}" for each in distributions()}
    return sorted(line for line in found if plain.fullmatch(line))


# --- On its own ------------------------------------------------------------------------------------------------------


def run_in_venv(command: str, options: list[str]) -> int:
    prepare_venv(EXTRAS[command])
    print(f"ControlStack: running {' '.join([command, *options])}", flush=True)
    if command == "test":  # from the root, whatever the current folder: pytest reads its settings there
        return call([str(venv_program("python")), "-m", "pytest", *options], cwd=ROOT, env=clean_environment())
    return call([str(venv_program("controlstack")), command, *options], env=clean_environment())


def prepare_venv(extras: tuple[str, ...]) -> None:
    """Make `.venv` hold these extras of this checkout; no process is started if the stamp says that it does."""
    stamp = read_stamp()
    usable = (VENV / "pyvenv.cfg").is_file() and venv_program("python").exists()
    if stamp.get("making") or (stamp and not usable):
        remove_venv()
        stamp, usable = {}, False
    if VENV.exists() and not usable:
        raise InstallError(f"{VENV} exists, but is no working virtual environment: move it away, then start again.")
    made = not usable
    if made:
        make_venv()
    inputs = hash_of_inputs()
    have = set(stamp.get("extras", ())) if stamp.get("inputs") == inputs else set()
    if set(extras) <= have:
        return
    install(sorted(have | set(extras)))
    write_stamp({"inputs": hash_of_inputs(), "extras": sorted(have | set(extras))})


def remove_venv() -> None:
    print(f"ControlStack: {VENV} is incomplete; making it anew", flush=True)
    try:
        shutil.rmtree(VENV)
    except OSError as error:
        raise InstallError(f"{VENV} cannot be removed ({error}): close what uses it, then start again.") from error


def make_venv() -> None:
    print(f"ControlStack: making {VENV}", flush=True)
    VENV.mkdir()
    write_stamp({"making": True})
    base = getattr(sys, "_base_executable", None) or sys.executable  # the venv must not depend on another venv
    if call([base, "-m", "venv", str(VENV)], env=clean_environment()):
        remove_venv()
        raise InstallError(
            f"{base} cannot make virtual environments: install its venv and ensurepip modules (on Debian and Ubuntu "
            "the package python3-venv)."
        )


def install(extras: list[str]) -> None:
    print(f"ControlStack: installing {', '.join(extras)} into {VENV} (a first time downloads PyTorch)", flush=True)
    pip = [str(venv_program("python")), "-m", "pip", "install", "--disable-pip-version-check"]
    # "." and a relative path: neither brackets nor blanks in the folder's name can be misread.
    targets = [["--editable", f".[{','.join(extras)}]"]]
    alone = [name for extra in extras for name in ALONE.get(extra, ())]
    targets += [["--no-deps", *alone]] if alone else []
    pinned = ["--constraint", "constraints.txt"]
    if any(call([*pip, *pinned, *target], cwd=ROOT, env=clean_environment()) for target in targets):
        raise InstallError("pip failed, and its own words are above: check the network and the free disk, try again.")


def venv_program(name: str) -> Path:
    return VENV / "Scripts" / f"{name}.exe" if os.name == "nt" else VENV / "bin" / name


def hash_of_inputs() -> str:
    """Changes with whatever decides what is installed: the two files, the venv's Python, and where it all lies."""
    parts = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
    parts += [(VENV / "pyvenv.cfg").read_bytes(), os.fsencode(ROOT)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def read_stamp() -> dict:
    """The stamp of `.venv`, or {} where there is none that can be read."""
    try:
        stamp = json.loads((VENV / STAMP).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:  # half-written
        return {"making": True}
    return stamp if isinstance(stamp, dict) else {"making": True}


def write_stamp(stamp: dict) -> None:
    (VENV / STAMP).write_text(json.dumps(stamp) + "\n", encoding="utf-8")


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in LEAKS}


def call(command: list[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> int:
    """Run a program to its end and return its exit code.

    Ctrl-C reaches the program as well; it gets the time to clean up, a second Ctrl-C ends it. Then KeyboardInterrupt.
    """
    with subprocess.Popen(command, cwd=cwd, env=env) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            try:
                process.wait()
            except KeyboardInterrupt:
                process.kill()
            raise
    return code if code >= 0 else 128 - code  # ended by a signal: as a shell would say it


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
