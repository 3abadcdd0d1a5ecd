"""A study with people: pairs of pictures shown blindly on a page, and what their answers say."""
