"""Training: devices, epochs, the loop, checkpoints and resuming. Knows no objective."""
