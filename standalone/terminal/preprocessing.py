"""`controlstack preprocess`: hints of any number of pictures, folders and videos, which may be interrupted and resumed.

A hint lies in the output folder as its picture does in the folder that was named, `sub/photo.jpg` as
`sub/photo-canny.png`. Every file appears complete or not at all, so whatever is there is done.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import FileError, HintError, PreprocessorError
from ...core.files import clear_leftovers, parse_json
from ...core.wording import counted
from ...preprocessors import Output, Preprocessor
from ...preprocessors.folders import Listing, list_pictures
from ...preprocessors.images import (
    count_frames,
    make_folder,
    read_frames,
    read_image,
    read_mask,
    suffixes,
    write_image,
)
from ...preprocessors.perform import Runtime
from ...preprocessors.texts import read_texts
from ..media.pose_files import SUFFIX as POSES
from ..media.pose_files import draw, draw_file, read_poses, write_poses
from ..media.sources import expand
from ..media.videos import SUFFIXES as VIDEOS
from ..media.videos import open_video, read_note, write_video

Image = NDArray[np.uint8]

KEY = "controlstack"  # of the settings in the text of a PNG file
BLOCK = 1 << 20  # bytes read at once
FRAMES_AT_ONCE = 8  # of a video that go through a network together
SHOWN = 5  # failures that are told in full


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What was asked for; `frames` makes of each video a folder of pictures, `resume` skips what is done.

    `poses` writes what a pose preprocessor finds as JSON too, as pose editors and ComfyUI read it.
    """

    preprocessor: Preprocessor
    sources: Sequence[Path]
    output: Path
    parameters: Mapping[str, float]
    resolution: int | None = None
    seed: int = 0
    mask: Path | None = None
    frames: bool = False
    poses: bool = False
    resume: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """One picture or video, and where its hint goes."""

    source: Path
    target: Path


@dataclass(frozen=True, slots=True)
class Done:
    """What a job came to, in files."""

    written: int
    skipped: int
    hints: int = 0  # of earlier runs, found in folders and left alone
    left_out: str = ""  # what else the folders held, such as "2 .txt"
    black: tuple[Path, ...] = ()  # hints on which nothing is to be seen


def run_job(job: Job, runtime: Runtime) -> Done:
    """Make all hints, with a bar on a terminal.

    A picture that cannot be read does not stop the others: HintError names it at the end. Everything else that is
    wrong (parameters, weights, an output folder that cannot be written) stops at once.
    """
    from ..progress import bar

    job.preprocessor.check_gives_hint()
    if job.preprocessor.output is Output.EMBEDDING:
        raise PreprocessorError(
            f"{job.preprocessor.id} gives what an image encoder sees, which no picture holds: name it in a unit of "
            "'controlstack generate'"
        )
    settings = job.preprocessor.settings(job.parameters)
    mask = _mask(job)
    if job.poses and not job.preprocessor.finds_poses:
        raise PreprocessorError(f"{job.preprocessor.id} finds no poses: leave --poses out, or choose dw_openpose_full")
    worker = _Worker(job, settings, mask, runtime)
    todo, hints, left_out = tasks(job)
    make_folder(job.output)
    for folder in {task.target.parent for task in todo}:
        clear_leftovers(folder)
    failures: list[HintError | FileError] = []
    written = 0
    for task in bar(todo, "files"):
        try:
            written += worker.perform(task)
        except (HintError, FileError) as error:
            failures.append(error)
    if failures:
        raise _failed(failures, len(todo), left_out)
    return Done(written, len(todo) - written, hints, left_out, tuple(worker.black))


def tasks(job: Job) -> tuple[list[Task], int, str]:
    """Return every picture and video of the sources, each once; how many hints of ours, and what else, lies there.

    HintError if there is no picture, or two would be one file.
    """
    sources = expand(job.sources)
    listings = [_of(source, job) for source in dict.fromkeys(sources)]
    everything = [task for listed, _ in listings for task in listed]
    others = Listing((), sum((left_out for _, left_out in listings), Counter())).remark()
    found = [task for task in everything if task.source in sources or not is_hint(task.source)]
    if not found:
        besides = (
            f" but {counted(len(everything), 'hint')} of earlier runs"
            if everything
            else f" but {others}"
            if others
            else ""
        )
        places = ", ".join(map(str, job.sources))
        raise HintError(f"there are no pictures in {places}{besides}: known are {' '.join((*suffixes(), *VIDEOS))}")
    count = Counter(task.target for task in found)
    distinct = [task if count[task.target] == 1 else _with_suffix(task, job) for task in found]
    taken: dict[Path, Path] = {}
    for task in distinct:
        other = taken.setdefault(task.target, task.source)
        if other != task.source:
            raise HintError(f"{other} and {task.source} would both become {task.target}: name their folders' parent")
    return [Task(source, target) for target, source in taken.items()], len(everything) - len(found), others


def is_hint(path: Path) -> bool:
    """Return whether a file says that this command made it: a folder may hold the hints of an earlier run."""
    told = read_note(path) if path.suffix.lower() == ".mp4" else _metadata(path)
    try:
        settings = parse_json(told, str(path)) if told else None
    except FileError:  # somebody else's words under the same name
        return False
    return isinstance(settings, dict) and "preprocessor" in settings


class _Worker:
    """A job on its way, with what all its pictures share."""

    def __init__(self, job: Job, settings: Mapping[str, float], mask: Image | None, runtime: Runtime) -> None:
        self.job, self.mask, self.runtime, self.settings = job, mask, runtime, settings
        self.options: dict[str, Any] = {**settings, "resolution": job.resolution, "seed": job.seed, "runtime": runtime}
        if mask is not None:
            self.options["mask"] = mask
        self.told = {"preprocessor": job.preprocessor.id, "version": job.preprocessor.version, **settings}
        if mask is not None:
            self.told["mask"] = hashlib.blake2b(mask.tobytes(), digest_size=8).hexdigest()
        self.told |= {"resolution": job.resolution, "seed": job.seed}
        self._source, self._metadata = Path(), {KEY: ""}
        self.black: list[Path] = []

    def metadata(self, source: Path) -> dict[str, str]:
        """Return what a hint of this file says of itself: the settings, and the file's content, whatever its date."""
        if source != self._source:  # a video is read once for all its frames
            said = {**self.told, "source": _digest(source)}
            self._source, self._metadata = source, {KEY: json.dumps(said)}
        return self._metadata

    def perform(self, task: Task) -> bool:
        """Make the hint of a task if it is not there; return whether anything had to be done."""
        if _is_video(task.source):
            return self._video_to_folder(task) if self.job.frames else self._video(task)
        if not task.target.suffix:
            return self._frames_to_folder(task)
        if self._done(task.target, task.source):
            return False
        self._write(task, task.target, self._picture(task))
        return True

    def _picture(self, task: Task) -> Image:
        """Return the hint of a picture, or of poses in a file of one frame."""
        if task.source.suffix.lower() == POSES:
            return next(draw_file(task.source, self.job.preprocessor, self.job.resolution, self.settings))
        image = read_image(task.source)
        if self.mask is not None and self.mask.shape != image.shape[:2]:
            wrong, right = (f"{wide}x{high}" for high, wide in (self.mask.shape, image.shape[:2]))
            raise HintError(f"the mask is {wrong}, expected the size of {task.source}, {right}: give one of that size")
        return self._made(image, task.target)

    def _frames_to_folder(self, task: Task) -> bool:
        """Make one hint of each frame of an animation, page, or frame of poses; resumed one by one."""
        wrote = False
        drawn = task.source.suffix.lower() == POSES
        if drawn:
            frames = draw_file(task.source, self.job.preprocessor, self.job.resolution, self.settings)
        else:
            frames = read_frames(task.source)
        for number, frame in enumerate(frames, start=1):
            target = task.target / f"{number:06d}.png"
            if not self._done(target, task.source):
                self._write(task, target, frame if drawn else self._made(frame, target))
                wrote = True
        return wrote

    def _made(self, image: Image, target: Path) -> Image:
        """Return the hint of a picture; if asked for, write its poses beside the target first."""
        if not self.job.poses:
            return self._hint(image)
        (found,) = self.job.preprocessor.poses(image, resolution=self.job.resolution, runtime=self.runtime)
        make_folder(target.parent)
        write_poses(target.with_suffix(POSES), found)
        return draw(found, self.job.preprocessor, self.settings)

    def _hint(self, image: Image) -> Image:
        return self.job.preprocessor(image, **self.options)

    def _write(self, task: Task, target: Path, hint: Image) -> None:
        """Write a hint; the mask of an inpaint hint is written first: the hint says that both are there."""
        make_folder(target.parent)
        said = self.metadata(task.source)
        if hint.shape[-1] == 4:
            write_image(target.with_name(f"{target.stem}-mask.png"), hint[..., 3], said)
        write_image(target, hint[..., :3], said)
        if not hint[..., :3].any():
            self.black.append(target)

    def _done(self, target: Path, source: Path) -> bool:
        """Return whether it is there, of the same content and settings, and its poses where they are wanted."""
        if not (self.job.resume and target.is_file() and source.is_file()):
            return False
        told = read_note(target) if _is_video(target) else _metadata(target)
        said = self.metadata(source)[KEY]
        return told == said and (not self.job.poses or target.with_suffix(POSES).is_file())

    def _video(self, task: Task) -> bool:
        if self.job.preprocessor.output is Output.MASKED:
            raise HintError(f"{task.source}: {self.job.preprocessor.id} has a mask, which no video holds: use --frames")
        if self.job.poses:
            raise HintError(f"{task.source}: poses are one file a picture: use --frames")
        if self._done(task.target, task.source):
            return False
        with open_video(task.source) as clip:
            make_folder(task.target.parent)
            write_video(
                task.target,
                clip.rate,
                self._hints(_shown(clip.frames, clip.expected)),
                note=self.metadata(task.source)[KEY],
            )
        return True

    def _hints(self, frames: Iterable[Image]) -> Iterator[Image]:
        chunk: list[Image] = []
        for frame in frames:
            chunk.append(frame)
            if len(chunk) == FRAMES_AT_ONCE:
                yield from self._hint(np.stack(chunk))
                chunk.clear()
        if chunk:
            yield from self._hint(np.stack(chunk))

    def _video_to_folder(self, task: Task) -> bool:
        """Make one hint of each frame, resumed one by one; return whether anything had to be done."""
        wrote = False
        with open_video(task.source) as clip:
            for number, frame in enumerate(_shown(clip.frames, clip.expected), start=1):
                target = task.target / f"{number:06d}.png"
                if not self._done(target, task.source):
                    self._write(task, target, self._made(frame, target))
                    wrote = True
        return wrote


def _mask(job: Job) -> Image | None:
    """Return the mask, if there is one; HintError unless the preprocessor wants what it is given."""
    name = job.preprocessor.id
    if job.preprocessor.takes_mask and job.mask is None:
        raise HintError(f"{name} needs --mask FILE, a picture that is white where the model is to invent")
    if job.mask is not None and not job.preprocessor.takes_mask:
        raise HintError(f"{name} takes no mask: leave --mask out, or choose an inpaint preprocessor")
    return None if job.mask is None else read_mask(job.mask)


def _of(source: Path, job: Job) -> tuple[list[Task], Counter[str]]:
    """Return what is to be done with one source, and what is left out of it, counted by suffix."""
    if not source.is_dir():
        return [Task(source, _target(source, Path(), job))], Counter()
    if source.resolve() == job.output.resolve():
        raise HintError(f"{source} is the output folder too, and hints would become pictures: choose another --output")
    listing = list_pictures(source, deep=True, also=VIDEOS, outside=job.output)
    if not listing.files and job.preprocessor.finds_poses:
        listing = list_pictures(source, deep=True, also=(POSES,), outside=job.output)
    found = [Task(path, _target(path, path.parent.relative_to(source), job)) for path in listing.files]
    return found, Counter(listing.left_out)


def _target(source: Path, below: Path, job: Job, name: str = "") -> Path:
    suffix = "" if _frames_in(source) > 1 else ".png"
    if _is_video(source):
        suffix = "" if job.frames else ".mp4"
    return job.output / below / f"{name or source.stem}-{job.preprocessor.id}{suffix}"


def _frames_in(source: Path) -> int:
    """Return how many pictures, or frames of poses, a file holds; of one that is damaged, some number above 1.

    What is wrong with it is said when its turn comes, by whoever reads all of it.
    """
    try:
        return count_frames(source) if source.suffix.lower() != POSES else len(read_poses(source))
    except (FileError, HintError):
        return 2


def _with_suffix(task: Task, job: Job) -> Task:
    """Return the task under its full name: `a.jpg` and `a.png` of one folder become `a-jpg` and `a-png`."""
    below = task.target.parent.relative_to(job.output)
    return Task(task.source, _target(task.source, below, job, task.source.name.replace(".", "-")))


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEOS


def _digest(path: Path) -> str:
    """Return a short digest of a file's content."""
    found = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def _metadata(path: Path) -> str | None:
    """Return the settings that a PNG file says it was made with."""
    if path.suffix.lower() != ".png":
        return None
    try:
        return read_texts(path).get(KEY)
    except HintError:  # not one of ours: it is made again
        return None


def _shown(frames: Iterator[Image], expected: int) -> Iterable[Image]:
    from ..progress import bar

    return bar(frames, "frames", expected)


def _failed(failures: Sequence[HintError | FileError], total: int, left_out: str) -> HintError | FileError:
    if total == 1:
        return failures[0]
    more = f"; and {len(failures) - SHOWN} more" if len(failures) > SHOWN else ""
    told = "; ".join(str(error) for error in failures[:SHOWN])
    others = f"; left out {left_out}" if left_out else ""
    return HintError(f"{len(failures)} of {total} files could not be used, the others are done: {told}{more}{others}")
