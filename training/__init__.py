"""Training and evaluation of control models."""
