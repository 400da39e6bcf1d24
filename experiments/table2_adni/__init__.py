"""Table 2 of paper A, ADNI."""
