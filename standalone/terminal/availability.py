"""`controlstack preprocess --list`: every preprocessor, whether it can run now, and under which licences."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence

from ...preprocessors import ABSENT, REGISTRY, Preprocessor
from ...preprocessors.networks.network import INSTALLER, WeightFile, file_name, licences, missing_packages, size_of
from ...preprocessors.networks.store import Store
from ...preprocessors.perform import Runtime
from ...preprocessors.registry import names
from ..progress import download_bar


def table(runtime: Runtime, words: Sequence[str] = ()) -> Iterator[str]:
    """Yield a line for each preprocessor whose names or control types hold one of the words."""
    shown = [each for each in (*REGISTRY, *ABSENT) if _matches(each, words)]
    width = max((len(each.id) for each in shown), default=0)
    for each in shown:
        yield f"{each.id:<{width}}  {state(each, runtime)}"


def state(preprocessor: Preprocessor, runtime: Runtime) -> str:
    """Return whether it is ready, or why not, and the licences of its weights, as text."""
    if preprocessor.absent:
        return f"left out: {preprocessor.absent}"
    if preprocessor.no_hint:
        return f"not for units: {preprocessor.no_hint}"
    known = licences(preprocessor.networks)
    under = f" [weights: {known}]" if known else ""
    if reason := missing_packages(preprocessor.networks):
        return f"unavailable: {reason}{under}"
    if missing := runtime.store.missing(preprocessor.networks):
        wanted = ", ".join(f"{file.name} ({_size(file)})" for file in missing)
        return f"needs weights: {wanted}; --download gets them{under}"
    return f"ready{under}"


def models_table() -> Iterator[str]:
    """Yield a line for each model of the catalogue: size, licence, source, and whether it is here."""
    from ..hub.catalogue import CATALOGUE
    from ..hub.places import find_model

    width = max(len(each.name) for each in CATALOGUE)
    for each in CATALOGUE:
        here = "here" if find_model(each.name) is not None else "not here"
        yield f"{each.name:<{width}}  {each.about}, {each.size}, {each.licence}, {each.repository} [{here}]"


def get_packages() -> int:
    """Add every package that preprocessors use to this Python, moving nothing; return the installer's exit code."""
    return subprocess.run([sys.executable, str(INSTALLER), "preprocessors"], check=False).returncode


def download_missing(preprocessor: Preprocessor, store: Store) -> None:
    """Fetch the files that are nowhere, each with a bar; PreprocessorError if an address does not deliver."""
    for file in store.missing(preprocessor.networks):
        with download_bar(file_name(file)) as report:
            store.fetch(file, report)


def _matches(preprocessor: Preprocessor, words: Sequence[str]) -> bool:
    text = " ".join((*names(preprocessor), *preprocessor.control_types)).lower()
    return not words or any(word.lower() in text for word in words)


def _size(file: WeightFile) -> str:
    return f"{file.bytes / 10**6:,.1f} MB" if file.bytes else size_of(file) or "size unknown"
