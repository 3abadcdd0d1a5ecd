"""The embedded edge: a host of our own on diffusers, with a command line."""
