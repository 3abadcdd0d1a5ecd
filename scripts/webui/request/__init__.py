"""The way of a request: what was said, pictures and hints, the passes, and the run around the sampling."""
