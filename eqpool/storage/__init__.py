"""What a run keeps on disk: files that are whole or absent, the run folder, checkpoints and logs."""
