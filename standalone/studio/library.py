"""What a page offers by name: base models and control models of the folders that its server was started with.

Visitors say names and never paths, so nothing can be opened that whoever started the server did not name. What a file
is and what its hints show is read from its header; a file that cannot be used stays in the list of refusals.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...core.errors import ControlError, HostError
from ...core.files import files_below
from ...core.network.base import SDXL_CONTEXT, Base
from ...core.options import Option
from ...models.files.finding import PICKLES, SAFETENSORS
from ...models.files.loading import read_header
from ...models.kinds.fileless import FILELESS
from ...models.kinds.references import REFERENCES
from ...models.registry import identify, made_for, offered
from ...pipelines import tiny_world
from ...pipelines.bases import context_width
from ...units.convention import Convention, convention_of, said_by
from ...units.offer import REFERENCE, REVISION
from ...units.request import AUTO, NONE

UNKNOWN = "checked when it is loaded"  # instead of a family: old formats would have to be read whole


@dataclass(frozen=True, slots=True)
class Known:
    """A control model as it is offered."""

    name: str
    path: Path
    family: str
    says: str  # about its hints; empty if it says nothing
    options: tuple[Option, ...] = ()  # what units may tell it
    made_for: Base | None = None  # None where the file does not tell before it is loaded
    unfit: str = ""  # why it can act on none of the base models that are offered
    reads: str | None = None  # of a model without a file, the preprocessor; None for one with a file

    @property
    def label(self) -> str:
        """Return what a list shows: the name with the family, and why it cannot act here."""
        return f"{self.name} · {self.family}{f' – {self.unfit}' if self.unfit else ''}"

    @property
    def convention(self) -> Convention | None:
        """Return the preprocessor that its file names, if it names one of ours."""
        return convention_of(self.says)


@dataclass(frozen=True, slots=True)
class Library:
    """Base models and control models by name, and the sentences about files that are none."""

    bases: Mapping[str, Path]
    models: Mapping[str, Known]
    refusals: tuple[str, ...] = ()
    loras: Mapping[str, Path] = field(default_factory=dict[str, Path])

    def base(self, name: str) -> Path:
        """Return the path of a base model. HostError for a name that is not offered."""
        if name not in self.bases:
            raise HostError(f"there is no base model '{name}' here: choose one of {', '.join(self.bases)}")
        return self.bases[name]

    def model(self, name: str) -> Known:
        """Return a control model. HostError for a name that is not offered."""
        if name not in self.models:
            known = ", ".join(self.models) or "none: start the server with --models FOLDER"
            raise HostError(f"there is no control model '{name}' here: choose one of {known}")
        return self.models[name]

    def lora(self, name: str) -> Path:
        """Return the path of a LoRA. HostError for a name that is not offered."""
        if name not in self.loras:
            known = ", ".join(self.loras) or "none: start the server with --loras FOLDER"
            raise HostError(f"there is no LoRA '{name}' here: choose one of {known}")
        return self.loras[name]

    def lora_of(self, path: str) -> str:
        """Return the name of the LoRA with a file of this name, wherever it lay; empty if there is none."""
        wanted = Path(path).name
        found = [name for name, each in self.loras.items() if wanted in (each.name, each.stem, name)]
        return found[0] if found else ""

    def name_of(self, path: str) -> str:
        """Return the name of the model with a file of this name, wherever it lay; empty if there is none."""
        file = Path(path).name
        found = [each.name for each in self.models.values() if file in (each.path.name, each.path.stem, each.name)]
        return found[0] if found else ""

    @property
    def tiny(self) -> bool:
        """Return whether the shipped tiny world is what is offered."""
        return tiny_world.BASE in self.bases.values()


def make_library(bases: Sequence[Path], folders: Sequence[Path], loras: Sequence[Path] = ()) -> Library:
    """Return what base models and folders of control models and LoRAs offer; the shipped tiny world without any base.

    HostError for a path that is not there, and for two base models of one name.
    """
    if missing := [path for path in (*bases, *folders, *loras) if not path.exists()]:
        raise HostError(f"there is no '{missing[0]}': give a file or folder that is there")
    named = {path.stem if path.is_file() else path.resolve().name: path for path in bases}
    if len(named) < len(bases):
        raise HostError("two base models have the same name: rename one of their files or folders")
    if not bases:
        named, folders = {"tiny world": tiny_world.BASE}, [tiny_world.CONTROLS, tiny_world.MEMBERS, *folders]
    models: dict[str, Known] = {}
    refusals: list[str] = []
    for name, path in _named(folders, refusals).items():
        try:
            models[name] = _known(name, path)
        except ControlError as error:
            refusals.append(str(error))
    added = _named(loras, refusals)
    own = _fitting_first({**models, **{name: _fileless(name) for name in FILELESS}}, [*named.values()])
    return Library(named, own, tuple(refusals), added)


def _fitting_first(models: Mapping[str, Known], bases: Sequence[Path]) -> dict[str, Known]:
    """Return the models with those at the end, and told why, that were made for none of the base models."""
    widths = {context_width(path) for path in bases}
    told = {
        name: replace(each, unfit=f"for {each.made_for.name}")
        if each.made_for is not None and not _fits_one(each.made_for, widths)
        else each
        for name, each in models.items()
    }
    return dict(sorted(told.items(), key=lambda pair: bool(pair[1].unfit)))


def _fits_one(made_for: Base, widths: Collection[int | None]) -> bool:
    """Return whether a model may fit one of the base models, which are U-Nets with prompts of these widths."""
    if made_for.transformer is not None:
        return False
    return made_for.context is None or None in widths or made_for.context in widths


def _named(folders: Sequence[Path], refusals: list[str]) -> dict[str, Path]:
    """Return the model files of folders by name: that without suffix, else with it, for the second of one name.

    refusals: takes a sentence for each file that is left out.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        for path in _files(folder, refusals):
            inside = Path(path.name) if path == folder else path.relative_to(folder)
            name = next((each for each in (inside.with_suffix(""), inside) if each.as_posix() not in found), None)
            if name is None:
                refusals.append(f"'{path}' has the name of '{found[inside.as_posix()]}': rename one of them")
            else:
                found[name.as_posix()] = path
    return found


def _files(folder: Path, refusals: list[str]) -> list[Path]:
    """Return the model files of a folder and the folders in it; a file is its own folder."""
    if folder.is_file():
        return [folder]
    try:
        inside = [*files_below(folder)]
    except OSError as error:
        reason = error.strerror or error
        raise HostError(f"the folder '{folder}' cannot be read ({reason}): look at its rights") from error
    refusals += [f"the folder '{path}' cannot be read: look at its rights" for path in inside if path.is_dir()]
    found = [path for path in inside if path.suffix.lower() in (SAFETENSORS, *PICKLES) and not path.is_dir()]
    if not found:
        refusals.append(f"there is no model file in '{folder}': name another folder, or put one there")
    return found


def _fileless(name: str) -> Known:
    if name in REFERENCES:
        return Known(name, Path(name), REFERENCE, "", FILELESS[name], reads=NONE)
    return Known(name, Path(name), REVISION, "", FILELESS[name], Base(context=SDXL_CONTEXT), reads=AUTO)


def _known(name: str, path: Path) -> Known:
    if path.suffix.lower() in PICKLES:
        return Known(name, path, UNKNOWN, "")
    header = read_header(path)
    return Known(name, path, identify(header).title, said_by(path), offered(path), made_for(header))
