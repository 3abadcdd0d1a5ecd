"""The evaluation of one's own pictures, or of a model that draws them."""
