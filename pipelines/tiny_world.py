"""Where the shipped tiny world lies, and what its models were trained on."""

from __future__ import annotations

from pathlib import Path

TINY = Path(__file__).parent / "tiny"
BASE, CONTROLS, MEMBERS, IMAGES = TINY / "base", TINY / "controls", TINY / "members", TINY / "images"
SIDE = 128  # pixels of a picture's side
CELL = 8  # pixels of a cell of the colour grid that the color control reads
CANNY_LOW, CANNY_HIGH = 50, 100  # thresholds of the edges that the canny control reads
STEPS = 20  # of DDIM, enough for its pictures
