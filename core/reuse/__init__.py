"""Reuse across steps: what a unit says about it, and the residuals that a run keeps for it."""
