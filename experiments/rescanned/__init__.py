"""Pooling measured on real brains with a known second scanner."""
