"""Kinds of hints and of references that one model knows, by their names alone, so that edges start at once."""
