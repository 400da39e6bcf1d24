"""Figures and one self-contained HTML page from a work directory. This package never imports jax."""
