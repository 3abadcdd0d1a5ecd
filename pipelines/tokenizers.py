"""The tokenizer of every Stable Diffusion, made from its table of byte pairs: no checkpoint file holds it.

CLIP's vocabulary (Radford et al. 2021) follows from the table: the letters of byte-level encoding, the same at the end
of a word, one token for each pair, start and end.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parent / "clip" / "merges.txt.gz"
LENGTH = 77  # tokens of a prompt, start and end included
START, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"
ZERO = "!"  # the token of id 0, with which OpenCLIP fills a prompt; CLIP repeats the end


def make_tokenizer(folder: Path, fill: str = END) -> Any:
    """Return a transformers CLIPTokenizer, whose files are written into the folder; it fills prompts with `fill`."""
    from transformers import CLIPTokenizer

    lines = gzip.decompress(TABLE.read_bytes()).decode("utf-8").splitlines()
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": LENGTH,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": fill,
    }
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary(lines[1:]), ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def vocabulary(pairs: list[str]) -> dict[str, int]:
    """Return token -> id, from the byte pairs in order of priority."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    merged = ["".join(pair.split()) for pair in pairs]
    tokens = [*letters, *(letter + END_OF_WORD for letter in letters), *merged, START, END]
    return {token: index for index, token in enumerate(tokens)}
