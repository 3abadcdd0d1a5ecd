"""The commands of the standalone edge: what is said on a terminal, and what is printed there."""
