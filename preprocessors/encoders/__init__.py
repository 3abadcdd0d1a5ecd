"""Image encoders: what they see in a picture goes to control models as numbers, not as another picture."""
