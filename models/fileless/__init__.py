"""Control models without a file: what they are called, and what each does with the base model alone."""
