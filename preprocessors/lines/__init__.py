"""Hints of lines: edges, contours, line art, strokes."""
