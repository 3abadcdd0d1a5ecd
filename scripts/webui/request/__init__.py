"""The way of a request: what was said, the units that it means, the passes, and the run around the sampling."""
