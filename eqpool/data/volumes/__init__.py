"""Volumes: where they are, how they are read, aligned, prepared and batched."""
