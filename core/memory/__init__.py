"""What is computed once and kept: tensors under keys up to a bound, and what a run keeps between steps."""
