"""Training data: listings of the layouts that people have, the check before the first step, and encoded examples."""
