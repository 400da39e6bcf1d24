"""Metrics, probes and statistics of a trained run; never imports training."""
