"""Files of full size that hold nothing but a true header."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

Shapes = dict[str, tuple[int, ...]]
BYTES = {"F16": 2, "BF16": 2, "F32": 4}


def write_sparse(path: Path, shapes: Shapes, dtype: str = "F16") -> Path:
    """A file with the header of a real one, whose tensors are a hole: as long as the real one, of no size on disk."""
    at, header = 0, {}
    for name, shape in shapes.items():
        end = at + math.prod(shape) * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    return path
