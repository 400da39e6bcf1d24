"""Experiments that reproduce the papers' tables and more. `python -m experiments` lists them."""
