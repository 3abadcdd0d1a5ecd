"""What shapes a unit's weight: over the run, over the blocks of its network, over the pictures of a batch."""
