"""The page of `controlstack serve`: units as cards, pictures and settings in a browser, and the same as an API."""
