"""Options of command lines that may be said but once."""

from __future__ import annotations

import argparse
from typing import Any


class Once(argparse.Action):
    """An option of which people expect that several add up: said twice, it is refused, and not taken from the last."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        """Take the value of the option."""
        before = getattr(namespace, self.dest)
        if before is not None:
            parser.error(f"{self.option_strings[0]} is given twice, '{before}' and '{values}': give one")
        setattr(namespace, self.dest, values)
