"""Hints of surfaces: how near they are, and which way they face."""
