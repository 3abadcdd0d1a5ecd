"""Hints of poses: bodies, hands, faces and animals, found, read from JSON, and drawn."""
