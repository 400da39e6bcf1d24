"""Calibration of the simulated cohort, and what of its known truth pooling recovers."""
