"""The base network: its shape, the two ways in which units act on it, and what tells which part of it computes now."""
