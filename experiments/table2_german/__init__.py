"""Table 2 of paper A, German credit."""
