"""Real multi-site tables: raw, ComBat, the paper's baselines and ours, nothing fitted outside the fold."""
