"""The commands of eqpool, and their shared parts."""
