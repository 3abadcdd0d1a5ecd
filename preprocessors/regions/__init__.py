"""Hints of regions: what is where, in flat colours."""
