"""Base models, control models and LoRAs by name: a short catalogue, and everything else as `owner/name` of the hub."""
