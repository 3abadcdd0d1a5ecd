"""Every error that ControlStack raises on purpose.

    ControlError
    ├── ModelError                  a control model cannot be used
    │   ├── UnsupportedModelError   no family of ours recognises the file
    │   ├── IncompatibleModelError  made for another base model
    │   └── DamagedModelError       unreadable, truncated, misshapen, or not finite
    ├── UnitError                   the settings of a unit contradict each other
    ├── HintError                   a control image or mask cannot be used
    ├── FileError                   a text or JSON file cannot be read
    ├── ScheduleError               a range or keyframe makes no sense
    ├── PreprocessorError           a preprocessor cannot run with what it was given
    │   └── MissingDependencyError  an optional package is not installed
    ├── DivergedError               a training whose numbers are not finite any more
    └── HostError                   the program around us cannot do what was asked

A message says what was given, what was expected, and what to do. The core raises; each edge translates once.
"""

from __future__ import annotations

from .wording import printable

LONGEST = 4000  # characters of a sentence; what a client or a file says may be any length
PACKAGE = "controlstack"  # the name under which all of them are public


class ControlError(Exception):
    """Base of all errors of ControlStack; its text is one sentence fit for a user."""

    __module__ = PACKAGE

    def __init_subclass__(cls) -> None:
        """Give an error its public name, which programs show beside the sentence: the folder's name is the user's."""
        super().__init_subclass__()
        cls.__module__ = PACKAGE

    def __str__(self) -> str:
        """Return the sentence on one line, printable, whatever it repeats; the middle of a long one is left out."""
        text = super().__str__()
        return printable(text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}")


class ModelError(ControlError):
    """A control model cannot be used."""


class UnsupportedModelError(ModelError):
    """No family recognises the file, or a setting that the file cannot tell is missing."""


class IncompatibleModelError(ModelError):
    """The control model and the base model do not fit together."""


class DamagedModelError(ModelError):
    """The file is unreadable, truncated, misshapen, or holds values that are not finite."""


class UnitError(ControlError):
    """The settings of a unit contradict each other or its model."""


class HintError(ControlError):
    """A control image, hint or mask cannot be used."""


class FileError(ControlError):
    """A text or JSON file is not there, unreadable, too large, or in a form that was not expected."""


class ScheduleError(ControlError):
    """A range or a keyframe makes no sense."""


class PreprocessorError(ControlError):
    """A preprocessor is unknown, or cannot run with what it was given."""


class MissingDependencyError(PreprocessorError):
    """A preprocessor needs a package that is not installed."""


class DivergedError(ControlError):
    """The loss or the gradients of a training are not finite any more."""


class HostError(ControlError):
    """The program around us cannot do what was asked."""
