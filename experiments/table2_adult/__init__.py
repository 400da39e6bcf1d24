"""Table 2 of paper A, Adult census."""
