"""LoRAs of a base model: their files, and how they are put on for a run."""
