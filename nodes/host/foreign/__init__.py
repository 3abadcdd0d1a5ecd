"""What is not ours and acts under our units all the same: controls and model patches of the host and of other packs."""
