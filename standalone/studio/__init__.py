"""What a page does, without a page: models by name, requests from what was said, runs that are watched, comparisons."""
