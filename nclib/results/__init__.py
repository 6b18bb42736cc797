"""What trained networks show: checkpoints measured, stored, read back, and turned into tables."""
