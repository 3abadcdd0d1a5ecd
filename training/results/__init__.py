"""What a training leaves: checkpoints, models, and their forms for other programs."""
