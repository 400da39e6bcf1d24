"""The papers' tables and what was measured beside them: `python -m experiments` lists the experiments."""
