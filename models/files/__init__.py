"""Files of control models: which a path means, what they hold, and how it is read."""
