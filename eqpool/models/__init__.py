"""Flax Linen networks: the only package of eqpool that imports flax. Import each from its own module."""
