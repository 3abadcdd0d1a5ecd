"""What networks of preprocessors need, whatever they show: weights, packages, loading, and a pool that keeps them."""
