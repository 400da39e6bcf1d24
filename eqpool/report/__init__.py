"""Figures and one self-contained page from a work directory. Never imports jax."""
