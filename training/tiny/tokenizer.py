"""A real CLIP tokenizer with a tiny vocabulary: each word of the tiny world is one token.

The vocabulary starts with all byte-level characters, as CLIP's does, so any other prompt still tokenises, letter by
letter.
"""

from __future__ import annotations

import json
from pathlib import Path

from .scenes import KINDS, NAMES

WORDS = ("a", "an", "and", "on", *NAMES, *KINDS)
LENGTH = 16  # tokens of a prompt, start and end included
END_OF_WORD = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return (token -> id, merges in order of priority), as `vocab.json` and `merges.txt` hold them."""
    letters = list(_byte_letters())
    tokens = letters + [letter + END_OF_WORD for letter in letters]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = _merge([*word[:-1], word[-1] + END_OF_WORD], merges)
        while len(pieces) > 1:  # what earlier words leave unmerged
            merges.append((pieces[0], pieces[1]))
            pieces = ["".join(merges[-1]), *pieces[2:]]
            tokens.append(pieces[0])
    return {token: index for index, token in enumerate([*tokens, START, END])}, merges


def write_tokenizer(folder: Path) -> None:
    """Write the files that `CLIPTokenizer.from_pretrained(folder)` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens, merges = vocabulary()
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": LENGTH,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
    }
    (folder / "vocab.json").write_text(json.dumps(tokens, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _merge(pieces: list[str], merges: list[tuple[str, str]]) -> list[str]:
    """Join pieces by byte-pair encoding: the earliest merge first, wherever it fits."""
    for a, b in merges:
        merged: list[str] = []
        for piece in pieces:
            if merged and (merged[-1], piece) == (a, b):
                merged[-1] += piece
            else:
                merged.append(piece)
        pieces = merged
    return pieces


def _byte_letters() -> list[str]:
    """Return one printable letter per byte, as GPT-2's and CLIP's byte-level encoding defines them."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = (byte for byte in range(256) if byte not in printable)
    return [chr(byte) for byte in printable] + [chr(256 + k) for k, _ in enumerate(others)]
