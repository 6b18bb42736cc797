"""Training one network: the loop, resuming, device and precision, progress."""
