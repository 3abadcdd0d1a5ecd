"""What a training says and shows while it runs: its start, bar, numbers, curve, and sheets of samples."""
