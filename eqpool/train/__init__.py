"""Training: pure jitted steps, one loop, and each stage's assembly of losses. Defines no loss of its own."""
