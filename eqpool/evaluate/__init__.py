"""Metrics, probes and statistics of a trained run. This package never imports training."""
