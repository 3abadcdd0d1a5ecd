"""Which part of the picture a call draws: regions of prompts, and tiles of upscalers."""
