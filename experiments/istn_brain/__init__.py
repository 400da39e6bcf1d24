"""Paper B, Tables 2 and 3: sex and age from brains of two sites."""
