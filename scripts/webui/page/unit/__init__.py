"""One unit of the page: its widgets, what they do, and the preview of its hint."""
