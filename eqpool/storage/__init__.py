"""A run's data on disk: complete or absent files, the run folder, checkpoints and logs."""
