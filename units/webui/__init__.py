"""The dialect of sd-webui-controlnet: its fields, its names, and its texts, old ones included."""
