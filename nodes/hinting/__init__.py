"""Nodes that make hints of pictures, and the words by which old graphs and the search find them."""
