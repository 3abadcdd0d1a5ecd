"""ControlLLLite for Anima: small networks before the projections of a transformer's blocks."""
