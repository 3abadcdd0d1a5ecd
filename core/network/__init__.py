"""The base network, as controls see it: its widths, its rows, where they act on it, and how."""
