"""The side of the WebUI: the program and its settings, base model and memory, and the folders of models."""
