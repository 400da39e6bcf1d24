"""Numerical primitives that the maths of this package shares."""
