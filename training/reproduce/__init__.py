"""What the two papers say, tried on the tiny world: experiments, their numbers, and the page made of them."""
