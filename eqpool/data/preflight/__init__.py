"""Whether a design can be identified: the numbers, the findings and the requirements."""
