"""What a control unit means: plain values and tensor arithmetic, on torch and the standard library alone."""
