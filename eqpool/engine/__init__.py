"""Training of a stage: devices, epochs, the loop, checkpoints and resuming. The engine knows no objective."""
